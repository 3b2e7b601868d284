import pytest
from redis import exceptions

from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.queue.connections import GroupMissing, translated_errors

SCRIPT = "Error running script (call to f_8d0f9469): @user_script:15: "


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (exceptions.OutOfMemoryError("command not allowed"), QueueFull, "raise its maxmemory"),
        (exceptions.ResponseError(f"{SCRIPT}@user_script: 15: -OOM command not allowed"), QueueFull, "out of memory"),
        (exceptions.ResponseError("NOGROUP No such key"), GroupMissing, "No such key"),
        (exceptions.ResponseError(f"{SCRIPT}NOGROUP No such key"), GroupMissing, "No such key"),
        (exceptions.ResponseError("UNBLOCKED the stream key no longer exists"), GroupMissing, "no longer exists"),
        (exceptions.ResponseError(f"{SCRIPT}attempt to call a nil value"), QueueUnavailable, "refuses"),
        (exceptions.MovedError("7 10.0.0.2:6379"), QueueUnavailable, r"write redis\+cluster://"),
        (exceptions.ClusterDownError("CLUSTERDOWN Hash slot not served"), QueueUnavailable, "not served"),
        (exceptions.RedisClusterException("no reachable node"), QueueUnavailable, "cannot be reached"),
        (exceptions.ReadOnlyError("a replica"), QueueUnavailable, "refuses"),
        (OSError("no route to host"), QueueUnavailable, "cannot be reached"),
    ],
)
async def test_errors_of_the_driver_become_ours(error: Exception, kind: type[Exception], text: str) -> None:
    with pytest.raises(QueueUnavailable, match=text) as raised, translated_errors():
        raise error
    assert type(raised.value) is kind
