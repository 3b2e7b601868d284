import pytest
from redis import exceptions

from write_batcher.errors import QueueFull, QueueUnavailable
from write_batcher.queue.redis_client import FIXED_OPTIONS, GroupMissing, connect, translated_errors

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
        (OSError("no route to host"), QueueUnavailable, r"cannot be reached: no route to host\.$"),
        (TimeoutError(), QueueUnavailable, r"cannot be reached: TimeoutError\.$"),
    ],
)
async def test_error_of_redis_py_becomes_an_error_of_the_queue(
    error: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(QueueUnavailable, match=text) as raised, translated_errors():
        raise error
    assert type(raised.value) is kind


@pytest.mark.parametrize("url", ["rediss://h", "redis+cluster://h,i", "redis+sentinel://h/set", "redis://h?db=1"])
@pytest.mark.parametrize("option", FIXED_OPTIONS)
def test_fixed_option_is_refused_with_its_name_and_value(url: str, option: str) -> None:
    url += "&" if "?" in url else "?"
    with pytest.raises(ValueError, match=f"option {option}=3 cannot be chosen, .*: remove it"):
        connect(f"{url}{option}=3")


def test_fixed_option_of_the_sentinels_is_refused_too() -> None:
    with pytest.raises(ValueError, match="option sentinel_protocol=3 cannot be chosen"):
        connect("redis+sentinel://h/set?sentinel_password=p&sentinel_protocol=3")


async def test_other_options_of_the_url_reach_the_connection() -> None:
    redis = connect("rediss://h?client_name=orders&socket_connect_timeout=1&health_check_interval=30&ssl_ca_certs=/ca")
    chosen = redis.connection_pool.connection_kwargs
    await redis.aclose()
    assert (chosen["client_name"], chosen["socket_connect_timeout"], chosen["ssl_ca_certs"]) == ("orders", 1, "/ca")
