"""``turnlog chat``: what is a message and what a command, the prompt's keys, and Ctrl-C during an answer."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from turnlog.cli.chat_input import Command, entered, parsed
from turnlog.cli.chat_prompt import ChatPrompt
from turnlog.cli.conversation import HELP, Asking, Conversation
from turnlog.client.background import BackgroundLoop
from turnlog.client.replies import FinishedTurn
from turnlog.errors import RequestTimedOutError, SessionNotFoundError, UsageError
from turnlog_schemas.parts import HistoryEntry, Usage, text_content

PASTE = "\x1b[200~{}\x1b[201~"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("  hello ", "hello"),
        ("   ", None),
        ("//etc/hosts?", "/etc/hosts?"),
        ("//", "/"),
        ("/model echo: ", Command(name="/model", argument="echo:")),
        ("/", Command(name="/")),
        ("/etc/hosts", Command(name="/etc/hosts")),
        ('"""\n  a\n\n/b\n"""', "  a\n\n/b"),
        ('"""a\nb"""', "a\nb"),
        ('"""a"""', "a"),
        ('""""""', None),
        # Pasted: to the letter.
        ("\n  def f():\n    return 1\n", "  def f():\n    return 1"),
        ("// a comment\nx = 1", "// a comment\nx = 1"),
        ("/* a comment */\nx = 1", "/* a comment */\nx = 1"),
        ('"""What it does."""\nimport os', '"""What it does."""\nimport os'),
        ('"""What\nit does.\n"""\nimport os', '"""What\nit does.\n"""\nimport os'),
    ],
)
def test_what_is_typed_is_a_message_or_a_command(typed: str, message: str | Command | None) -> None:
    assert parsed(typed) == message


def lines(*said: str) -> Callable[[], str]:
    waiting: Iterator[str] = iter(said)

    def read() -> str:
        line = next(waiting, None)
        if line is None:
            raise EOFError
        return line

    return read


def test_piped_lines_are_messages_and_a_block_is_one() -> None:
    said = lines("one", "", '"""', "two", "", "/three", '"""', '"""four"""', "/help", "//five")
    assert list(entered(said)) == ["one", "two\n\n/three", "four", Command(name="/help"), "/five"]


def test_a_piped_block_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ended in a block"):
        list(entered(lines('"""', "half")))
    monkeypatch.setattr("turnlog.cli.chat_input._MAX_BLOCK_CHARACTERS", 10)
    with pytest.raises(UsageError, match="no end within"):
        list(entered(lines('"""', "0123456789", "never")))


def typed_at_the_prompt(keys: str, history: Path, count: int = 1) -> list[str]:
    with create_pipe_input() as source:
        source.send_text(keys)
        prompt = ChatPrompt(history, source=source, screen=DummyOutput())
        return [prompt.ask() for _ in range(count)]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (PASTE.format("one\r\ntwo\rthree") + "\r", "one\ntwo\nthree"),
        ('"""\rone\rtwo\r"""\r', '"""\none\ntwo\n"""'),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("helo\x1b[Dl\r", "hello"),
        ("given up\x03kept\r", "kept"),
        ("a\x03b\x03c\r", "c"),
    ],
)
def test_the_prompt_takes_several_lines_and_edits_them(keys: str, text: str, tmp_path: Path) -> None:
    assert typed_at_the_prompt(keys, tmp_path / "history") == [text]


@pytest.mark.parametrize("keys", ["\x04", "\x03\x03", "half\x03\x03"])
def test_the_prompt_ends(keys: str, tmp_path: Path) -> None:
    with pytest.raises(EOFError):
        typed_at_the_prompt(keys, tmp_path / "history")


def test_the_history_is_kept_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = tmp_path / "state" / "history"
    monkeypatch.setattr("turnlog.cli.chat_prompt._HISTORY_MESSAGES", 2)
    typed_at_the_prompt("first\r" + PASTE.format("second\nof two lines") + "\rthird\r", history, 3)
    assert history.stat().st_mode & 0o077 == 0
    assert typed_at_the_prompt("\x1b[A\x1b[A\x1b[A\r", history) == ["second\nof two lines"]
    assert "first" not in history.read_text()


def test_a_history_that_cannot_be_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert typed_at_the_prompt("hello\r", tmp_path / "file" / "history") == ["hello"]
    assert "The history is not kept" in capsys.readouterr().err


def _finished(status: str) -> FinishedTurn:
    return FinishedTurn(
        session_id="s", request_id="r", turn_id="t-0-1", status=status, text="", attempt=1, usage=Usage()
    )


class FakeTurn:
    """A turn that is accepted at once and ends when it is cancelled, or at once."""

    def __init__(self, *, slow: bool, accepted: bool = True) -> None:
        self.view = SimpleNamespace(turn_id="t-0-1" if accepted else None)
        self.state = "accepted" if accepted else "nothing heard"
        self.ended = False
        self.status = "completed"
        self.accepted, self.done = accepted, asyncio.Event()
        self.begun = threading.Event()
        if not slow:
            self.end("completed")

    def end(self, status: str) -> None:
        self.status, self.ended = status, True
        self.done.set()

    async def __aenter__(self) -> "FakeTurn":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        self.begun.set()
        if self.accepted:
            yield SimpleNamespace(frame=None, header=None)
        await self.done.wait()

    async def result(self) -> FinishedTurn:
        return _finished(self.status)


