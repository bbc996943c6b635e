"""The consumer group: generations, assignments to anyone, static members, and committed offsets."""

from collections.abc import Callable
from typing import Protocol

from tests.simulation.world import World

SESSION_S = 3.0  #: until the group gives up somebody who is not heard of


class Member(Protocol):
    """A process that may be a member."""

    name: str

    def hear_of_place(self) -> None:
        """It has a place; in a new generation or in an old one."""

    def hear_of_replacement(self) -> None:
        """Another process of its name has its place: its next heartbeat says so."""


class Group:
    """Members hear of a new generation late, or much later; nobody waits for them.

    ``static``: who comes back by its name before it is given up has its old place, and there is no new generation.
    """

    def __init__(self, world: World) -> None:
        self.generation = 0
        self.number = 0  #: of the group itself: a deleted one comes back as another
        self.committed = [0] * world.partition_count
        self._told: dict[tuple[str, tuple[int, int], int], int] = {}  #: by process
        self.tell: Callable[[], None] = lambda: None
        self._world = world
        self.static = True
        self._members: list[str] = []
        self._holders: dict[str, Member] = {}  #: which process the group means by a name
        self._owners: dict[int, str] = {}

    @property
    def state(self) -> tuple[int, int]:
        """What a member compares with what it knows."""
        return self.number, self.generation

    def is_member(self, member: Member) -> bool:
        """Does the group mean this process?"""
        return member.name in self._members and self._holders.get(member.name) is member

    def holder(self, name: str) -> Member | None:
        """The process that has a name."""
        return self._holders.get(name) if name in self._members else None

    def owner(self, partition: int) -> str | None:
        return self._owners.get(partition)

    def assigned_to(self, name: str) -> set[int]:
        return {partition for partition, owner in self._owners.items() if owner == name}

    def enter(self, member: Member) -> None:
        """Somebody wants in."""
        before = self.holder(member.name)
        self._holders[member.name] = member
        if before is not None and before is not member:
            self._world.trace(f"{member.name} is another process now")
            before.hear_of_replacement()
        if before is None:
            self._members.append(member.name)
        if before is None or not self.static:
            self.rebalance()
        else:
            member.hear_of_place()

    def left(self, member: Member) -> None:
        """Somebody is gone, or believed to be."""
        if self.is_member(member):
            self._members.remove(member.name)
            self.rebalance()

    def rebalance(self) -> None:
        """A new generation. Whoever is a member may get any partition, also the one it had."""
        self.generation += 1
        rng = self._world.rng
        self._owners = {p: rng.choice(self._members) for p in range(self._world.partition_count) if self._members}
        self._world.trace(f"generation {self.generation}", self._owners)
        self.tell()

    def start_over(self) -> None:
        """The group was deleted and made again: generations start from the beginning."""
        self.number += 1
        self.generation = 0
        self.rebalance()

    def commit(self, member: Member, process: str, state: tuple[int, int], partition: int, offset: int) -> None:
        """The broker takes it from a member of this generation only."""
        told = self._told.get((process, state, partition), -1)
        if state == self.state and self.is_member(member) and offset > told:  # one connection: nothing overtakes
            self._told[process, state, partition] = offset
            self.committed[partition] = offset
            self._world.commit(partition, offset)
