"""The ids of responses and their items. They say where a turn is, so that any gateway finds it."""

import re
from dataclasses import dataclass

_RESPONSE = re.compile(r"resp_([0-9]{1,10})_([0-9]{1,19})_([A-Za-z0-9._-]{1,128})")
_TURN = re.compile(r"t-([0-9]{1,10})-([0-9]{1,19})")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRef:
    """A turn of a session. ``partition`` and ``offset`` are those of its request, as its id says."""

    session_id: str
    partition: int
    offset: int

    @property
    def turn_id(self) -> str:
        """As the log has it."""
        return f"t-{self.partition}-{self.offset}"

    @property
    def response_id(self) -> str:
        """As OpenAI's clients have it."""
        return f"resp_{self.partition}_{self.offset}_{self.session_id}"

    def item_id(self, kind: str, number: int) -> str:
        """Of an output item; ``kind`` is ``msg``, ``fc`` or ``rs``."""
        return f"{kind}_{self.partition}_{self.offset}_{number}"


def turn_ref(session_id: str, turn_id: str) -> TurnRef | None:
    """The turn of this id; ``None`` for what is no id of a turn."""
    found = _TURN.fullmatch(turn_id)
    if found is None:
        return None
    return TurnRef(session_id=session_id, partition=int(found[1]), offset=int(found[2]))


def response_ref(response_id: str) -> TurnRef | None:
    """The turn that a response's id names; ``None`` for what is no such id."""
    found = _RESPONSE.fullmatch(response_id)
    if found is None:
        return None
    return TurnRef(session_id=found[3], partition=int(found[1]), offset=int(found[2]))
