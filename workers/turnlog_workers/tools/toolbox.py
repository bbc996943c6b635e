"""The tools of a worker, and those of a turn: which it may use, and how their calls are run within bounds."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from pydantic_core import PydanticSerializationError, to_json

from turnlog_schemas.parts import ToolCall, cut_text, text_content
from turnlog_workers.base.logs import at, without_known_secrets
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.base.tool_rules import ToolRule
from turnlog_workers.observe import tracing
from turnlog_workers.runners.base import RunnerError, ToolDefinition, ToolResult, TurnInput, no_such_tool
from turnlog_workers.runners.checked import repaired, type_name
from turnlog_workers.runners.contained import TookTooLongError, UnexpectedError, contained
from turnlog_workers.runners.fault_log import message_of, place_of, texts_of
from turnlog_workers.tools import registry
from turnlog_workers.tools.base import Tool, ToolContext, ToolError

log = logging.getLogger(__name__)
_GRACE_S = 1.0  #: for a call that is cancelled to notice
_MAX_MESSAGE_CHARACTERS = 2_000  #: of an error, to the model
BeforeStart = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBounds:
    """Bounds of a worker's tool calls; a tool may have narrower ones of its own."""

    timeout_s: float = 30.0  #: of one call; as long again it may wait for a free place
    max_output_bytes: int = 64 * 1024
    max_running: int = 32  #: of the worker
    max_running_per_tool: int = 8
    max_calls_per_step: int = 16  #: of one message


class ToolSource(Protocol):
    """Where tools come from beside the installed ones: servers that are asked for theirs."""

    async def tools(self, wanted: Callable[[str], bool], may_want_some: Callable[[str], bool]) -> Sequence[Tool]:
        """Its tools of the names that are wanted; none, if it does not answer in time.

        ``may_want_some``: may any tool be wanted whose name begins so? Else nobody need be asked.
        """
        ...

    async def aclose(self) -> None:
        """End what it holds. Called once."""
        ...


async def _at_once() -> None:
    """Nothing is waited for."""


class _Ended(NamedTuple):
    """How a call ended, and what the model reads of it."""

    outcome: str
    text: str


