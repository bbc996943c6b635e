"""Parameters of generation: what is refused, whose word counts, and what a model's server is asked with."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.model_server import model_server
from tests.one_session import OneSession, PlayedRunner
from turnlog.errors import UsageError
from turnlog_schemas import events as ev
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat
from turnlog_schemas.errors import InvalidCommandError
from turnlog_schemas.generation import NO_PARAMS, GenerationParams, merged
from turnlog_schemas.parts import NewSession, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.policy import Policy
from turnlog_streams.session.commands import FailAttempt
from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.intake.command_hash import command_hash
from turnlog_workers.runners.models.http import HttpRunners


def request(params: Any, *, of_session: bool = False) -> bytes:
    command: dict[str, Any] = {"type": "chat", "text": "Hi"}
    command |= {"new_session": {"params": params}} if of_session else {"params": params}
    return json.dumps({"session_id": "s", "request_id": "r", "command": command}).encode()


@pytest.mark.parametrize("of_session", [False, True])
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1_000_001}, "max_tokens"),
        ({"stop": "END"}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x" * 257]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_p": 0.5}, "top_p"),
        ({"settings": {"top_p": 0.5}}, "settings"),
        ({"settings": {"top_p": "high"}}, "no JSON"),
        ({"settings": {"top_p": "NaN"}}, "no JSON"),
        ({"settings": {"a b": "1"}}, "no name"),
        ({"settings": {"messages": "[]"}}, "not for a request"),
        ({"settings": {"stream": "false"}}, "not for a request"),
        ({"settings": {f"s{n}": "1" for n in range(33)}}, "33 entries"),
        ({"settings": {"s": json.dumps("x" * 9000)}}, "bytes"),
    ],
)
def test_what_no_model_could_be_asked_with_is_refused(params: dict[str, Any], why: str, of_session: bool) -> None:
    with pytest.raises(InvalidCommandError, match=why) as caught:
        RequestCodec().decode_request(request(params, of_session=of_session))
    assert caught.value.code == "invalid_command"


def test_what_fits_is_read_in_both_framings() -> None:
    said = {"temperature": 1, "max_tokens": 300, "stop": ["END"], "settings": {"seed": "7", "effort": '"high"'}}
    header, chat, _ = RequestCodec().decode_request(request(said))
    expected = GenerationParams(
        temperature=1.0, max_tokens=300, stop=("END",), settings={"seed": "7", "effort": '"high"'}
    )
    assert chat.params == expected
    assert RequestCodec().decode_request(RequestCodec().encode(header, chat))[1].params == expected


def test_a_request_that_says_nothing_of_it_is_the_same_one_as_ever() -> None:
    chat = Chat(content=text_content("Hi"), new_session=NewSession(title="T"))
    assert command_hash(chat) == "44c58827f669d889ef6fc2b80aaeb4fb"
    other = Chat(content=text_content("Hi"), new_session=NewSession(title="T"), params=GenerationParams(max_tokens=1))
    assert command_hash(other) != command_hash(chat)


def test_the_narrower_word_counts_field_by_field() -> None:
    wide = GenerationParams(temperature=0.1, max_tokens=10, stop=("A",), settings={"seed": "1", "top_p": "0.5"})
    narrow = GenerationParams(temperature=0.0, settings={"seed": "2"})
    assert merged(wide, None, narrow) == GenerationParams(
        temperature=0.0, max_tokens=10, stop=("A",), settings={"seed": "2", "top_p": "0.5"}
    )
    assert merged(None, NO_PARAMS) is None
    assert merged(None, narrow, NO_PARAMS) == narrow


async def test_they_are_recorded_with_the_turn_and_kept_for_its_attempts_and_successors() -> None:
    policy = Policy(default_model="main:", allow_models=("*",), params=GenerationParams(max_tokens=50))
    one = OneSession(policy=policy)
    new = NewSession(params=GenerationParams(temperature=0.5))
    turn_id = one.chat("One", new_session=new, params=GenerationParams(stop=("END",)))
    one.chat("Two")  # waits, and is started by the end of the first one
    one.tell(
        FailAttempt(turn_id=turn_id, attempt=1, code="x", reason="x", retryable=True, usage=ev.Usage(), duration_ms=0)
    )
    await one.settle()
    first, again, second = one.of(ev.TurnStarted)
    assert first.params == GenerationParams(temperature=0.5, max_tokens=50, stop=("END",))
    assert again.params == first.params
    assert second.params == GenerationParams(temperature=0.5, max_tokens=50)
    assert one.of(ev.SessionCreated)[0].new_session.params == new.params
    assert one.given[-1].params == second.params
    await one.actor.stop()


async def test_a_server_is_asked_with_them_within_the_workers_bound() -> None:
    async with model_server() as server:
        servers = json.dumps({"x": {"url": f"{server.url}/v1"}})
        runners = HttpRunners(Settings(http_servers=servers, max_answer_tokens=200))  # type: ignore[arg-type]

        class Over(OneSession):
            def make_runner(self, model: str) -> PlayedRunner:
                return runners(model)  # type: ignore[return-value]

        one = Over()
        await one.say("Hi", model="http:x#m")
        params = GenerationParams(temperature=0.0, max_tokens=300, stop=("A", "B"), settings={"seed": "7", "x": "[1]"})
        await one.say("Hi", model="http:x#m", params=params)
        bare, asked = (received.body for received in server.received)
        assert bare.keys() == {"model", "messages", "stream", "stream_options", "max_tokens"}
        said = {name: asked[name] for name in ("temperature", "max_tokens", "stop", "seed", "x")}
        assert said == {"temperature": 0.0, "max_tokens": 200, "stop": ["A", "B"], "seed": 7, "x": [1]}
        await one.actor.stop()


def test_a_models_window_holds_its_answer_too() -> None:
    policy = Policy(model_windows=(("small:*", 4096), ("*", 100_000)), max_answer_tokens=1000)
    own = HistoryCompactionPolicy()
    assert policy.history_of("small:x", None, own).limit_tokens == 3096
    assert policy.history_of("small:x", GenerationParams(max_tokens=96), own).limit_tokens == 4000
    assert policy.history_of("small:x", GenerationParams(max_tokens=9000), own).limit_tokens == 3096
    assert policy.history_of("other:", None, own).limit_tokens == 80_000
    assert policy.history_of("small:x", None, HistoryCompactionPolicy(max_tokens=500)).limit_tokens == 500
    off = HistoryCompactionPolicy(max_tokens=-1)
    assert policy.history_of("small:x", None, off) is off


def test_the_embedded_model_s_window_is_known_and_a_summary_fits_into_it() -> None:
    settings = Settings(fast_model="smollm2:", allow_models="smollm2:*", embedded_context_tokens=2048)  # type: ignore[arg-type]
    policy = settings.policy()
    assert policy.window_of("smollm2:?max_tokens=100") == 2048
    assert policy.history_of("smollm2:", None, HistoryCompactionPolicy()).limit_tokens == 1024
    assert policy.summary_window == 2048
    assert replace(policy, fast_model="other:").summary_window == 32_768
    own = Settings(model_windows='{"smollm2:*": 1000}').policy()  # type: ignore[arg-type]
    assert own.window_of("smollm2:") == 1000


async def test_a_small_window_compacts_a_history_that_its_bounds_would_not() -> None:
    roomy = HistoryCompactionPolicy(max_tokens=50_000, keep_tail=2)
    for windows, runs in (((), 0), ((("main:*", 700),), 1)):
        policy = Policy(
            default_model="main:",
            fast_model="fast:",
            allow_models=("*",),
            history=roomy,
            model_windows=windows,
            max_answer_tokens=100,
        )
        one = OneSession(policy=policy)
        for number in range(6):
            await one.say(f"question {number}")
        assert bool(one.of(ev.HistoryCompacted)) == bool(runs)
        await one.actor.stop()


@pytest.mark.parametrize(
    "given",
    [
        {"model_params": "0.5"},
        {"model_params": '{"temperature": 3}'},
        {"model_params": '{"temprature": 1}'},
        {"model_windows": '{"x": 10}'},
        {"model_windows": "[]"},
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="TURNLOG_MODEL_"):
        Settings(**given)


def test_the_command_lines_options_are_checked() -> None:
    from turnlog.cli.common import params_of

    assert params_of(None, None, None, None) is None
    assert params_of(0.0, 5, ["x"], []) == GenerationParams(temperature=0.0, max_tokens=5, stop=("x",))
    with pytest.raises(UsageError, match="stop"):
        params_of(None, None, [""], None)
