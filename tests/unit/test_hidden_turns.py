"""A gateway hears in the reply topic which turns are hidden."""

import pytest

from turnlog.client.replies import ReplyFrame
from turnlog.serve.hidden_turns import HiddenTurns, may_hide
from turnlog.serve.turn_ids import TurnRef
from turnlog_schemas.codec import Codec
from turnlog_schemas.frames import Frame, FrameHeader, TextDelta, TurnCompleted, TurnHidden
from turnlog_schemas.parts import NO_USAGE
from turnlog_schemas.registry import FRAMES

HEADER = FrameHeader(session_id="s", request_id="r", epoch=3)
HIDES = TurnHidden(hidden_turn_id="t-1-20")
CODEC = Codec(FRAMES)


@pytest.mark.parametrize(
    ("frame", "does"),
    [(HIDES, True), (TextDelta(text="turn_hidden"), False), (TurnCompleted(text="", usage=NO_USAGE), False)],
)
def test_only_records_that_hide_a_turn_are_read(frame: Frame, does: bool) -> None:
    assert may_hide(CODEC.encode(HEADER, frame)) is does
    assert may_hide(CODEC.encode_json(HEADER, frame)) >= does  # a text may say the word: it is read, and hides nothing


def test_what_is_heard_is_hidden() -> None:
    hidden = HiddenTurns(most=2)
    for frame in (TextDelta(text='"turn_hidden"'), HIDES, TurnHidden(hidden_turn_id="nonsense")):
        hidden.hear(ReplyFrame(header=HEADER, frame=frame, partition=1, offset=0))
    assert TurnRef(session_id="s", partition=1, offset=20) in hidden
    assert TurnRef(session_id="s", partition=1, offset=21) not in hidden
    for offset in (21, 22):
        hidden.add(TurnRef(session_id="s", partition=1, offset=offset))
    assert TurnRef(session_id="s", partition=1, offset=20) not in hidden  # bounded: the snapshot has it by then
