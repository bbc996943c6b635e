"""What somebody at a terminal is told by ``chat``, and what ``send`` and ``settings`` do with what they are given."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.scripted_owner import Owner
from turnlog.cli.app import app
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import GetSession
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
    """One who answers each message with the next of these, the last one again and again; the session is a new one."""
    left = list(answers)

    def answer(command: object) -> tuple[Any, ...]:
        if isinstance(command, GetSession):
            return (fr.RequestRefused(code="not_found", reason="no such session"),)
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr("turnlog.terminal.output.is_terminal", lambda _: True)
    monkeypatch.setattr("turnlog.cli.conversation.prompt_on_terminal", lambda: input)
    return Owner(answer).instead_of_kafka(monkeypatch)


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


# ---- files and parameters


def sent_by(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: str = "") -> Any:
    owner = Owner(lambda _: ANSWERED).instead_of_kafka(monkeypatch)
    code, _, err = run(*arguments, stdin=stdin)
    assert code == 0, err
    ((_, command),) = owner.asked
    return command


def test_a_file_is_sent_as_a_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a photo.png").write_bytes(b"12345")
    command = sent_by(
        monkeypatch, "send", "web-1", "Look", "--file", "a photo.png", "--file", "https://x.example/b.jpg"
    )
    text, file, other = command.content
    assert (text.kind, text.text) == ("text", "Look")
    assert (file.kind, file.media_type, file.bytes) == ("file_ref", "image/png", 5)
    assert file.uri == f"{tmp_path.resolve().as_uri()}/a%20photo.png"
    assert file.sha256 == hashlib.sha256(b"12345").hexdigest()
    assert (other.uri, other.media_type, other.bytes) == ("https://x.example/b.jpg", "image/jpeg", None)


def test_a_file_whose_name_does_not_tell_its_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "scan").write_bytes(b"1")
    (file,) = sent_by(monkeypatch, "send", "web-1", "", "--file", "scan:image/tiff").content
    assert (file.media_type, file.bytes) == ("image/tiff", 1)
    code, _, err = run("send", "web-1", "x", "--file", "scan")
    assert (code, "does not tell its media type" in err) == (2, True)


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ("none.png", 4, "cannot read"),
        ("data:image/png;base64,AAAA", 2, "data:image/png"),
        ("https://u:p@x.example/a.png", 2, "name or a password"),
        ("https://x.example/../a.png", 2, "with . or .."),
    ],
)
def test_what_is_no_file(said: str, code: int, reason: str) -> None:
    found, _, err = run("send", "web-1", "x", "--file", said, "-b", "127.0.0.1:1")
    assert (found, reason in err) == (code, True), err


def test_a_file_of_the_next_message_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    owner = Owner(lambda _: ANSWERED).instead_of_kafka(monkeypatch)
    assert run("chat", "web-1", stdin="Hi\n/file a.png\nLook\nAnd?\n")[0] == 0
    kinds = [[part.kind for part in command.content] for _, command in owner.asked]
    assert kinds == [["text"], ["text", "file_ref"], ["text"]]


PARAMS = ("--temperature", "0.5", "--max-tokens", "9", "--stop", "END", "--model-setting", "top_p=0.9")
EFFORT = ("--model-setting", "effort=high")


@pytest.mark.parametrize(
    "command", [("send", "web-1", "Hi"), ("sessions", "create", "web"), ("sessions", "resolve", "web")]
)
def test_parameters_of_a_message_and_of_a_session(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    if command[0] != "send":
        opened = (fr.SessionInfo(title="", created=True),)
        owner = Owner(lambda _: opened).instead_of_kafka(monkeypatch)
        code, _, err = run(*command, *PARAMS, *EFFORT)
        assert code == 0, err
        params = owner.asked[0][1].new_session.params
    else:
        params = sent_by(monkeypatch, *command, *PARAMS, *EFFORT).params
    expected = {"top_p": "0.9", "effort": '"high"'}
    assert (params.temperature, params.max_tokens, params.stop, dict(params.settings)) == (0.5, 9, ("END",), expected)


@pytest.mark.parametrize(("said", "reason"), [("top_p", "NAME=VALUE"), ("stream=true", "stream")])
def test_a_setting_that_cannot_be(said: str, reason: str) -> None:
    code, _, err = run("send", "web-1", "Hi", "--model-setting", said, "-b", "127.0.0.1:1")
    assert (code, reason in err) == (2, True), err