class Toolbox:
    """The tools of a worker. Use it from one event loop."""

    def __init__(
        self,
        rules: Sequence[ToolRule] = (),
        bounds: ToolBounds = ToolBounds(),
        *,
        sources: Sequence[ToolSource] = (),
        extra: Mapping[str, Tool] | None = None,
    ) -> None:
        """``extra``: tools by name that come before the installed ones (for tests and embedding)."""
        self._rules = tuple(rules)
        self._sources = tuple(sources)
        self._bounds = bounds
        self._loaded: dict[str, Tool | None] = dict(extra or {})
        self._names: tuple[str, ...] | None = None
        self._places = asyncio.Semaphore(bounds.max_running)
        self._places_of: dict[str, asyncio.Semaphore] = {}

    async def offered(self, turn: TurnInput) -> TurnInput:
        """The turn with the tools that it may use."""
        client = {tool.name: tool for tool in turn.client_tools} if turn.allow_tools else {}
        if not self._rules or not turn.allow_tools:
            return replace(turn, tools=TurnToolbox(self, {}, turn, client)) if client else turn

        subject = {"session": turn.session_id, "channel": turn.channel, "model": turn.model}

        def wanted(name: str) -> bool:
            return any(rule.allows(name, **subject) for rule in self._rules)

        def may_want_some(prefix: str) -> bool:
            return any(rule.may_allow_some(prefix, **subject) for rule in self._rules)

        tools = {tool.definition.name: tool for name in self._known() if wanted(name) and (tool := self._load(name))}
        for source in self._sources:
            for tool in await source.tools(wanted, may_want_some):
                tools.setdefault(tool.definition.name, tool)
        return replace(turn, tools=TurnToolbox(self, tools, turn, client)) if tools or client else turn

    async def aclose(self) -> None:
        """End the servers of tools."""
        for source in self._sources:
            await source.aclose()

    def _known(self) -> tuple[str, ...]:
        if self._names is None:
            self._names = tuple(sorted({*self._loaded, *registry.installed_names()}))
        return self._names

    def _load(self, name: str) -> Tool | None:
        if name not in self._loaded:
            self._loaded[name] = registry.load(name)
        return self._loaded[name]

    # ---- a call

    async def run(self, tool: Tool, call: ToolCall, turn: TurnInput, before_start: BeforeStart) -> ToolResult:
        """Run a call; whatever goes wrong is its result. Only a cancellation comes through.

        ``before_start`` is waited for when there is a free place, however late that is.
        """
        limits = tool.limits
        timeout_s = self._bounds.timeout_s if limits.timeout_s is None else limits.timeout_s
        with tracing.tool_call(tool.definition.name, call.call_id, turn.session_id) as failed:
            ended = await self._contained(tool, call, turn, timeout_s, before_start)
            if ended.outcome != "ok":
                failed(ended.outcome)
        most = self._bounds.max_output_bytes if limits.max_output_bytes is None else limits.max_output_bytes
        text = _cut(repaired(ended.text), most)
        return ToolResult(call_id=call.call_id, content=text_content(text), name=call.name, outcome=ended.outcome)

    async def _contained(
        self, tool: Tool, call: ToolCall, turn: TurnInput, timeout_s: float, before_start: BeforeStart
    ) -> _Ended:
        try:
            return await contained(
                self._ended(tool, call, turn, timeout_s, before_start),
                timeout_s=2 * timeout_s + _GRACE_S,
                what="a tool",
                session_id=turn.session_id,
            )
        except TookTooLongError:
            return _timed_out(timeout_s)
        except UnexpectedError:  # it cancelled its own task, or wanted to end the process
            return _Ended("error", "Error: the tool failed.")

    async def _ended(
        self, tool: Tool, call: ToolCall, turn: TurnInput, timeout_s: float, before_start: BeforeStart
    ) -> _Ended:
        try:
            bound = tool.bind(call.arguments, _context(call, turn))
            value = await self._in_its_place(tool, bound, timeout_s, before_start)
            return _Ended("ok", _as_text(value))
        except ToolError as error:
            said = without_known_secrets(str(error)[: 8 * _MAX_MESSAGE_CHARACTERS])  # it goes into the log of events
            return _Ended("error", f"Error: {said[:_MAX_MESSAGE_CHARACTERS]}")
        except TookTooLongError:
            return _timed_out(timeout_s)
        except BaseException as error:
            if was_cancelled(error):
                raise
            said = message_of(error, [call.arguments, *texts_of(turn)])
            place = at(session=turn.session_id, turn=turn.turn_id)
            name = tool.definition.name
            log.warning("the tool %s raised %s: %s (%s)", name, type_name(error), said, place_of(error), extra=place)
            return _Ended("error", f"Error: the tool failed ({type_name(error)}).")

    async def _in_its_place(
        self, tool: Tool, bound: Callable[[], object], timeout_s: float, before_start: BeforeStart
    ) -> object:
        """Run it when there is a free place; a thread keeps its place until it ends, however late that is."""
        places = [self._places_for(tool), self._places]
        taken: list[asyncio.Semaphore] = []
        waiting = asyncio.timeout(timeout_s)
        try:
            async with waiting:
                for each in places:
                    await each.acquire()
                    taken.append(each)
                await before_start()
        except BaseException as error:
            why = "too many calls of tools are running" if len(taken) < len(places) else "its worker has been cut off"
            _free(taken)
            if isinstance(error, TimeoutError) and waiting.expired():
                raise ToolError(f"it was not started: {why} for {timeout_s:g} s now") from error
            raise
        running: Awaitable[object]
        if tool.blocking:
            running = _in_thread(bound, f"tool {tool.definition.name}", done=partial(_free, taken))
        else:
            running = _freeing(cast(Callable[[], Awaitable[object]], bound), taken)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await running
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TookTooLongError from error

    def _places_for(self, tool: Tool) -> asyncio.Semaphore:
        name = tool.definition.name
        if name not in self._places_of:
            most = self._bounds.max_running_per_tool if tool.limits.max_running is None else tool.limits.max_running
            self._places_of[name] = asyncio.Semaphore(max(1, most))
        return self._places_of[name]

    @property
    def max_calls_per_step(self) -> int:
        """Calls of one message that are run."""
        return self._bounds.max_calls_per_step


