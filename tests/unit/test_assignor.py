"""Who gets which partitions: evenly, and what one has one keeps."""

from types import SimpleNamespace

import pytest
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from turnlog_workers.membership.assignor import Holding, KeepingAssignor, assign

TOPIC = "chat.requests"
CLUSTER = SimpleNamespace(partitions_for_topic=lambda topic: set(range(12)) if topic == TOPIC else None)


def holding(*partitions: int, generation: int = 1) -> Holding:
    return Holding(generation=generation, partitions=frozenset(partitions))


@given(
    st.integers(0, 20),
    st.dictionaries(
        st.sampled_from("abcdefg"),
        st.builds(Holding, generation=st.integers(-1, 3), partitions=st.frozensets(st.integers(0, 25), max_size=20)),
        min_size=1,
    ),
)
def test_each_partition_is_assigned_once_and_evenly(count: int, holdings: dict[str, Holding]) -> None:
    plan = assign(range(count), holdings)
    assert sorted(partition for mine in plan.values() for partition in mine) == list(range(count))
    sizes = [len(mine) for mine in plan.values()]
    assert len(plan) == len(holdings)
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 24), st.integers(1, 6), st.data())
def test_nothing_moves_that_need_not(count: int, members: int, data: st.DataObject) -> None:
    before = assign(range(count), {f"m{number}": Holding() for number in range(members)})
    told = {member: holding(*mine) for member, mine in before.items()}
    assert assign(range(count), told) == before
    leaver = data.draw(st.sampled_from(sorted(told)))
    stay = {member: told[member] for member in told if member != leaver}
    for member, mine in assign(range(count), stay).items():
        assert set(before[member]) <= set(mine)
    joined = assign(range(count), told | {"new": Holding()})
    moved = sum(len(set(before[member]) - set(joined[member])) for member in before)
    assert moved == len(joined["new"])


def test_of_two_that_claim_a_partition_the_newer_generation_has_it() -> None:
    plan = assign(range(4), {"zombie": holding(0, 1, generation=4), "owner": holding(0, 1, generation=6)})
    assert plan == {"owner": [0, 1], "zombie": [2, 3]}
    expelled = assign(range(4), {"expelled": holding(0, 1, generation=-1), "member": holding(2, 3)})
    assert expelled == {"expelled": [0, 1], "member": [2, 3]}


def joined(held: dict[str, list[int]] | None = None, generation: int = 3) -> ConsumerProtocolMemberMetadata:
    """What a member tells that has these partitions; over the wire, as the leader reads it."""
    assignor = KeepingAssignor()
    if held is not None:
        assignor.generation = generation
        assignor.on_assignment(ConsumerProtocolMemberAssignment(0, list(held.items()), b""))
    return ConsumerProtocolMemberMetadata.decode(assignor.metadata({TOPIC}).encode())


def topics(assignment: ConsumerProtocolMemberAssignment) -> dict[str, list[int]]:
    return dict(ConsumerProtocolMemberAssignment.decode(assignment.encode()).assignment)


def test_what_members_tell_each_other_survives_the_wire() -> None:
    plans = KeepingAssignor().assign(CLUSTER, {"a": joined({TOPIC: [8, 9, 10, 11]}), "b": joined()})
    mine = topics(plans["a"])[TOPIC]
    assert set(mine) > {8, 9, 10, 11}
    assert len(mine) == 6
    assert set(topics(plans["b"])[TOPIC]) == set(range(12)) - set(mine)


def test_workers_of_earlier_versions_may_lead_and_follow() -> None:
    old = ConsumerProtocolMemberMetadata.decode(RoundRobinPartitionAssignor.metadata({TOPIC}).encode())
    new = joined({TOPIC: [0, 1, 2, 3, 4, 5]})
    assert KeepingAssignor.name == RoundRobinPartitionAssignor.name
    assert topics(KeepingAssignor().assign(CLUSTER, {"new": new, "old": old})["new"]) == {TOPIC: [0, 1, 2, 3, 4, 5]}
    led_by_old = RoundRobinPartitionAssignor.assign(CLUSTER, {"new": new, "old": old})
    assert sorted(topics(led_by_old["new"])[TOPIC] + topics(led_by_old["old"])[TOPIC]) == list(range(12))


@pytest.mark.parametrize("told", [b"", b"garbage", b"[]", b"null", b'{"generation":"x"}', b'{"generation":1}', b"\xff"])
def test_a_member_that_says_nothing_of_use_has_nothing(told: bytes) -> None:
    odd = ConsumerProtocolMemberMetadata(0, [TOPIC], told)
    plans = KeepingAssignor().assign(CLUSTER, {"odd": odd, "a": joined({TOPIC: [6, 7, 8, 9, 10, 11]})})
    assert topics(plans["a"]) == {TOPIC: [6, 7, 8, 9, 10, 11]}


def test_a_topic_that_is_not_there_yet_gives_nobody_anything() -> None:
    nothing_yet = SimpleNamespace(partitions_for_topic=lambda topic: None)
    assert topics(KeepingAssignor().assign(nothing_yet, {"a": joined()})["a"]) == {}
