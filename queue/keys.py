"""The names of a queue's keys in Redis. They carry the namespace: two queues of the same name never meet."""

from urllib.parse import quote

from write_batcher.models import QueueRef


def key_prefix(queue: QueueRef) -> str:
    """Return what the keys of the queue, but not those of its partitions, begin with."""
    return f"write-batcher:{_quoted(queue)}"


def turns_key(queue: QueueRef) -> str:
    """Return the key of the turns in which the drains of the queue begin transactions."""
    return f"{key_prefix(queue)}:turns"


def target_key(queue: QueueRef) -> str:
    """Return the key of what the drains of the queue know of a target that is away."""
    return f"{key_prefix(queue)}:target"


class PartitionKeys:
    """The keys of one partition. On a cluster they are in one slot, that of what stands in braces."""

    def __init__(self, queue: QueueRef, partition: int) -> None:
        prefix = f"write-batcher:{{{_quoted(queue)}/{partition}}}"
        self.stream_key = f"{prefix}:requests"
        self.live_key = f"{prefix}:live"
        self.dead_key = f"{prefix}:dead"
        self.counters_key = f"{prefix}:counters"
        self.dead_ids_key = f"{prefix}:dead-ids"
        self.alone_key = f"{prefix}:alone"
        self.held_key = f"{prefix}:held"
        self.orders_key = f"{prefix}:orders"
        self.reader_key = f"{prefix}:reader"
        self.waking_key = f"{prefix}:waking"

    @property
    def appending_keys(self) -> list[str]:
        """Those that a caller needs, in the order of scripts/keys.lua."""
        return [self.stream_key, self.live_key, self.dead_key, self.counters_key, self.dead_ids_key]

    @property
    def keys(self) -> list[str]:
        """All that hold data, in the order of scripts/keys.lua."""
        return [*self.appending_keys, self.alone_key, self.held_key, self.orders_key]


def _quoted(queue: QueueRef) -> str:
    """Without braces, slashes and colons, whatever is in the names."""
    return f"{quote(queue.namespace, safe='')}/{quote(queue.name, safe='')}"