class FakeClient:
    """Answers what a conversation asks, and notes it."""

    def __init__(self, *, slow: bool = False, accepted: bool = True, broken: bool = False) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.turns: list[FakeTurn] = []
        self.slow, self.accepted, self.broken = slow, accepted, broken

    def chat(self, session_id: str, content: Any, *, model: str | None, **_: object) -> FakeTurn:
        self.asked.append(("chat", content, model))
        self.turns.append(FakeTurn(slow=self.slow, accepted=self.accepted))
        return self.turns[-1]

    async def cancel(self, session_id: str, turn_id: str | None = None, *, timeout_s: float) -> FinishedTurn:
        self.asked.append(("cancel", turn_id))
        if self.broken:
            raise RequestTimedOutError("no answer")
        for turn in self.turns:
            turn.end("cancelled")
        return _finished("cancelled")

    async def compact(self, session_id: str, *, instructions: str | None, timeout_s: float) -> Any:
        self.asked.append(("compact", instructions))
        return SimpleNamespace(summary="In short.", to_seq=2, from_seq=1, tokens_before=9, tokens_after=4, changed=True)

    async def get(self, session_id: str, *, timeout_s: float) -> Any:
        if session_id == "new":
            raise SessionNotFoundError("not_found", "no such session")
        return SimpleNamespace(model="echo:", messages=13, archived=True)

    async def history(self, session_id: str, *, after: int, limit: int, timeout_s: float) -> Any:
        roles = ("user", "assistant") * 7
        messages = [
            HistoryEntry(message_seq=n, turn_id="t", role=roles[n - 1], content=text_content(f"number {n}"))
            for n in range(1, 14)
        ]
        return SimpleNamespace(messages=tuple(messages[after : after + limit]))


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    with BackgroundLoop() as loop:
        yield loop


def conversation(
    client: FakeClient, loop: BackgroundLoop, read: Callable[[], str], *, session_id: str = "s", **options: Any
) -> Conversation:
    return Conversation(cast("Any", client), loop, session_id, Asking(), read=read, **options)


def test_commands_are_carried_out_and_never_sent(loop: BackgroundLoop, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient()

    def check(model: str) -> None:
        if model == "wrong:":
            raise UsageError("no such model")

    said = lines(
        "/help", "/nonsense hi", "//slash", "/model wrong:", "/model script:7", "hello", "/model", "/model -", "/model",
        "/cancel", "/compact names and dates", "/file", "/quit", "never",
    )  # fmt: skip
    conversation(client, loop, said, check_model=check).run(resumed=False)
    assert client.asked == [
        ("chat", "/slash", None),
        ("chat", "hello", "script:7"),
        ("cancel", None),
        ("compact", "names and dates"),
    ]
    shown = capsys.readouterr()
    assert shown.out == "In short.\n"
    for sentence in (
        HELP,
        "/nonsense is no command, and nothing was sent",
        "no such model",
        "model: script:7",
        "model: echo: (the session's)",
        "turn t-0-1 is cancelled",
        "this summary covers messages 1 to 2",
        "which file?",
    ):
        assert sentence in shown.err


def test_every_command_is_in_the_help() -> None:
    known = Conversation(cast("Any", None), cast("Any", None), "s", Asking())._commands
    assert {line.split()[0] for line in HELP.splitlines() if line.startswith("/")} == {*known, "/quit", "//"}


def test_earlier_turns_are_shown(loop: BackgroundLoop, capsys: pytest.CaptureFixture[str]) -> None:
    conversation(FakeClient(), loop, lines()).run(resumed=True)
    shown = capsys.readouterr()
    assert shown.out.startswith("\nyou> number 5\nnumber 6\n")
    assert shown.out.endswith("number 12\n\nyou> number 13\n")
    assert "(4 earlier messages: turnlog sessions history s)" in shown.err
    assert "archived" in shown.err
    conversation(FakeClient(), loop, lines(), session_id="new").run(resumed=True)
    assert "It is a new one." in capsys.readouterr().err


def interrupted(client: FakeClient, loop: BackgroundLoop) -> None:
    """Ctrl-C while the first answer comes; the second message is answered."""

    def read() -> str:
        if not client.turns:
            threading.Thread(target=interrupt).start()
            return "slow"
        client.slow, client.accepted = False, True
        if len(client.turns) == 1:
            return "quick"
        raise EOFError

    def interrupt() -> None:
        while not client.turns:
            threading.Event().wait(0.01)
        assert client.turns[0].begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    conversation(client, loop, read).run(resumed=False)


def test_ctrl_c_cancels_the_turn_and_the_prompt_comes_back(
    loop: BackgroundLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(slow=True)
    interrupted(client, loop)
    assert client.asked == [("chat", "slow", None), ("cancel", "t-0-1"), ("chat", "quick", None)]
    assert "(cancelled: what was said so far is kept)" in capsys.readouterr().err


def test_a_turn_that_cannot_be_cancelled_is_left(
    loop: BackgroundLoop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(FakeClient(slow=True, broken=True), loop)
    assert "no answer. Not waiting any more. The turn goes on" in capsys.readouterr().err
    monkeypatch.setattr("turnlog.cli.conversation._TURN_ID_TIMEOUT_S", 0.05)
    client = FakeClient(slow=True, accepted=False)
    interrupted(client, loop)
    assert [asked[0] for asked in client.asked] == ["chat", "chat"]
    assert "Nothing was heard of this message yet" in capsys.readouterr().err
