"""Tools: what a model is told of them, who may use them, and how their calls end, whatever they do."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import BaseModel, Field

from tests.model_server import Call, Good, ModelServer, model_server, says
from tests.one_session import LIMITS, OneSession, PlayedRunner
from turnlog.runner import AssistantMessage, RunnerOutput, TurnInput, UsageReport
from turnlog.tools import FunctionTool, ToolContext, ToolError, tool
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ToolCall, Usage, content_text, text_content
from turnlog_streams.session.commands import ResumeTurn
from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import keep_secret
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.base.tool_rules import ToolRule, read_rules
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners
from turnlog_workers.tools.base import Tool
from turnlog_workers.tools.calculator import calculated, calculator
from turnlog_workers.tools.clock import clock
from turnlog_workers.tools.toolbox import ToolBounds, Toolbox

ANY = read_rules(["*"])
BOUNDS = ToolBounds(timeout_s=5.0, max_output_bytes=1000)
CONTEXT = ToolContext(
    session_id="s", channel="c", turn_id="t", attempt=1, call_id="1", idempotency_key="t:2:0", fencing_token=7
)


def call(name: str, arguments: dict[str, Any] | str = "{}", call_id: str = "1") -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(call_id=call_id, name=name, arguments=text)


def toolbox(*tools: FunctionTool, bounds: ToolBounds = BOUNDS, rules: tuple[ToolRule, ...] = ANY) -> Toolbox:
    own: dict[str, Tool] = {each.name: each for each in tools}
    return Toolbox(rules, bounds, extra=own)


def calls_then_answers(*calls: ToolCall) -> Callable[[TurnInput], AsyncIterator[RunnerOutput]]:
    """A plug-in's runner with tools."""

    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if not turn.turn_messages:
            yield AssistantMessage(content=None, tool_calls=calls)
            async for result in turn.tools.run(calls):
                yield result
        else:
            last = turn.turn_messages[-1]
            async for result in turn.tools.run(last.tool_calls if last.role == "assistant" else ()):
                yield result
        yield AssistantMessage(content=text_content("Done."))

    return play


async def results_of(box: Toolbox, *calls: ToolCall, **fields: Any) -> list[tuple[str | None, str]]:
    """Outcome and text of the calls, as the log has them."""
    one = OneSession(main=calls_then_answers(*calls), toolbox=box, **fields)
    await one.say("Go.")
    assert "TurnCompleted" in one.kinds, one.events[-1]
    stored = [event for event in one.of(ev.MessageStored) if event.role == "tool"]
    return [(event.outcome, content_text(event.content) or "") for event in stored]


async def first_true(ask: Callable[[], Awaitable[bool]], tries: int = 100) -> bool:
    """Ask again until it is so."""
    for _ in range(tries):
        if await ask():
            return True
    return False


# ---- a function as a tool


class Place(BaseModel):
    city: str
    country: str = "DE"


@tool(idempotent=True, timeout_s=3)
async def weather(
    place: Place, days: Annotated[int, Field(ge=1, le=7)] = 1, *, unit: Literal["C", "F"] = "C", context: ToolContext
) -> dict[str, Any]:
    """The weather of the next days.

    It is a forecast.

    Args:
        place: where: a city,
            and a country
        days (int): how many days
    Returns:
        what it will be
    """
    return {"city": place.city, "days": days, "unit": unit, "key": context.idempotency_key, "of": context.fencing_token}


