"""What every runner must do, whatever it talks to, as tests of a class::

    from turnlog.testing import RunnerConformance

    class TestMine(RunnerConformance):
        model = "mine:small"
        failing = {"mine:broken": "unreachable"}

``pytest`` finds the tests in it. They are plain functions: no plug-in of pytest is needed. A runner that needs a server
starts one in :meth:`RunnerConformance.environment`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from typing import Any, ClassVar

from turnlog.runner import (
    AssistantMessage,
    HistoryMessage,
    ReasoningDelta,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
    content_text,
    openai_messages,
)
from turnlog.testing.driving import (
    cancelled_at,
    ended,
    nothing_left,
    outputs_of,
    outputs_or_error,
    until_client_calls,
)
from turnlog.testing.turns import (
    CLIENT_TOOL,
    behind_outputs,
    closed,
    odd_turns,
    open_calls,
    ordinary_turn,
    resumed,
    stored_of,
    with_client_tool,
)
from turnlog_streams.history.openai_format import validate_openai
from turnlog_streams.history.view import assemble
from turnlog_workers.runners.registry import RunnerRegistry

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


class RunnerConformance:
    """Subclass it as ``Test…`` and say which model to try."""

    model: ClassVar[str]  #: a full model name that answers
    failing: ClassVar[Mapping[str, str]] = {}  #: model names whose turns fail, and the code that they fail with
    #: A model that calls the tool ``look`` where its request brings it, and answers with the output; empty: none.
    client_calls: ClassVar[str] = ""
    deterministic: ClassVar[bool] = False  #: does the same turn have the same outputs, also when it is resumed?
    reports_usage: ClassVar[bool] = True
    secrets: ClassVar[tuple[str, ...]] = ()  #: keys that were planted: nothing may say them
    max_cancellations: ClassVar[int] = 300  #: waits at which a turn is cancelled, each in a run of its own
    timeout_s: ClassVar[float] = 60.0  #: of one test

    # ---- what a subclass may replace

    def make_runner(self, model: str) -> Runner:
        """A runner of the model: by default, that of the installed entry points."""
        return RunnerRegistry().make(model)

    def environment(self) -> AbstractAsyncContextManager[None]:
        """Around each test, in its event loop: start here what the runner talks to."""
        return _nothing()

    def turn(self, model: str) -> TurnInput:
        """The turn that is tried."""
        return ordinary_turn(model)

    # ---- outputs

    def test_streaming_order(self) -> None:
        """Pieces, then the message that they make; calls, then a result for each; the last message ends the turn."""

        async def check() -> None:
            found = await self._outputs(self.turn(self.model))
            assert found, "a turn without any output"
            self._check_order(found)

        self._run(check)

    def test_pieces_are_the_text_of_their_message(self) -> None:
        """Somebody who reads the pieces has read the message."""

        async def check() -> None:
            pieces = ""
            for output in await self._outputs(self.turn(self.model)):
                if isinstance(output, TextDelta | ReasoningDelta):
                    assert output.text, "an empty piece says nothing"
                if isinstance(output, TextDelta):
                    pieces += output.text
                elif isinstance(output, AssistantMessage):
                    text = content_text(output.content) or ""
                    assert pieces in ("", text), f"the pieces say {len(pieces)} characters, the message {len(text)}"
                    pieces = ""
            assert not pieces, "pieces that no message has"

        self._run(check)

    def test_usage_is_a_growing_total(self) -> None:
        """Each report is what the turn has cost so far."""

        async def check() -> None:
            found = await self._outputs(self.turn(self.model))
            reports = [output.usage for output in found if isinstance(output, UsageReport)]
            if not self.reports_usage:
                return
            assert reports, "no UsageReport (reports_usage = False says that there is none)"
            for before, after in pairwise(reports):
                assert before.input_tokens <= after.input_tokens, "a report is less than the one before it"
                assert before.output_tokens <= after.output_tokens, "a report is less than the one before it"
            last = reports[-1]
            assert last.model_calls >= sum(isinstance(output, AssistantMessage) for output in found)
            assert 0 < last.last_input_tokens <= last.input_tokens, "tokens of the last prompt, within those of all"

        self._run(check)

    def test_a_second_turn_of_the_same_runner(self) -> None:
        """A runner stays alive from turn to turn, until it is closed; closing it again does nothing."""

        async def check() -> None:
            runner = self.make_runner(self.model)
            assert runner.alive is True, "a new runner is alive"
            for _ in range(2):
                self._check_order(await outputs_of(runner, self.turn(self.model)))
            await runner.aclose()
            await runner.aclose()

        self._run(check)

    def test_two_sessions_at_once(self) -> None:
        """Runners of one model share nothing that one of them could break."""

        async def check() -> None:
            several = await asyncio.gather(*(self._outputs(self.turn(self.model)) for _ in range(4)))
            for found in several:
                self._check_order(found)
                if self.deterministic:
                    assert found == several[0]

        self._run(check)

    # ---- resuming

    def test_resumed_at_every_message(self) -> None:
        """Another attempt goes on behind what is stored: no message twice, no closed call run again."""

        async def check() -> None:
            turn = self.turn(self.model)
            whole = await self._outputs(turn)
            messages = stored_of(turn, whole)
            for cut in range(len(messages) + 1):
                await self._check_resumed(turn, whole, closed(messages[:cut]))

        self._run(check)

    async def _check_resumed(self, turn: TurnInput, whole: list[RunnerOutput], kept: list[HistoryMessage]) -> None:
        later = resumed(turn, kept)
        found = await self._outputs(later)
        where = f"resumed after {len(kept)} messages"
        more = stored_of(later, found)
        waiting = list(open_calls(kept))
        for message in more:
            if not waiting:
                break
            assert message.role == "tool", f"{where}: {len(waiting)} calls have no result yet"
            waiting.remove(next(call for call in waiting if call.call_id == message.tool_call_id))
        if kept and kept[-1].role == "assistant" and not kept[-1].tool_calls:
            assert not more, f"{where}, the answer among them: it answers once more"
        asked = resumed(turn, []).assembled[len(turn.history) :]
        shown = assemble([*turn.history, *asked, *kept, *more]).messages
        validate_openai(openai_messages(turn.instructions, shown))
        if self.deterministic:
            assert more == stored_of(turn, _behind(whole, len(kept))), f"{where}: another continuation"

    # ---- tools of the client

    def test_tools_of_the_client(self) -> None:
        """A call of one ends the turn, and nobody asks for more; the next turn begins with its output, and answers."""

        async def check() -> None:
            if not self.client_calls:
                return
            before = asyncio.all_tasks()
            runner = self.make_runner(self.client_calls)
            turn = with_client_tool(self.turn(self.client_calls))
            stored = stored_of(turn, await until_client_calls(runner, turn, CLIENT_TOOL))
            later = behind_outputs(turn, stored)
            found = await outputs_of(runner, later)
            self._check_order(found)
            more = stored_of(later, found)
            assert more, "outputs came, and nothing is answered"
            validate_openai(openai_messages(later.instructions, assemble([*later.history, *more]).messages))
            await runner.aclose()
            await nothing_left(before)

        self._run(check)

    # ---- stopping

    def test_cancelled_at_every_await(self) -> None:
        """It ends at once, leaves nothing running, and another runner takes the next attempt."""

        async def check() -> None:
            for at in range(1, self.max_cancellations + 1):
                before = asyncio.all_tasks()
                runner = self.make_runner(self.model)
                running = runner.run(self.turn(self.model))
                was_cancelled = await cancelled_at(_exhaust(running), at)
                await ended(running)
                await runner.aclose()
                await nothing_left(before)
                if not was_cancelled:
                    break
            self._check_order(await self._outputs(self.turn(self.model)))

        self._run(check)

    def test_closed_at_every_yield(self) -> None:
        """A session that loses its turn closes the outputs: that ends them."""

        async def check() -> None:
            whole = await self._outputs(self.turn(self.model))
            for count in range(min(len(whole), self.max_cancellations) + 1):
                before = asyncio.all_tasks()
                runner = self.make_runner(self.model)
                running = runner.run(self.turn(self.model))
                for _ in range(count):
                    if await anext(running, None) is None:
                        break
                await ended(running)
                assert await anext(running, None) is None, "closed outputs go on"
                await runner.aclose()
                await nothing_left(before)

        self._run(check)

    # ---- failing

    def test_failures_have_a_code_and_a_reason(self) -> None:
        """Each model of ``failing`` fails with its code, and with a reason that one can read and store."""

        async def check() -> None:
            for model, code in self.failing.items():
                failure = await self._failure(model)
                assert failure is not None, f"{model}: it did not fail"
                self._check_error(failure)
                assert failure.code == code, f"{model}: {failure.code}, not {code}: {failure.reason}"
            self._check_order(await self._outputs(self.turn(self.model)))

        self._run(check)

    async def _failure(self, model: str) -> RunnerError | None:
        try:
            runner = self.make_runner(model)
        except RunnerError as error:
            return error
        try:
            return (await outputs_or_error(runner, self.turn(model)))[1]
        finally:
            await runner.aclose()

    def test_names_of_models_that_it_cannot_read(self) -> None:
        """They come from the wire: a factory refuses them with a RunnerError, and raises nothing else."""
        provider = self.model.partition(":")[0]

        async def check() -> None:
            for rest in ("\x00", "?", "?x=1&x=2", "#", "a" * 10_000, "../../etc/passwd", "日本", "?delta_ms=-1", " "):
                try:
                    runner = self.make_runner(f"{provider}:{rest}")
                except RunnerError as error:
                    self._check_error(error)
                else:
                    await runner.aclose()

        self._run(check)

    # ---- input

    def test_odd_input(self) -> None:
        """It answers, or fails with a RunnerError: a session may hold all of this."""

        async def check() -> None:
            for name, turn in odd_turns(self.model):
                runner = self.make_runner(self.model)
                try:
                    found, failure = await outputs_or_error(runner, turn)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error
                if failure is not None:
                    self._check_error(failure)
                else:
                    self._check_order(found)
                await runner.aclose()

        self._run(check)

    # ---- how

    def _run(self, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(self.timeout_s), self.environment():
                await check()

        asyncio.run(main())

    async def _outputs(self, turn: TurnInput) -> list[RunnerOutput]:
        runner = self.make_runner(turn.model)
        try:
            return await outputs_of(runner, turn)
        finally:
            await runner.aclose()

    def _check_order(self, found: list[RunnerOutput]) -> None:
        waiting: list[str] = []
        answered = False
        for output in found:
            if isinstance(output, UsageReport):
                continue
            assert not answered, f"{type(output).__name__} after the last message"
            if isinstance(output, ToolResult):
                assert output.call_id in waiting, "a result of a call that was not made, or has its result"
                waiting.remove(output.call_id)
                continue
            assert not waiting, f"{type(output).__name__} although {len(waiting)} calls have no result yet"
            if isinstance(output, AssistantMessage):
                waiting = [call.call_id for call in output.tool_calls]
                answered = not waiting
        assert not waiting, f"{len(waiting)} calls have no result at the end"
        for secret in self.secrets:
            assert secret not in repr(found), "an output holds a secret"

    def _check_error(self, error: RunnerError) -> None:
        assert _CODE.fullmatch(error.code), f"{error.code!r} is no code: letters, digits, '_', '.', ':' and '-'"
        assert error.reason.strip(), "an error without a reason"
        assert isinstance(error.retryable, bool), "'retryable' is a bool"
        assert error.retry_after_s is None or error.retry_after_s >= 0, "'retry_after_s' is a number of seconds"
        for secret in self.secrets:
            assert secret not in f"{error.code}{error.reason}{error!r}", "an error holds a secret"


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


async def _exhaust(running: AsyncIterator[RunnerOutput]) -> None:
    async for _ in running:
        pass


def _behind(outputs: list[RunnerOutput], count: int) -> list[RunnerOutput]:
    """The outputs behind the first ``count`` whole messages."""
    seen = 0
    for index, output in enumerate(outputs):
        if seen == count:
            return outputs[index:]
        seen += isinstance(output, AssistantMessage | ToolResult)
    return []
