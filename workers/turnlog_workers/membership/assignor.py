"""Which member of the group gets which partitions: as many as the others, and those that it had.

The members say what they have when they join, the leader decides for all. Its name in the protocol is that of the round
robin that aiokafka brings: a group may then hold workers of this version and of earlier ones, whoever leads it.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_VERSION = 0  #: of the consumer protocol, as the round robin says


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a member says that it has, and since which generation of the group."""

    generation: int = -1  #: -1: of none that it is still a member of
    partitions: frozenset[int] = field(default_factory=frozenset)


def assign(partitions: Sequence[int], holdings: Mapping[str, Holding]) -> dict[str, list[int]]:
    """The partitions of one topic for each member: no two members differ by more than one, and as few move as can be.

    Of two that claim the same partition, the one of the newer generation has it.
    """
    if not holdings:
        return {}
    had: dict[str, list[int]] = {member: [] for member in holdings}
    for partition in partitions:
        claims = [
            (holding.generation, member) for member, holding in holdings.items() if partition in holding.partitions
        ]
        if claims:
            had[max(claims)[1]].append(partition)
    least, more = divmod(len(partitions), len(holdings))
    # Those with the most keep one more than the others, as far as there are more.
    order = sorted(holdings, key=lambda member: (-len(had[member]), member))
    quota = {member: least + (place < more) for place, member in enumerate(order)}
    plan = {member: sorted(had[member])[: quota[member]] for member in holdings}
    kept = {partition for mine in plan.values() for partition in mine}
    free = [partition for partition in partitions if partition not in kept]
    # In turn, not one member after the other: neighbours in the topic are not all at one member.
    hungry = sorted(holdings)
    while free:
        for member in hungry:
            if free and len(plan[member]) < quota[member]:
                plan[member].append(free.pop(0))
    return {member: sorted(mine) for member, mine in plan.items()}


class KeepingAssignor:
    """:func:`assign` as aiokafka calls it. One for each consumer: it remembers what the consumer has."""

    name = "roundrobin"

    def __init__(self) -> None:
        self.generation = -1  #: that the consumer is a member of, -1: of none
        self._held: dict[str, list[int]] = {}

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member tells the leader."""
        mine = json.dumps({"generation": self.generation, "partitions": self._held}, separators=(",", ":")).encode()
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), mine)

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """What this member has from now on."""
        self._held = {topic: sorted(partitions) for topic, partitions in assignment.assignment}

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """What the leader decides, topic by topic."""
        told = {member: _told(metadata.user_data) for member, metadata in members.items()}
        plans: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({topic for metadata in members.values() for topic in metadata.subscription}):
            holdings = {
                member: told[member].get(topic, Holding())
                for member, metadata in members.items()
                if topic in metadata.subscription
            }
            for member, partitions in assign(sorted(cluster.partitions_for_topic(topic) or ()), holdings).items():
                if partitions:
                    plans[member].append((topic, partitions))
        return {member: ConsumerProtocolMemberAssignment(_VERSION, plan, b"") for member, plan in plans.items()}


def _told(user_data: bytes | None) -> dict[str, Holding]:
    """What a member says, by topic; nothing, if it is of a version that says nothing or says it in another way."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        told = json.loads(user_data or b"{}")
        generation = int(told["generation"])
        return {
            str(topic): Holding(generation=generation, partitions=frozenset(int(p) for p in partitions))
            for topic, partitions in told["partitions"].items()
        }
    return {}
