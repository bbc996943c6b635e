"""What idle sessions hold in memory, over all partitions of a worker."""

from collections.abc import Hashable
from weakref import WeakKeyDictionary


class IdleMemory:
    """Bytes that idle sessions hold, by the part of a worker that holds them; a part that is gone holds nothing."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Hashable, int] = WeakKeyDictionary()

    def bytes_over(self, part: Hashable, held: int, most: int) -> int:
        """How many of the bytes that a part holds are to go, where the worker may hold so many; 0 or less: none.

        It may keep what the others leave, and an equal share in any case: so those who hold more than that give way.
        """
        self._held[part] = held
        others = sum(self._held.values()) - held
        return held - max(most - others, most // len(self._held))

    def gives_up(self, part: Hashable, given: int) -> None:
        """So many of the bytes that it told of go now."""
        self._held[part] -= given

    def forget(self, part: Hashable) -> None:
        """It holds nothing from now on: it may be in a cycle, and the collector comes by seldom."""
        self._held.pop(part, None)
