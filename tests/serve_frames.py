"""Frames of a turn, as the reply topic has them, for tests of what is made of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from turnlog.client.replies import FrameOrder, ReplyFrame
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import ToolCall, Usage, text_content

USAGE = Usage(input_tokens=7, output_tokens=5, model_calls=1)


@dataclass
class Recorder:
    """Writes the frames of one turn in the order of the log."""

    session_id: str = "web-1"
    turn_id: str = "t-3-17"
    request_id: str = "req-1"
    epoch: int = 40
    attempt: int = 0
    offset: int = 100
    seq: int = 0
    frames: list[ReplyFrame] = field(default_factory=list)

    def add(self, frame: Any) -> ReplyFrame:
        header = fr.FrameHeader(
            session_id=self.session_id,
            request_id=self.request_id,
            turn_id=self.turn_id,
            attempt=self.attempt,
            epoch=self.epoch,
            frame_seq=self.seq,
        )
        self.seq += 1
        self.offset += 3  # others' frames lie between
        reply = ReplyFrame(header=header, frame=frame, partition=3, offset=self.offset)
        self.frames.append(reply)
        return reply

    def accepted(self, queued: int = 0) -> None:
        self.add(fr.TurnAccepted(queued_turns=queued))

    def started(self, model: str = "echo:", *, epoch: int | None = None) -> None:
        self.attempt, self.seq = self.attempt + 1, 0
        self.epoch = self.epoch if epoch is None else epoch
        self.add(fr.TurnStarted(model=model))

    def text(self, *pieces: str) -> None:
        for piece in pieces:
            self.add(fr.TextDelta(text=piece))

    def reasoning(self, *pieces: str) -> None:
        for piece in pieces:
            self.add(fr.ReasoningDelta(text=piece))

    def stored(self, text: str | None, calls: tuple[ToolCall, ...] = (), *, interrupted: bool = False) -> None:
        content = None if text is None else text_content(text)
        stored = fr.MessageStored(
            message_seq=2, role="assistant", content=content, tool_calls=calls, interrupted=interrupted
        )
        self.add(stored)
        for call in calls:
            if not call.client:
                self.add(fr.ToolCallStarted(message_seq=2, call=call))

    def tool_result(self, call: ToolCall, text: str) -> None:
        result = fr.MessageStored(
            message_seq=3, role="tool", content=text_content(text), tool_call_id=call.call_id, name=call.name
        )
        self.add(result)

    def completed(self, text: str = "", pending: tuple[ToolCall, ...] = ()) -> None:
        self.add(fr.TurnCompleted(text=text, usage=USAGE, pending_calls=pending))

    def counting(self) -> Iterator[ReplyFrame]:
        """Those that count, as a reader finds them."""
        order = FrameOrder()
        return (frame for frame in self.frames if order.accept(frame))


def call(call_id: str = "call_1", *, client: bool, name: str = "look_up", arguments: str = '{"a":1}') -> ToolCall:
    return ToolCall(call_id=call_id, name=name, arguments=arguments, client=client)


def plain() -> Recorder:
    turn = Recorder()
    turn.accepted()
    turn.started()
    turn.text("Hel", "lo")
    turn.stored("Hello")
    turn.completed("Hello")
    return turn


def reasoned() -> Recorder:
    turn = Recorder()
    turn.accepted(queued=2)
    turn.started("script:1")
    turn.reasoning("let me ", "think")
    turn.text("42")
    turn.stored("42")
    turn.completed("42")
    return turn


def server_tools() -> Recorder:
    turn, used = Recorder(), call(client=False)
    turn.accepted()
    turn.started()
    turn.text("I look. ")
    turn.stored("I look. ", (used,))
    turn.tool_result(used, "found")
    turn.text("Found.")
    turn.stored("Found.")
    turn.completed("Found.")
    return turn


def client_tools() -> Recorder:
    turn = Recorder()
    wanted = (call("call_1", client=True), call("call_2", client=True, arguments='{"a": 2}'))
    turn.accepted()
    turn.started()
    turn.text("One moment.")
    turn.stored("One moment.", wanted)
    turn.completed("One moment.", wanted)
    return turn


def taken_over() -> Recorder:
    """The owner dies in the middle of an answer; late frames of it count no more."""
    turn = Recorder()
    turn.accepted()
    turn.started()
    turn.reasoning("hm")
    turn.text("Hello wo")
    turn.started(epoch=77)
    turn.text("Good ")
    late = Recorder(attempt=1, seq=5, offset=turn.offset)
    turn.frames.append(late.add(fr.TextDelta(text="rld")))
    turn.text("day")
    turn.stored("Good day")
    turn.completed("Good day")
    turn.completed("Good day")
    return turn


def pieces_lost() -> Recorder:
    """Under overload pieces are dropped; the message is not."""
    turn = Recorder()
    turn.accepted()
    turn.started()
    turn.text("He")
    turn.stored("Hello")
    turn.completed("Hello")
    return turn


def cancelled() -> Recorder:
    turn = Recorder()
    turn.accepted()
    turn.started()
    turn.text("Hel", "lo")
    turn.stored("Hello", interrupted=True)
    turn.add(fr.TurnCancelled(reason="asked to", text="Hello", usage=USAGE))
    return turn


def cancelled_in_the_queue() -> Recorder:
    turn = Recorder()
    turn.accepted(queued=1)
    turn.add(fr.TurnCancelled(reason="asked to", text="", usage=Usage()))
    return turn


def failed() -> Recorder:
    turn = Recorder()
    turn.accepted()
    turn.started()
    turn.text("Hel")
    turn.add(fr.TurnFailed(code="turn_timeout", reason="it took too long", usage=USAGE))
    return turn


def only_its_end() -> Recorder:
    """The frames before it died with their sender."""
    turn = Recorder(attempt=1)
    turn.completed("Hello", (call(client=True),))
    return turn


TURNS: tuple[Callable[[], Recorder], ...] = (
    *(plain, reasoned, server_tools, client_tools, taken_over, pieces_lost),
    *(cancelled, cancelled_in_the_queue, failed, only_its_end),
)
