"""Turns that are hidden: every gateway hears of it in the reply topic, whoever hid them."""

from turnlog.client.replies import ReplyFrame
from turnlog.serve.turn_ids import TurnRef, turn_ref
from turnlog_schemas.codec import AVRO_MAGIC
from turnlog_schemas.frames import TurnHidden
from turnlog_schemas.registry import FRAMES, packaged
from turnlog_schemas.type_names import snake

_schema = packaged().current(FRAMES.name, TurnHidden.__name__)
assert _schema is not None
_AVRO = AVRO_MAGIC + _schema.fingerprint
_IN_JSON = f'"{snake(TurnHidden.__name__)}"'.encode()


def may_hide(value: bytes) -> bool:
    """May this record of the reply topic say that a turn is hidden? It is asked of every one, and reads none."""
    return value.startswith(_AVRO) or (value.startswith(b"{") and _IN_JSON in value)


class HiddenTurns:
    """Turns that are known here to be hidden. The snapshot says it, too, some seconds late."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._turns: dict[TurnRef, None] = {}

    def add(self, turn: TurnRef) -> None:
        """It is hidden, for good."""
        self._turns[turn] = None
        if len(self._turns) > self._most:
            del self._turns[next(iter(self._turns))]

    def hear(self, reply: ReplyFrame) -> None:
        """Somebody hid a turn, here or elsewhere."""
        if isinstance(reply.frame, TurnHidden):
            turn = turn_ref(reply.header.session_id, reply.frame.hidden_turn_id)
            if turn is not None:
                self.add(turn)

    def __contains__(self, turn: TurnRef) -> bool:
        return turn in self._turns