@dataclass(slots=True)
class TurnToolbox:
    """The tools of one turn: runs calls that are in the log, each once."""

    _toolbox: Toolbox
    _tools: Mapping[str, Tool]
    _turn: TurnInput
    _client: Mapping[str, ToolDefinition] = field(default_factory=dict)  #: of a name that is here and there, it counts
    before_start: BeforeStart = _at_once  #: waited for before each start: may it still?
    _startable: list[tuple[int, ToolCall]] = field(default_factory=list)  #: stored, not started; with their positions

    @property
    def definitions(self) -> Sequence[ToolDefinition]:
        """What to tell the model."""
        own = (tool.definition for name, tool in self._tools.items() if name not in self._client)
        # A copy: a runner may rewrite a schema for its provider, and the tool is every turn's.
        return tuple(
            replace(each, parameters=deepcopy(dict(each.parameters))) for each in (*own, *self._client.values())
        )

    def declared(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """The calls, those of our tools as idempotent as these are declared, those of the client marked as its own."""
        return tuple(self._declared(call) for call in calls)

    def _declared(self, call: ToolCall) -> ToolCall:
        if call.name in self._client:
            return replace(call, client=True, idempotent=False)
        tool = self._tools.get(call.name)
        return call if tool is None else replace(call, idempotent=tool.definition.idempotent)

    def stored(self, calls: Sequence[ToolCall]) -> None:
        """These calls are in the log, without a result: they may be started now."""
        self._startable = list(enumerate(call for call in calls if not call.client))

    async def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolResult]:
        """As ``runners.base.TurnTools`` says."""
        ours = [call for call in calls if call.name not in self._client]
        tasks = [asyncio.ensure_future(self._result(*self._taken(call))) for call in ours]
        try:
            for task in tasks:
                yield await task
        finally:
            rest = [task for task in tasks if not task.done()]
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest)

    def _taken(self, call: ToolCall) -> tuple[int, ToolCall]:
        """The stored call, and its position in its message; ids repeat, so the first one that was not started."""
        for index, (position, stored) in enumerate(self._startable):
            if stored.call_id == call.call_id and stored.name == call.name:
                del self._startable[index]
                return position, stored
        reason = "the runner starts a tool call that is not in the log yet, or was started before"
        raise RunnerError("unexpected_tool_call", reason, retryable=False)

    async def _result(self, position: int, call: ToolCall) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            return no_such_tool(call, tuple(tool.name for tool in self.definitions))
        if position >= self._toolbox.max_calls_per_step:
            most = self._toolbox.max_calls_per_step
            text = f"Error: it was not started: of the calls in one message {most} are run. Call it again."
            return ToolResult(call_id=call.call_id, content=text_content(text), name=call.name, outcome="error")
        return await self._toolbox.run(tool, call, self._turn, self.before_start)


def _context(call: ToolCall, turn: TurnInput) -> ToolContext:
    return ToolContext(
        session_id=turn.session_id,
        channel=turn.channel,
        turn_id=turn.turn_id,
        attempt=turn.attempt,
        call_id=call.call_id,
        idempotency_key=call.idempotency_key,
        fencing_token=turn.fencing_token,
    )


def _timed_out(timeout_s: float) -> _Ended:
    return _Ended("timed_out", f"Error: the tool did not end within {timeout_s:g} s. It may have done what it was for.")


def _cut(text: str, most_bytes: int) -> str:
    """The text within the bound, with a word about the rest."""
    kept = cut_text(text, most_bytes)
    return text if kept is text else f"{kept}\n[cut: the first {most_bytes} bytes of {len(text.encode())}]"


def _as_text(value: object) -> str:
    """What a tool returned, as a model reads it. Raises :class:`ToolError` if it cannot."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise ToolError(f"the tool returned a {type_name(value)}, which is neither a text nor JSON") from error


def _free(places: list[asyncio.Semaphore]) -> None:
    while places:
        places.pop().release()


async def _freeing(bound: Callable[[], Awaitable[object]], places: list[asyncio.Semaphore]) -> object:
    try:
        return await bound()
    finally:
        _free(places)


def _in_thread(call: Callable[[], object], name: str, *, done: Callable[[], None]) -> asyncio.Future[object]:
    """Run it in a thread that ends with the process, whatever it does; ``done`` is called in the loop when it ends."""
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[object] = loop.create_future()

    def ended(value: object, error: BaseException | None) -> None:
        done()
        if ending.done():  # nobody waits any more
            return
        if error is None:
            ending.set_result(value)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            ending.set_exception(error)
        else:
            ending.set_exception(UnexpectedError(f"the tool raised {type_name(error)}"))

    def work() -> None:
        value: Any = None
        failed: BaseException | None = None
        try:
            value = call()
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(ended, value, failed)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name=name, daemon=True).start()
    return ending
