"""The consumer group: generations, assignments to anyone, and committed offsets."""

from collections.abc import Callable

from tests.simulation.world import World


class Group:
    """Members hear of a new generation late, or much later; nobody waits for them."""

    def __init__(self, world: World) -> None:
        self.generation = 0
        self.number = 0  #: of the group itself: a deleted one comes back as another
        self.committed = [0] * world.partition_count
        self._told: dict[tuple[str, tuple[int, int], int], int] = {}
        self.tell: Callable[[], None] = lambda: None
        self._world = world
        self._members: list[str] = []
        self._owners: dict[int, str] = {}

    @property
    def state(self) -> tuple[int, int]:
        """What a member compares with what it knows."""
        return self.number, self.generation

    def is_member(self, name: str) -> bool:
        return name in self._members

    def owner(self, partition: int) -> str | None:
        return self._owners.get(partition)

    def assigned_to(self, name: str) -> set[int]:
        return {partition for partition, owner in self._owners.items() if owner == name}

    def enter(self, name: str) -> None:
        """Somebody wants in."""
        if name not in self._members:
            self._members.append(name)
        self.rebalance()

    def left(self, name: str) -> None:
        """Somebody is gone, or believed to be."""
        if name in self._members:
            self._members.remove(name)
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

    def commit(self, name: str, state: tuple[int, int], partition: int, offset: int) -> None:
        """The broker takes it from a member of this generation only."""
        told = self._told.get((name, state, partition), -1)
        if state == self.state and name in self._members and offset > told:  # one connection: nothing overtakes
            self._told[name, state, partition] = offset
            self.committed[partition] = offset
            self._world.commit(partition, offset)
