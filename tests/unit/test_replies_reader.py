"""Which frames of a turn count, and what they add up to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.client.replies import Deduplicator, FrameOrder, ReplyFrame, TurnView
from turnlog.errors import (
    RequestConflictError,
    RequestRefusedError,
    SessionArchivedError,
    SessionBusyError,
    SessionNotFoundError,
    TurnFailedError,
)
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    MessageStored,
    ReasoningDelta,
    RequestRefused,
    TextDelta,
    TurnAccepted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import Usage, text_content


def reply(
    frame: Frame | UnknownPayload, *, epoch: int = 0, attempt: int = 1, seq: int = 0, request_id: str = "r", at: int = 0
) -> ReplyFrame:
    header = FrameHeader(
        session_id="s", request_id=request_id, turn_id="t", attempt=attempt, epoch=epoch, frame_seq=seq
    )
    return ReplyFrame(header=header, frame=frame, partition=0, offset=at)


def delta(text: str, *, epoch: int = 0, attempt: int = 1, seq: int = 0) -> ReplyFrame:
    return reply(TextDelta(text=text), epoch=epoch, attempt=attempt, seq=seq)


def completed(text: str = "done", *, epoch: int = 0, attempt: int = 1, seq: int = 0) -> ReplyFrame:
    return reply(TurnCompleted(text=text, usage=Usage(output_tokens=3)), epoch=epoch, attempt=attempt, seq=seq)


def test_frames_of_one_attempt_count_once_and_in_order() -> None:
    order = FrameOrder()
    frames = [reply(TurnAccepted(), attempt=0), reply(TurnStarted(model="m")), delta("a", seq=1), delta("b", seq=2)]
    assert [order.accept(frame) for frame in frames] == [True] * 4
    assert [order.accept(frame) for frame in frames] == [False] * 4


@pytest.mark.parametrize(("epoch", "attempt"), [(5, 1), (7, 0), (6, 9)])
def test_what_an_overtaken_owner_or_attempt_says_does_not_count(epoch: int, attempt: int) -> None:
    order = FrameOrder()
    assert order.accept(reply(TurnStarted(model="m"), epoch=7, attempt=1))
    assert not order.accept(delta("late", epoch=epoch, attempt=attempt, seq=99))


def test_a_terminal_frame_counts_whatever_its_number_and_ends_the_turn() -> None:
    order = FrameOrder()
    assert order.accept(delta("a", epoch=9, attempt=2, seq=5))
    assert order.accept(completed(epoch=7, attempt=1, seq=0))
    assert order.ended
    assert not order.accept(completed(epoch=11, attempt=2, seq=6))
    assert not order.accept(delta("b", epoch=11, attempt=3, seq=0))


def test_a_new_attempt_is_visible_and_voids_what_was_said_before() -> None:
    view = TurnView()
    assert view.state == "nothing heard"
    assert view.feed(reply(TurnAccepted(queued_turns=2), attempt=0))
    assert view.state == "accepted, not started, 2 turns before it"
    assert view.feed(reply(TurnStarted(model="echo:")))
    assert view.feed(delta("half an ans", seq=1))
    assert view.text == "half an ans"
    assert view.feed(reply(TurnStarted(model="echo:"), epoch=4, attempt=2))
    assert (view.attempt, view.text) == (2, "")
    assert not view.feed(delta("wer", seq=2))
    assert view.feed(delta("the answer", epoch=4, attempt=2, seq=1))
    assert view.text == "the answer"
    assert view.state == "started (attempt 2, model echo:)"


def test_a_delta_of_an_attempt_whose_start_was_not_seen_replaces_the_text() -> None:
    view = TurnView()
    view.feed(delta("old", attempt=1))
    view.feed(delta("new", attempt=2))
    assert view.text == "new"


def test_a_stored_message_ends_its_text_and_reasoning_is_no_text() -> None:
    view = TurnView()
    view.feed(reply(ReasoningDelta(text="hm")))
    view.feed(delta("let me look", seq=1))
    stored = MessageStored(message_seq=2, role="assistant", content=text_content("let me look"))
    view.feed(reply(stored, seq=2))
    assert view.text == ""
    view.feed(delta("found", seq=3))
    view.feed(completed("found", seq=4))
    assert view.finished is not None
    assert (view.finished.status, view.finished.text, view.finished.messages) == ("completed", "found", (stored,))
    assert view.finished.usage.output_tokens == 3
    assert view.state == "completed"
    view.finished.raise_for_status()


def test_how_turns_end() -> None:
    failed, cancelled = TurnView(), TurnView()
    failed.feed(reply(TurnFailed(code="timeout", reason="too long", usage=Usage())))
    cancelled.feed(reply(TurnCancelled(reason="by the user", text="half", usage=Usage())))
    assert failed.finished is not None
    assert cancelled.finished is not None
    with pytest.raises(TurnFailedError, match=r"failed \(timeout\): too long"):
        failed.finished.raise_for_status()
    with pytest.raises(TurnFailedError, match=r"was cancelled \(cancelled\): by the user"):
        cancelled.finished.raise_for_status()
    assert cancelled.finished.text == "half"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("busy", SessionBusyError),
        ("archived", SessionArchivedError),
        ("conflict", RequestConflictError),
        ("not_found", SessionNotFoundError),
        ("too_long", RequestRefusedError),
    ],
)
def test_a_refusal_is_no_finished_turn(code: str, error: type[RequestRefusedError]) -> None:
    view = TurnView()
    assert view.feed(reply(RequestRefused(code=code, reason="no")))
    assert view.finished is None
    assert type(view.refused) is error
    assert view.ended
    assert view.state == "refused"


def test_a_frame_of_a_newer_version_is_passed_on_and_changes_nothing() -> None:
    view = TurnView()
    assert view.feed(reply(UnknownPayload(name="PollOpened", fields={"question": "?"})))
    assert (view.text, view.finished, view.attempt) == ("", None, 0)


def test_each_turn_of_a_stream_has_its_own_order_and_memory_is_bounded() -> None:
    seen = Deduplicator(max_turns=2)
    frames = {name: reply(TurnStarted(model="m"), request_id=name) for name in "abc"}
    assert seen.accept(frames["a"])
    assert seen.accept(frames["b"])
    assert not seen.accept(frames["a"])
    assert seen.accept(frames["c"])  # forgets b, which was not used for longest
    assert not seen.accept(frames["a"])
    assert seen.accept(frames["b"])


ATTEMPTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4)), unique=True, min_size=1, max_size=4
)  #: how much the epoch grows, and how many deltas come before the next takeover


def story(attempts: list[tuple[int, int]]) -> list[ReplyFrame]:
    """The frames of a turn with takeovers, as a reader without any trouble sees them."""
    frames, epoch = [reply(TurnAccepted(), attempt=0, epoch=0)], 0
    for number, (step, deltas) in enumerate(attempts, start=1):
        epoch += step
        frames.append(reply(TurnStarted(model="m"), epoch=epoch, attempt=number))
        frames += [delta(f"{number}.{n}", epoch=epoch, attempt=number, seq=n + 1) for n in range(deltas)]
    frames.append(completed("done", epoch=epoch, attempt=len(attempts), seq=99))
    return frames


@given(ATTEMPTS, st.data())
def test_duplicates_and_late_repeats_change_nothing(attempts: list[tuple[int, int]], data: st.DataObject) -> None:
    frames = story(attempts)
    noisy: list[ReplyFrame] = []
    for index, frame in enumerate(frames):
        noisy.append(frame)
        seen = [earlier for earlier in frames[: index + 1] if not earlier.is_terminal]
        if seen and not frame.is_terminal:
            noisy += data.draw(st.lists(st.sampled_from(seen), max_size=3))
    noisy += data.draw(st.lists(st.sampled_from(frames), max_size=5))
    order = FrameOrder()
    assert [frame for frame in noisy if order.accept(frame)] == frames


@given(ATTEMPTS, st.lists(st.integers(0, 2**16), max_size=30))
def test_whatever_the_order_what_counts_only_rises_and_one_terminal_ends_it(
    attempts: list[tuple[int, int]], picks: list[int]
) -> None:
    frames = story(attempts)
    order, view = FrameOrder(), TurnView()
    accepted = []
    for pick in picks:
        frame = frames[pick % len(frames)]
        counts = order.accept(frame)
        assert view.feed(frame) == counts
        if counts:
            accepted.append(frame)
    positions = [(f.header.epoch, f.header.attempt, f.header.frame_seq) for f in accepted if not f.is_terminal]
    assert positions == sorted(set(positions))
    assert [f.is_terminal for f in accepted].count(True) == (1 if view.ended else 0)
    assert not view.ended or accepted[-1].is_terminal
