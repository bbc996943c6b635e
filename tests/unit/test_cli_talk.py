"""What somebody at a terminal is told by ``chat``, and what ``send`` and ``settings`` do with what they are given."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.scripted_owner import Owner
from turnlog.cli.app import app
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import Usage, content_text

ANSWERED = (fr.TurnStarted(model="echo:"), fr.TurnCompleted(text="Hello", usage=Usage()))
REFUSED = (fr.RequestRefused(code="model_not_allowed", reason="not here"),)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TURNLOG_ALLOW_MODELS", raising=False)


def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    return result.exit_code, result.stdout, result.stderr


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, *answers: tuple[Any, ...]) -> Owner:
    """One who answers each message with the next of these, the last one again and again."""
    left = list(answers)
    monkeypatch.setattr("turnlog.terminal.output.is_terminal", lambda _: True)
    return Owner(lambda _: left.pop(0) if len(left) > 1 else left[0]).instead_of_kafka(monkeypatch)


def test_the_command_that_goes_on_has_the_options_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    at_a_terminal(monkeypatch, ANSWERED)
    model = "script:7?tools=2&delta_ms=40"
    code, _, err = run("chat", "web-1", "--model", model, "--data-dir", "my data", stdin="Hi\n/quit\n")
    assert code == 0
    assert err.endswith(f"\nTo continue this session: turnlog chat web-1 --model '{model}' --data-dir 'my data'\n")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([REFUSED], 5), ([REFUSED, ANSWERED], 0), ([ANSWERED, REFUSED], 0)],
    ids=["never answered", "answered at last", "answered at first"],
)
def test_a_conversation_without_any_answer_failed(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[Any, ...]], expected: int
) -> None:
    at_a_terminal(monkeypatch, *answers)
    code, _, err = run("chat", "web-1", stdin="Hi\nAgain\n/quit\n")
    assert code == expected
    assert "(refused (model_not_allowed): not here)" in err
    assert ("To continue this session" in err) == (expected == 0)


@pytest.mark.parametrize("session_id", ["bad id!", "", "é", "x" * 129])
def test_an_id_that_no_session_has_is_refused_before_anything(session_id: str) -> None:
    code, out, err = run("chat", session_id, "-b", "127.0.0.1:1", stdin="Hi\n")
    assert (code, out) == (2, "")
    assert "is no session id: 1 to 128 characters" in err


@pytest.mark.parametrize(
    ("given", "sent"), [("Hi\n", "Hi"), ("Hi\r\n", "Hi"), ("Hi", "Hi"), ("a\n\nb\n\n", "a\n\nb\n")]
)
def test_the_end_of_the_last_line_is_not_sent(monkeypatch: pytest.MonkeyPatch, given: str, sent: str) -> None:
    owner = Owner(lambda _: ANSWERED).instead_of_kafka(monkeypatch)
    assert run("send", "web-1", "-", stdin=given)[0] == 0
    ((_, command),) = owner.asked
    assert content_text(command.content) == sent


@pytest.mark.parametrize(
    ("name", "value", "unknown"), [("runner/foo", "echo", "foo"), ("runner/echo", "bar", "bar"), ("runner/f", "b", "f")]
)
def test_a_runner_that_does_not_exist_is_refused_with_those_that_do(name: str, value: str, unknown: str) -> None:
    code, out, err = run("settings", "set", name, value, "-b", "127.0.0.1:1")
    assert (code, out) == (2, "")
    assert f"there is no runner '{unknown}' here" in err
    assert "echo" in err
    assert "script" in err


def test_no_settings_are_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Owner(lambda _: ()).instead_of_kafka(monkeypatch)
    monkeypatch.setattr("turnlog_workers.kafka.settings_topic.read_settings", lambda *_, **__: {})
    assert run("settings", "list") == (
        0,
        "",
        "No run-time settings are set: every worker does what it was started with.\n",
    )
    assert run("settings", "list", "--json") == (0, "{}\n", "")