def test_what_a_model_is_told_comes_from_the_signature_and_the_docstring() -> None:
    assert weather.name == "weather"
    assert weather.definition.description == "The weather of the next days.\n\nIt is a forecast."
    schema = dict(weather.definition.parameters)
    assert list(schema["properties"]) == ["place", "days", "unit"]  # the context is no business of a model
    assert schema["required"] == ["place"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["place"]["description"] == "where: a city, and a country"
    assert schema["properties"]["days"] == {"default": 1, "maximum": 7, "minimum": 1, "type": "integer"}
    assert schema["properties"]["unit"]["enum"] == ["C", "F"]


def test_a_docstring_with_param_fields() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add.

        :param a: one
        :param b: the other
        """
        return a + b

    assert add.definition.description == "Add."
    assert add.definition.parameters["properties"]["b"]["description"] == "the other"
    assert add(1, 2) == 3


def test_a_function_that_no_model_could_call_is_no_tool() -> None:
    def untyped(a) -> str:  # type: ignore[no-untyped-def]
        return str(a)

    def positional(a: int, /) -> int:
        return a

    def many(*numbers: int) -> int:
        return sum(numbers)

    for function, why in ((untyped, "has no type"), (positional, "by its name"), (many, "by its name")):
        with pytest.raises(TypeError, match=why):
            FunctionTool(function)
    with pytest.raises(TypeError, match="no name of a tool"):
        FunctionTool(untyped, name="a b")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{}", "place: Field required"),
        ('{"place": {"city": "Bonn"}, "days": 9}', "days: Input should be less than or equal to 7"),
        ('{"place": {"city": "Bonn"}, "day": 9}', "day: Extra inputs are not permitted"),
        ('{"place": "Bonn"}', "place: "),
        ("[1]", "should be an object"),
        ('{"place": ', "Invalid JSON"),
        ('{"place":' * 3000, "Invalid JSON"),
    ],
)
async def test_arguments_that_do_not_fit_are_a_result_that_says_so(arguments: str, why: str) -> None:
    ((outcome, text),) = await results_of(toolbox(weather), call("weather", arguments))
    assert outcome == "error"
    assert why in text


async def test_the_key_and_the_token_reach_the_tool_as_the_log_has_them() -> None:
    one = OneSession(main=calls_then_answers(call("weather", {"place": {"city": "Bonn"}})), toolbox=toolbox(weather))
    await one.say("Go.")
    asked, result = one.of(ev.MessageStored)[1:3]
    (stored,) = asked.tool_calls
    assert stored.idempotent  # as the tool is declared, whatever the runner said
    assert stored.idempotency_key == "t1:2:0"
    told = json.loads(content_text(result.content) or "")
    assert told == {"city": "Bonn", "days": 1, "unit": "C", "key": "t1:2:0", "of": 7}
    assert result.outcome == "ok"


# ---- how calls end


async def test_every_way_to_fail_is_a_result(caplog: pytest.LogCaptureFixture) -> None:
    @tool
    async def says_why() -> str:
        raise ToolError("no such city")

    @tool
    async def raises() -> str:
        raise RuntimeError("secret words of the user")

    @tool
    def exits() -> str:
        raise SystemExit(3)

    @tool
    async def exits_async() -> str:
        raise SystemExit(3)

    @tool
    async def cancels_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return ""

    @tool
    def returns_nonsense() -> object:
        return threading.Lock()

    @tool
    def nothing() -> None:
        return None

    @tool
    def half() -> str:
        return "half \ud83d"

    @tool
    def stops() -> str:
        raise StopIteration

    tools = (says_why, raises, exits, exits_async, cancels_itself, returns_nonsense, nothing, half, stops)
    box = toolbox(*tools)
    with caplog.at_level(logging.WARNING):
        results = await results_of(box, *(call(each.name, call_id=each.name) for each in tools))
    by_name = dict(zip([each.name for each in tools], results, strict=True))
    assert by_name["says_why"] == ("error", "Error: no such city")
    assert by_name["raises"] == ("error", "Error: the tool failed (RuntimeError).")
    assert {by_name[name][0] for name in ("exits", "exits_async", "cancels_itself", "stops")} == {"error"}
    assert "neither a text nor JSON" in by_name["returns_nonsense"][1]
    assert by_name["nothing"] == ("ok", "")
    assert by_name["half"] == ("ok", "half �")
    assert "RuntimeError: secret words of the user" in caplog.text  # the operator's log, and nowhere else


async def test_a_call_that_takes_too_long_is_timed_out() -> None:
    released, started = threading.Event(), threading.Event()

    @tool(timeout_s=0.05)
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    @tool(timeout_s=0.05, max_running=1)
    def stuck() -> str:
        started.set()
        released.wait(30)
        return "late"

    box = toolbox(never, stuck)
    try:
        results = await results_of(box, call("never"), call("stuck"))
        assert [outcome for outcome, _ in results] == ["timed_out", "timed_out"]
        assert started.is_set()
        ((outcome, text),) = await results_of(box, call("stuck"))  # its one place is still taken
        assert outcome == "error"
        assert "not started" in text
    finally:
        released.set()


async def test_output_is_cut_and_says_so() -> None:
    @tool(max_output_bytes=10)
    def long() -> str:
        return "日本" * 100

    ((outcome, text),) = await results_of(toolbox(long), call("long"))
    assert (outcome, text) == ("ok", "日本日\n[cut: the first 10 bytes of 600]")


async def test_calls_of_a_message_run_side_by_side_within_their_bounds() -> None:
    running, most = 0, 0
    both = asyncio.Event()

    @tool
    async def counts() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            both.set()
        await both.wait()
        running -= 1
        return "counted"

    box = toolbox(counts, bounds=replace(BOUNDS, max_running_per_tool=2, max_calls_per_step=3))
    results = await results_of(box, *(call("counts", call_id=str(number)) for number in range(4)))
    assert [outcome for outcome, _ in results] == ["ok", "ok", "ok", "error"]
    assert "not started" in results[3][1]
    assert most == 2


async def test_the_event_loop_goes_on_while_a_tool_holds_its_thread() -> None:
    here = threading.get_ident()
    seen: list[int] = []

    @tool
    def works() -> str:
        seen.append(threading.get_ident())
        return "done"

    await results_of(toolbox(works), call("works"))
    assert seen
    assert seen[0] != here


async def test_a_cancelled_turn_cancels_its_tools_and_closes_their_calls() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    @tool
    async def waits() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    one = OneSession(main=calls_then_answers(call("waits")), toolbox=toolbox(waits))
    one.chat("Go.")
    await asyncio.wait_for(begun.wait(), 60)
    one.chat("Stop.", on_busy="interrupt")
    await asyncio.wait_for(ended.wait(), 60)
    closed = next(event for event in one.of(ev.MessageStored) if event.role == "tool")
    assert (closed.interrupted, closed.outcome) == (True, "interrupted")
    await one.actor.stop()


# ---- what may be started


async def test_no_tool_starts_before_its_call_is_in_the_log_and_none_twice() -> None:
    started: list[str] = []

    @tool
    async def note() -> str:
        started.append("now")
        return ""

    async def too_early(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        async for result in turn.tools.run([call("note")]):
            yield result

    async def twice(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield AssistantMessage(content=None, tool_calls=(call("note"),))
        async for result in turn.tools.run([call("note")]):
            yield result
        async for result in turn.tools.run([call("note")]):
            yield result

    for play, count in ((too_early, 0), (twice, 1)):
        started.clear()
        one = OneSession(main=play, toolbox=toolbox(note))
        await one.say("Go.")
        (failed,) = one.of(ev.TurnFailed)
        assert failed.code == "unexpected_tool_call"
        assert len(started) == count


@pytest.mark.parametrize("idempotent", [True, False])
async def test_after_a_takeover_only_idempotent_calls_are_made_again(idempotent: bool) -> None:
    keys: list[tuple[str, int]] = []
    begun = asyncio.Event()

    async def books(context: ToolContext) -> str:
        keys.append((context.idempotency_key, context.attempt))
        begun.set()
        if context.attempt == 1:
            await asyncio.Event().wait()
        return "booked"

    book = FunctionTool(books, name="book", idempotent=idempotent)

    class GoesOn(PlayedRunner):
        """Takes a history with open calls: it runs them."""

        def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
            return self.play(turn)

    class Resumed(OneSession):
        def make_runner(self, model: str) -> PlayedRunner:
            return GoesOn(model, self.main, self.given)

    one = Resumed(main=calls_then_answers(call("book")), toolbox=toolbox(book))
    turn_id = one.chat("Go.")
    await asyncio.wait_for(begun.wait(), 60)
    await one.actor.stop()  # the owner is gone
    one.tell(ResumeTurn(turn_id=turn_id, attempt=1))
    await one.settle()
    (result,) = (event for event in one.of(ev.MessageStored) if event.role == "tool")
    if idempotent:
        assert keys == [("t1:2:0", 1), ("t1:2:0", 2)]
        assert (result.outcome, content_text(result.content)) == ("ok", "booked")
    else:
        assert keys == [("t1:2:0", 1)]
        assert (result.outcome, result.interrupted) == ("interrupted", True)
    assert one.kinds[-1] == "TurnCompleted"


async def test_a_turn_that_has_used_its_tokens_starts_no_more_tools() -> None:
    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield UsageReport(usage=Usage(input_tokens=90, output_tokens=11, model_calls=1, last_input_tokens=90))
        yield AssistantMessage(content=None, tool_calls=(call("clock"),))

    one = OneSession(main=play, toolbox=toolbox(clock), limits=replace(LIMITS, max_turn_tokens=100))
    await one.say("Go.")
    (failed,) = one.of(ev.TurnFailed)
    assert failed.code == "too_many_tokens"
    assert "101 tokens" in failed.reason
    assert [event.role for event in one.of(ev.MessageStored)] == ["user"]


# ---- who may use them


def test_rules_say_which_turns_may_use_which_tools() -> None:
    rules = read_rules(["clock", "crm__*@channel:support-*", "sql@channel:ops@model:openai:*", "x@session:s-1"])

    def may(name: str, session: str = "s", channel: str = "c", model: str = "echo:") -> bool:
        return any(rule.allows(name, session=session, channel=channel, model=model) for rule in rules)

    assert may("clock")
    assert not may("calculator")
    assert may("crm__find", channel="support-de")
    assert not may("crm__find")
    assert may("sql", channel="ops", model="openai:gpt")
    assert not may("sql", channel="ops", model="http:x#y")
    assert may("x", session="s-1")
    assert not may("x", session="s-2")


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        ("*", True),
        ("crm__find", True),
        ("cr*", True),
        ("crm__*", True),
        ("crm_*", True),
        ("clock", False),
        ("crm", False),
    ],
)
def test_a_server_is_asked_only_where_a_rule_may_allow_a_tool_of_it(rule: str, asked: bool) -> None:
    (read,) = read_rules([rule])
    assert read.may_allow_some("crm__", session="s", channel="c", model="m") is asked
    (scoped,) = read_rules([f"{rule}@channel:other"])
    assert not scoped.may_allow_some("crm__", session="s", channel="c", model="m")


@pytest.mark.parametrize("text", ["a b", "@channel:x", "clock@channel:", "clock@chanel:x"])
def test_a_rule_that_says_nothing_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match=r"TURNLOG_ALLOW_TOOLS: .*(is no rule|followed by a pattern)"):
        Settings(allow_tools=text)  # type: ignore[arg-type]


async def test_tools_that_are_not_allowed_are_neither_offered_nor_run() -> None:
    one = OneSession(main=calls_then_answers(call("clock")), toolbox=toolbox(clock, rules=read_rules(["calculator"])))
    await one.say("Go.")
    assert [tool.name for tool in one.given[0].tools.definitions] == ["calculator"]
    (result,) = (event for event in one.of(ev.MessageStored) if event.role == "tool")
    assert result.outcome == "error"
    assert "no tool 'clock' here. There are: calculator" in (content_text(result.content) or "")


async def test_a_runner_that_rewrites_a_schema_rewrites_its_own() -> None:
    tools = toolbox(clock)
    one, other = (
        OneSession(main=calls_then_answers(), toolbox=tools),
        OneSession(main=calls_then_answers(), toolbox=tools),
    )
    await one.say("Go.")
    definition = one.given[0].tools.definitions[0]
    before = dict(definition.parameters)
    cast(dict[str, Any], definition.parameters)["additionalProperties"] = "rewritten"
    await other.say("Go.")
    untouched = other.given[0].tools.definitions[0]
    assert untouched.parameters == before


def test_no_tool_is_offered_unless_the_settings_say_so() -> None:
    assert Settings().allow_tools == ()


# ---- with a real runner


async def test_a_model_behind_http_is_told_of_its_tools_and_gets_their_results() -> None:
    asks = says(
        Good(pieces=(), calls=(Call(call_id="c1", name="calculator", arguments=('{"expression": ', '"6*7"}')),))
    )
    async with model_server(asks, says(Good(pieces=("It is 42.",)))) as server:
        one = _one_over_http(server, toolbox(calculator, clock))
        await one.say("What is six times seven?", model="http:x#m")
        assert one.kinds[-1] == "TurnCompleted", one.events[-1]
        first, second = server.received
        names = [each["function"]["name"] for each in first.body["tools"]]
        assert names == ["calculator", "clock", "sql"] or names == ["calculator", "clock"]
        assert first.body["tools"][0]["function"]["parameters"]["required"] == ["expression"]
        assert second.body["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "content": "42"}
        stored = one.of(ev.MessageStored)
        assert [(each.role, each.outcome) for each in stored[1:]] == [
            ("assistant", None),
            ("tool", "ok"),
            ("assistant", None),
        ]
        assert stored[1].tool_calls[0].arguments == '{"expression": "6*7"}'
        await one.actor.stop()


async def test_without_tools_the_request_names_none() -> None:
    async with model_server() as server:
        one = _one_over_http(server, Toolbox())
        await one.say("Hi", model="http:x#m")
        assert "tools" not in server.received[0].body
        await one.actor.stop()


def _one_over_http(server: ModelServer, box: Toolbox) -> OneSession:
    runners = HttpRunners(Settings(http_servers=json.dumps({"x": {"url": f"{server.url}/v1"}})))  # type: ignore[arg-type]

    class Over(OneSession):
        def make_runner(self, model: str) -> PlayedRunner:
            return runners(model)  # type: ignore[return-value]

    return Over(toolbox=box)


async def test_a_failure_holds_no_key_and_the_log_names_its_place(caplog: pytest.LogCaptureFixture) -> None:
    keep_secret("planted-of-the-shop")

    @tool
    async def says_why() -> str:
        raise ToolError("the shop at planted-of-the-shop is closed")

    @tool
    async def raises() -> str:
        raise ValueError("no answer to planted-of-the-shop")

    with caplog.at_level(logging.WARNING):
        results = await results_of(toolbox(says_why, raises), call("says_why"), call("raises"))
    assert results == [
        ("error", "Error: the shop at [secret] is closed"),
        ("error", "Error: the tool failed (ValueError)."),
    ]
    assert "ValueError: no answer to [secret]" in caplog.text
    assert f"({__file__}:" in caplog.text
    assert "in raises" in caplog.text


@pytest.mark.parametrize(
    ("model", "variable", "path", "named"),
    [
        ("openai:m", "OPENAI", "/v1", lambda body: [each["function"]["name"] for each in body["tools"]]),
        ("anthropic:m", "ANTHROPIC", "", lambda body: [each["name"] for each in body["tools"]]),
    ],
)
async def test_a_providers_model_is_told_of_its_tools_and_gets_their_results(
    model: str, variable: str, path: str, named: Callable[[Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = says(Good(pieces=(), calls=(Call(call_id="c1", name="calculator", arguments=('{"expression": "6*7"}',)),)))
    async with model_server(asks, says(Good(pieces=("It is 42.",)))) as server:
        monkeypatch.setenv(f"{variable}_API_KEY", "sk-" + "planted")
        monkeypatch.setenv(f"{variable}_BASE_URL", f"{server.url}{path}")
        runners = ProviderRunners(Settings())
        await runners.clients()  # loading them takes longer than a turn of a test may

        class Over(OneSession):
            def make_runner(self, model: str) -> PlayedRunner:
                return runners(model)  # type: ignore[return-value]

        box = toolbox(calculator, rules=read_rules(["calculator"]))
        one = Over(toolbox=box, limits=replace(LIMITS, turn_timeout_s=30.0))
        await one.say("What is six times seven?", model=model)
        assert one.kinds[-1] == "TurnCompleted", one.events[-1]
        first, second = server.received
        assert named(first.body) == ["calculator"]
        assert first.body.get("tool_choice") in (None, "auto", {"type": "auto"})
        assert "42" in json.dumps(second.body["messages"][-1])
        assert [each.outcome for each in one.of(ev.MessageStored) if each.role == "tool"] == ["ok"]
        await one.actor.stop()


# ---- the tools that come with Turnlog


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("0.1 + 0.2", "0.3"),
        ("(1234.5 * 1.19) / 12", "122.42125"),
        ("-2 ** 2", "-4"),
        ("7 // -2", "-4"),
        ("-7 % 3", "2"),
        ("round(2.345, 2)", "2.34"),
        ("sqrt(2)", "1.414213562373095048801688724209698"),
        ("max(1, 2.5, -3)", "2.5"),
        ("2 ** 200", "1.606938044258990275541962092341163E+60"),
        ("99999999999999999999 + 1", "100000000000000000000"),
        ("abs(-12345678901234567890123456789.5)", "12345678901234567890123456789.5"),
        ("0x1f + 1_000", "1031"),
        ("sin(pi / 2)", "1"),
    ],
)
def test_the_calculator_calculates(expression: str, value: str) -> None:
    assert calculated(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "",
            "1 +",
            "x",
            "1; 2",
            "'a' * 9",
            "True",
            "1j",
            "__import__('os')",
            "(1).real",
            "[1][0]",
            "lambda: 1",
            "f'{1}'",
        ),
        *("1 / 0", "0 / 0", "ln(0)", "sqrt(-1)", "1e9999999", "9 ** 9 ** 9 ** 9", "exp(1e300)", "(-8) ** (1/3)"),
        *("min()", "sqrt(1, 2)", "round(1, 2, 3)", "round(1, 99)", "min(x=1)", "1" * 501, "(" * 250 + "1" + ")" * 250),
        "-" * 499 + "(",
    ],
)
def test_the_calculator_says_what_it_cannot_read(expression: str) -> None:
    with pytest.raises(ToolError):
        calculated(expression)


async def test_the_clock_knows_the_time_in_a_zone() -> None:
    told = await clock.function()
    assert told.endswith("day)")
    assert "+00:00" in told
    assert time.gmtime().tm_year == int(told[:4])
    for name in ("Nowhere/City", "../../etc/passwd", "/etc/passwd", "\0", "x" * 5000, "America"):
        with pytest.raises(ToolError, match="no time zone"):
            await clock.function(name)


async def test_a_place_comes_back_when_its_thread_ends() -> None:
    released = threading.Event()

    @tool(timeout_s=0.05, max_running=1)
    def stuck() -> str:
        released.wait(30)
        return "in time"

    box = toolbox(stuck)
    assert (await results_of(box, call("stuck")))[0][0] == "timed_out"
    released.set()

    async def works() -> bool:
        return (await results_of(box, call("stuck")))[0][0] == "ok"

    assert await first_true(works)
