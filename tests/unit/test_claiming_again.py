"""An owner whose claim was followed by one of a newer generation does not claim again before it is assigned anew."""

import pytest

from tests.one_partition import OnePartition
from tests.waiting import eventually
from turnlog_schemas.events import PARTITION, EventHeader, PartitionClaimed
from turnlog_streams.reader_rule import LOG_FORMAT


async def claimed_by_another(world: OnePartition, generation: int) -> None:
    """Its next owner is there already; ours has not heard of the assignment."""
    header = EventHeader(
        stream_kind=PARTITION, stream_id="0", stream_version=0, epoch=-1, n=-1, accepted=-1, replied=-1, recorded_at=1
    )
    claim = PartitionClaimed(
        owner="other",
        incarnation="q.1",
        generation=generation,
        partition_count=1,
        requests_topic_id="t",
        log_format=LOG_FORMAT,
    )
    await world.log.append(0, [world.log.encode(header, claim, b"0")])
    assert world.shard.serving is not None
    world.shard.serving.notice(len(world.log.records), 0, patience_s=3600.0)


@pytest.mark.parametrize("kept_through", [0, 1, 3], ids=lambda count: f"{count} assignments since its claim")
async def test_it_waits_for_the_next_assignment(kept_through: int) -> None:
    async with OnePartition() as world:
        membership = world.context.membership
        for generation in range(1, 1 + kept_through):
            membership.take_assignment(generation, 0.0)
        await claimed_by_another(world, kept_through + 1)
        await eventually(lambda: world.shard.serving is None, "it is released")
        claims = world.claims
        for other in ("a", "b"):  # a while in which it could claim: something else is served, from claim to answer
            async with OnePartition() as elsewhere:
                elsewhere.chat(other, f"{other}-1")
                await eventually(lambda: elsewhere.sender.to(f"{other}-1"), "that is answered")  # noqa: B023
        assert world.claims == claims
        membership.take_assignment(kept_through + 2, 0.0)
        await eventually(lambda: world.shard.serving is not None, "it is served again")
        assert world.claims == claims + 1
