"""What a long run has done so far, line by line in a file, so that it can go on where it was stopped."""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tests.faults.defences import Tried
from tests.faults.leaders import Moved
from tests.faults.rounds import Round
from tests.faults.simulated import Chunk

Done = Round | Chunk | Tried | Moved
T = TypeVar("T", Round, Chunk, Tried, Moved)
_KINDS: dict[str, type[Done]] = {"round": Round, "seeds": Chunk, "defence": Tried, "leaders": Moved}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class OtherRunError(Exception):
    """The file is of a run that this one is not."""

    path: Path
    seed: str


class Progress:
    """Everything that is done, of this run and of those before it with the same file. Without a file: of this one."""

    def __init__(self, path: Path | None, seed: str) -> None:
        """Raises :class:`OtherRunError`: rounds and defences depend on the seed."""
        self._path = path
        self._seed = seed
        self._lock = threading.Lock()
        self._done: list[Done] = []
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                fields = json.loads(line)
                kind, of = fields.pop("kind"), fields.pop("of")
                if of != seed:
                    raise OtherRunError(path, of)
                self._done.append(_KINDS[kind](**fields))

    def of(self, kind: type[T]) -> list[T]:
        """What there is of a kind, in the order in which it was done."""
        with self._lock:
            return [one for one in self._done if isinstance(one, kind)]

    def add(self, one: Done) -> None:
        """Something is done. From any thread."""
        with self._lock:
            self._done.append(one)
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"kind": _NAMES[type(one)], "of": self._seed, **asdict(one)}) + "\n")
