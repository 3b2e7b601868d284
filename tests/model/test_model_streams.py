"""The streams of the model against the product's scripts."""

from fakeredis import FakeAsyncRedis
from hypothesis import given, strategies as st

from tests.support.model.fixes import Fix
from tests.support.model.protocol import Protocol
from tests.support.model.rules import Scenario
from tests.support.model.world import Call, Entry
from tests.support.partitions import all_entries, appended, die, queue_ref
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.stream import WriteQueue

CALLS = (Call("a", "shared"), Call("b", "shared"), Call("c", "own"))
STEPS = st.lists(
    st.tuples(st.sampled_from(("append", "acknowledge", "reject", "replay")), st.integers(0, 2)), max_size=20
)


@given(STEPS)
async def test_model_keeps_streams_as_the_scripts_do(steps: list[tuple[str, int]]) -> None:
    scenario = Scenario(name="streams", calls=CALLS, faults={})
    streams = Protocol(scenario, frozenset(Fix)).streams
    world = scenario.initial()
    redis = FakeAsyncRedis()
    queue, letters = WriteQueue(redis, queue_ref("q"), 0), DeadLetters(redis, queue_ref("q"), 0)
    for action, number in steps:
        entries, dead = await all_entries(queue), await letters.page()
        if action == "append":
            await appended(queue, CALLS[number].request_id, reply=CALLS[number].name.encode())
            world = streams.appended(world, number)
        elif action == "replay" and number < len(dead):
            await letters.replay(dead[number])
            world = streams.replayed(world, world.letters[number])
        elif action == "reject" and number < len(entries):
            await die(queue, entries[number])
            world = streams.acknowledged(world, world.stream[number], rejected=True)
        elif action == "acknowledge" and number < len(entries):
            await queue.acknowledge([(entries[number], "written")])
            world = streams.acknowledged(world, world.stream[number], rejected=False)
        assert named(world.stream) == [_named(entry.fields) for entry in await all_entries(queue)]
        assert named(world.letters) == [_named(letter.fields) for letter in await letters.page()]
    await redis.aclose()


def named(entries: tuple[Entry, ...]) -> list[tuple[bytes, bool]]:
    return [(CALLS[entry.call].name.encode(), entry.replayed) for entry in entries]


def _named(fields: dict[bytes, bytes]) -> tuple[bytes, bool]:
    return fields[b"reply"], b"replayed" in fields
