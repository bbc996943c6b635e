"""Whatever a runner does, its own turn ends with a code that says what it did, and the session goes on."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

import turnlog_streams.session.commands
import turnlog_workers.runners.contained
import turnlog_workers.sessions.turn_attempt
from tests.odd_runners import CODES, COMPLETED, ODD, end_the_stubborn, factory, plays, says
from tests.one_session import LIMITS, SMALL, OneSession
from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.generation import NO_PARAMS, GenerationParams
from turnlog_schemas.parts import content_text
from turnlog_schemas.registry import EVENTS
from turnlog_streams.session.commands import SessionCommand
from turnlog_workers.base.logs import keep_secret
from turnlog_workers.runners.base import RunnerError, RunnerOutput, TextDelta, TurnInput
from turnlog_workers.runners.contained import contained
from turnlog_workers.sessions.history_compactor import UnrecordableError

KINDS = [name for name, odd in ODD.items() if not odd.slow]
SLOW = [name for name, odd in ODD.items() if odd.slow]
QUICK = replace(LIMITS, turn_timeout_s=0.3, max_text_bytes=256 * 1024, max_tool_result_bytes=512 * 1024)
_CODEC = Codec(EVENTS)


class OddSession(OneSession):
    """One whose events are encoded, as the log would; models ``odd:NAME`` are odd."""

    def make_runner(self, model: str) -> Any:
        return factory(model) if model.startswith("odd:") else super().make_runner(model)

    def tell(self, command: SessionCommand) -> None:
        told = len(self.events)
        super().tell(command)
        for event in self.events[told:]:
            header = ev.EventHeader(
                stream_kind="session", stream_id="s", stream_version=1, epoch=0, n=0, accepted=0, replied=0
            )
            _CODEC.encode(header, event)


async def turn_of(name: str) -> tuple[OddSession, Any]:
    """A session in which it had its turn, and the end of that."""
    odd = ODD[name]
    session = OddSession(limits=QUICK if odd.slow else replace(QUICK, turn_timeout_s=60.0))
    session.chat("What is odd?", model=f"odd:{name}")
    await session.settle()
    (end,) = session.of(ev.TurnCompleted if odd.code == COMPLETED else ev.TurnFailed)
    return session, end


@pytest.mark.parametrize("name", KINDS)
async def test_its_turn_ends_as_it_must_and_the_next_one_is_well(name: str) -> None:
    odd = ODD[name]
    session, end = await turn_of(name)
    starts = session.of(ev.TurnStarted)
    assert len(starts) == odd.attempts, [start.error for start in starts]
    if odd.code:
        assert (end.code, bool(end.reason)) == (odd.code, True)
    else:
        said = [m for m in session.live.history if m.role == "assistant" and not m.tool_calls]
        assert "".join(content_text(message.content) or "" for message in said) == odd.text
    await session.say("And now?")
    assert session.kinds[-1] == "TurnCompleted"
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SLOW)
async def test_so_does_one_that_does_not_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnlog_workers.runners.contained, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(turnlog_workers.sessions.turn_attempt, "MAX_OUTPUTS", 2_000)
    session, end = await turn_of(name)
    assert end.code == ODD[name].code
    await session.say("And now?")
    assert session.kinds[-1] == "TurnCompleted"
    await end_the_stubborn()


def test_there_are_many_kinds() -> None:
    assert len(ODD) >= 100
    assert len(CODES) >= 10


@pytest.mark.parametrize("text", ["x", "é", ""])
async def test_a_runner_that_never_waits_lets_others_have_their_turn(text: str) -> None:
    passes = 0

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    session = OneSession()
    session.main = plays(*[TextDelta(text=text)] * 3_200)("").play
    ticking = asyncio.create_task(others())
    session.chat("How long?")
    await asyncio.wait(session.actor._tasks)
    ticking.cancel()
    assert passes >= 100


async def test_a_piece_of_5_mb_is_never_a_frame_of_its_own() -> None:
    session, _ = await turn_of("5 MB in deltas")
    assert session.deltas
    assert max(map(len, session.deltas)) <= 16_384


async def test_what_is_broken_in_a_text_is_broken_in_its_pieces_too() -> None:
    for name in ("half an emoji each", "half an emoji", "the wrong half"):
        session, _ = await turn_of(name)
        assert "".join(session.deltas) == ODD[name].text


async def test_a_text_a_little_too_long_is_cut_and_one_far_too_long_fails() -> None:
    for size, ends in ((5_000, "TurnCompleted"), (40_000, "TurnCompleted"), (40_001, "TurnFailed")):
        session = OneSession(limits=replace(LIMITS, max_text_bytes=10_000))
        session.main = plays(says("x" * size))("").play
        await session.say("How long?")
        assert session.kinds[-1] == ends
        if ends == "TurnCompleted":
            message = session.live.history[-1]
            assert (len(content_text(message.content) or ""), message.truncated) == (min(size, 10_000), size > 10_000)


async def test_what_a_runner_writes_into_its_turn_reaches_no_other_one() -> None:
    async def writes(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        for given in (turn.params.settings, turn.metadata):
            given["mine"] = "1"  # type: ignore[index]
        with pytest.raises(AttributeError):
            turn.tools.definitions = ()  # type: ignore[misc]
        yield says("fine")

    for params in (None, GenerationParams(settings={"top_k": "5"})):
        session = OneSession(policy=replace(SMALL, params=params))
        session.main = writes
        await session.say("Write!")
        assert session.kinds[-1] == "TurnCompleted"
        (start,) = session.of(ev.TurnStarted)
        assert start.params == params
    assert GenerationParams() == NO_PARAMS


# ---- an outcome that cannot be recorded


class Unwilling(OneSession):
    """A shard that cannot record some commands."""

    refuses: Any = ()

    async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
        if any(isinstance(command, self.refuses) for command in commands):
            raise UnrecordableError("it does not fit")
        await super().submit(session_id, commands)


@pytest.mark.parametrize("refused", ["CompleteTurn", "RecordMessage"])
async def test_an_outcome_that_cannot_be_recorded_fails_its_turn(refused: str) -> None:
    session = Unwilling()
    session.refuses = (getattr(turnlog_streams.session.commands, refused),)
    session.chat("Hello")
    await session.settle()
    (failed,) = session.of(ev.TurnFailed)
    assert failed.code == "outcome_not_recorded"
    assert len(session.of(ev.TurnStarted)) == 1, "another attempt would lead to the same"
    session.refuses = ()
    await session.say("Again")
    assert session.kinds[-1] == "TurnCompleted"


async def test_a_summary_that_cannot_be_recorded_costs_no_turn() -> None:
    session = Unwilling()
    session.refuses = (turnlog_streams.session.commands.RecordHistoryCompaction,)
    for number in range(6):
        await session.say(f"question {number}")
    assert len(session.of(ev.TurnCompleted)) == 6
    assert {event.code for event in session.of(ev.HistoryCompactionFailed)} == {"outcome_not_recorded"}


# ---- the log


async def test_the_log_says_type_message_and_place_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield TextDelta(text="the streamed answer of the model")
        raise ConnectionResetError(
            f"peer 10.0.0.7 refused {content_text(turn.user_content)!r} after 'streamed answer of the model'\n"
            f"Authorization: Bearer abcdefghijklmnop {'x' * 10_000}"
        )

    caplog.set_level(logging.DEBUG, "turnlog_workers")
    session = OneSession(main=fails)
    await session.say("my pin is 1234 and nobody may know")
    told = [record.getMessage() for record in caplog.records if "a runner raised" in record.getMessage()]
    assert len(told) == 3
    for line in told:
        assert "ConnectionResetError: peer 10.0.0.7 refused" in line
        assert f"{__file__}:" in line
        assert "in fails" in line
        assert "\n" not in line
        assert len(line) < 700
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert "where the runner raised it" in everything
    assert "raise ConnectionResetError(" in everything, "code"
    for secret in ("1234", "nobody may know", "answer of the model", "abcdefghijklmnop"):
        assert secret not in everything
    assert all(record.session == "s" for record in caplog.records if "a runner raised" in record.getMessage())


async def test_a_reason_holds_no_key_that_the_worker_knows() -> None:
    async def fails(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        keep_secret("planted-in-a-reason")
        raise RunnerError("refused", "the server takes no planted-in-a-reason: use another", retryable=False)
        yield

    session = OneSession(main=fails)
    await session.say("Hello")
    (failed,) = session.of(ev.TurnFailed)
    assert failed.reason == "the server takes no [secret]: use another"


async def test_a_runner_that_does_not_end_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnlog_workers.runners.contained, "CLOSE_TIMEOUT_S", 0.05)
    session = OddSession(limits=QUICK)
    session.chat("What is odd?", model="odd:hangs in aclose")
    await session.settle()
    assert "closing a runner was cancelled, and still runs" in caplog.text
    await end_the_stubborn()


async def test_a_failure_in_the_moment_in_which_nobody_waits_any_more_is_nobody_s() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        callers.pop().cancel()
        raise RunnerError("overloaded", "try later")

    caller = asyncio.create_task(contained(work(), timeout_s=60, what="a turn", session_id="s"))
    callers = [caller]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait((caller,))
    assert caller.cancelled()
    del caller
    gc.collect()
    assert told == []
