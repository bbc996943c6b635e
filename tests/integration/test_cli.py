"""The command line against a real worker and materializer on the run's broker.

Most commands run in this process, which spares each of them the start of a Python; of every kind one has its own.
"""

import fcntl
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.waiting import until
from turnlog.cli.app import app
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.launch import launch_argv

STOP_TIMEOUT_S = 30.0
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONVERSATIONS = [
    {
        "id": "first",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is my order?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order":  7}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "on its way"},
            {"role": "assistant", "content": "It is on its way."},
            {"role": "user", "content": "Thanks", "name": "Ann"},
        ],
        "history_compactions": [{"from_seq": 1, "to_seq": 3, "summary": "Order 7 is on its way."}],
    },
    {
        "id": "second",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, what can I do?"}],
    },
]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on one line that standard output must be."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """One JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal:
    """What somebody sees and types."""

    def __init__(self, leader: int, process: subprocess.Popen[bytes]) -> None:
        self._leader, self._process = leader, process
        self._shown = ""

    def until(self, text: str, within_s: float = 60.0) -> None:
        """Returns when a text is shown, and goes on behind it. What steers the terminal does not count."""
        deadline = time.monotonic() + within_s
        while text not in self._shown:
            ready, _, _ = select.select([self._leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self._shown
            self._shown = _STEERING.sub("", self._shown + os.read(self._leader, 4096).decode(errors="replace"))
        self._shown = self._shown.partition(text)[2]

    def type(self, after: str, keys: str) -> None:
        """Once a text is shown."""
        self.until(after)
        os.write(self._leader, keys.encode())

    def end(self) -> int:
        """Its exit code."""
        return self._process.wait(STOP_TIMEOUT_S)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Topics of its own on the run's broker, and a directory of its own."""

    directory: Path
    variables: Mapping[str, str]
    logs: dict[str, Path] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> Done:
        """Run a command to its end, in this process."""
        foreign = {name: None for name in os.environ if name.startswith("TURNLOG_")}
        runner = CliRunner(env={**foreign, **self.variables, **variables})
        with chdir(self.directory), logging_as_it_was():
            result = runner.invoke(app, arguments, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(code=result.exit_code, out=result.stdout, err=result.stderr)

    def run_apart(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0, **variables: str) -> Done:
        """Run a command to its end, in a process of its own."""
        done = subprocess.run(
            self._argv(arguments),
            env=self._environment(variables),
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    @contextmanager
    def on_a_terminal(self, *arguments: str) -> Iterator["Terminal"]:
        """A command with a terminal of its own; killed at the end if it still runs."""
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, 120))
        environment = {**self._environment({}), "TERM": "xterm", "XDG_STATE_HOME": str(self.directory / "state")}
        streams = {"stdin": follower, "stdout": follower, "stderr": follower}
        process = subprocess.Popen(
            self._argv(arguments),
            env=environment,
            cwd=self.directory,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
            **streams,
        )
        os.close(follower)
        try:
            yield Terminal(leader, process)
        finally:
            process.kill()
            process.wait()
            os.close(leader)

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A process of Turnlog, ready; stopped at the end."""
        ready_file = self.directory / f"{'-'.join(arguments)}.ready"
        log = self.directory / f"{'-'.join(arguments)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                launch_argv(self._argv(arguments)),  # it does not outlive a run that is killed
                env=self._environment({"TURNLOG_READY_FILE": str(ready_file)}),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            until(lambda: ready_file.exists() or process.poll() is not None, f"{arguments} is ready", 120.0)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
                raise

    def _argv(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "turnlog", *arguments]

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("TURNLOG_")}
        return {**own, **self.variables, **variables}


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """A command sets logging up for its process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def deployment(broker: DevBroker, directory: Path) -> Deployment:
    """A deployment with a prefix of its own; no topics yet."""
    return Deployment(
        directory=directory,
        variables={
            "TURNLOG_BOOTSTRAP_SERVER": broker.bootstrap_server,
            "TURNLOG_PREFIX": f"cli-{uuid.uuid4().hex[:8]}",
            "TURNLOG_PARTITIONS": "3",
            "TURNLOG_DATA_DIR": str(directory / "data"),
            "TURNLOG_ALLOW_MODELS": "echo:*,recorded:*,script:*",
            "TURNLOG_PUBLISH_INTERVAL_S": "0.5",
        },
    )


@pytest.fixture(scope="module")
def serving(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Topics, a worker and a materializer."""
    here = deployment(broker, tmp_path_factory.mktemp("serving"))
    made = here.run_apart("topics", "init", "--json")
    assert made.code == 0, made.err
    with here.running("worker"), here.running("materialize"):
        yield here


@pytest.fixture
def idle(broker: DevBroker, tmp_path: Path) -> Deployment:
    """Topics, and nobody who works on them."""
    here = deployment(broker, tmp_path)
    made = here.run("topics", "init", "--json")
    assert made.code == 0, made.err
    return here


def test_topics_are_made_once(idle: Deployment) -> None:
    again = idle.run("topics", "init", "--json")
    assert (again.code, again.err) == (0, "")
    assert len(again.document) == 6
    assert not any(report["created"] for report in again.document)
    other_count = idle.run("topics", "init", "--json", TURNLOG_PARTITIONS="5")
    assert other_count.code == 1
    assert "3 partitions, not 5" in other_count.err


def test_without_topics_it_is_4_and_says_what_to_run(broker: DevBroker, tmp_path: Path) -> None:
    nowhere = deployment(broker, tmp_path)
    for arguments in (("send", "web-1", "Hi"), ("tail", "-n", "1"), ("doctor",), ("worker",)):
        done = nowhere.run_apart(*arguments) if arguments == ("worker",) else nowhere.run(*arguments)
        assert done.code == 4, (arguments, done)
        assert "turnlog topics init" in done.out + done.err
        assert "Traceback" not in done.err


def test_send_says_where_the_request_is_and_waits_if_asked(serving: Deployment) -> None:
    sent = serving.run_apart("send", "web-1", "Hi", "--json", "--request-id", "mine")
    assert (sent.code, sent.err) == (0, "")
    assert sent.document["request_id"] == "mine"
    assert sent.document["topic"].endswith(".requests")
    again = serving.run_apart("send", "web-1", "Hi", "--json", "--request-id", "mine", "--wait").document
    assert (again["request_id"], again["status"], again["text"]) == ("mine", "completed", "Hi")
    assert serving.run_apart("send", "web-1", "What\nnow?", "--wait") == Done(code=0, out="What\nnow?\n", err="")
    piped = serving.run_apart("send", "web-1", "-", "--wait", stdin="From a pipe")
    assert piped == Done(code=0, out="From a pipe\n", err="")


def test_a_turn_that_fails_is_1(serving: Deployment) -> None:
    model = "script:1?fail_attempts=9&fatal=true"
    done = serving.run("send", "web-fails", "Hi", "--model", model, "--wait", "--json")
    assert done.code == 1
    assert done.document["status"] == "failed"
    assert "the turn failed" in done.err


def test_what_is_refused_is_5(serving: Deployment) -> None:
    for arguments in (("send", "web-r", "Hi", "--model", "other:x", "--wait"), ("send", "web-r", "", "--wait")):
        done = serving.run(*arguments, "--json")
        assert (done.code, done.out) == (5, "")
        assert done.err.startswith("turnlog: refused (")
    conflict = ("send", "web-r", "--request-id", "once", "--wait")
    assert serving.run(*conflict, "Hi").code == 0
    assert serving.run(*conflict, "Something else").code == 5


def test_nobody_answers_is_6(idle: Deployment) -> None:
    waited = idle.run_apart("send", "web-1", "Hi", "--wait", "--timeout-s", "1", "--json")
    assert (waited.code, waited.out) == (6, "")
    assert "turnlog doctor" in waited.err
    followed = idle.run("tail", "-n", "1", "--timeout-s", "0.5")
    assert (followed.code, followed.out) == (6, "")
    doctor = idle.run("doctor", "--timeout-s", "1", "--json")
    assert doctor.code == 6
    failed = [check["check"] for check in doctor.document["checks"] if not check["ok"]]
    assert failed in (["worker"], ["lag", "worker"])  # on a slow machine the chat has waited for long by now
    detail = doctor.document["checks"][-1]["detail"]
    assert "3 of 3 partitions did not answer" in detail
    assert "`turnlog doctor`" not in detail, "that is what runs"
    lag = idle.run("lag", "--max", "0", "--json")
    assert lag.code == 1
    waiting = [each for each in lag.document["partitions"] if each["waiting"]]
    assert lag.document["waiting"] == sum(each["waiting"] for each in waiting) >= 4  # the chat, and what doctor asked
    assert all((each["decided"], each["owner"]) == (0, None) and each["oldest_age_s"] >= 0 for each in waiting)
    assert lag.document["workers"] == 0
    assert len(lag.document["exceeded"]) == len(waiting)
    assert idle.run("lag", "--max", "1000", "--max-age-s", "3600").code == 0
    assert "the snapshot's lag is not known" in idle.run("lag", "--max-behind", "0").err


def test_chat_answers_line_by_line(serving: Deployment) -> None:
    done = serving.run_apart("chat", "web-chat", stdin="one two\n\nthree\n/quit\nnever\n")
    assert done == Done(code=0, out="one two\nthree\n", err="")
    as_json = serving.run("chat", "web-chat", "--json", stdin="four\nfive\n")
    assert (as_json.code, as_json.err) == (0, "")
    assert [turn["text"] for turn in as_json.lines] == ["four", "five"]


def test_chat_shows_tool_calls_and_ends_at_the_first_error(serving: Deployment) -> None:
    done = serving.run("chat", "--model", "script:2?tools=1&words=3", stdin="Go\n")
    assert done.code == 0
    assert done.out.startswith("-> ") or "\n-> " in done.out
    assert "<- " in done.out
    failed = serving.run_apart("chat", "--model", "script:1?fail_attempts=9&fatal=true", stdin="Go\nnever\n")
    assert failed.code == 1
    assert "the turn failed" in failed.err


def test_chat_on_a_terminal(serving: Deployment) -> None:
    """Pasted lines are one message, Ctrl-C cancels an answer and leaves the prompt whole; later all of it is shown."""
    slow = "script:5?tools=1&words=500&delta_ms=50"
    with serving.on_a_terminal("chat", "web-terminal") as terminal:
        terminal.type("you>", "\x1b[200~first line\nsecond line\x1b[201~\r")
        terminal.until("first line\r\nsecond line\r\n")  # the answer
        terminal.type("you>", f"/model {slow}\r")
        terminal.until(f"model: {slow}\r\n")
        terminal.type("you>", "Take your time\r")
        terminal.type("-> ", "\x03")
        terminal.until("(cancelled: what was said so far is kept)")
        terminal.type("you>", "/nonsense\r")
        terminal.until("/nonsense is no command")
        terminal.type("you>", "\x03\x03")
        terminal.until(f"To continue this session: turnlog chat web-terminal --model '{slow}'")
        assert terminal.end() == 0
    with serving.on_a_terminal("chat", "web-terminal") as terminal:
        terminal.until("you> first line\r\nsecond line\r\nfirst line\r\nsecond line\r\n\r\nyou> Take your time")
        terminal.type("you>", "\x04")
        assert terminal.end() == 0
    (stored, *_) = serving.run("sessions", "history", "web-terminal", "--json").lines
    assert stored["messages"][0]["content"] == "first line\nsecond line"


def test_tail_shows_the_frames_of_a_session(serving: Deployment) -> None:
    serving.run("send", "web-tail", "Hi there", "--wait")
    done = serving.run_apart("tail", "--session", "web-tail", "-o", "beginning", "--timeout-s", "3", "--json")
    assert (done.code, done.err) == (0, "")
    kinds = [line["frame"]["type"] for line in done.lines]
    assert kinds[0] == "turn_accepted"
    assert kinds[-1] == "turn_completed"
    assert {line["session_id"] for line in done.lines} == {"web-tail"}
    assert len(serving.run("tail", "-o", "beginning", "-n", "2").out.splitlines()) == 2


def test_tail_shows_the_events_of_a_session_from_where_one_says(serving: Deployment) -> None:
    begun = datetime.now(UTC).isoformat()
    serving.run("send", "web-events", "Hi there", "--wait", "--channel", "tailed")
    follow = ("--timeout-s", "20", "--json")

    def types(*arguments: str) -> list[str]:
        done = serving.run("tail", "events", *arguments, *follow)
        assert (done.code, done.err) == (0, "")
        return [line["event"]["type"] for line in done.lines]

    one = ("--session", "web-events")
    assert types(*one, "-o", "beginning", "-n", "3") == ["session_created", "command_forwarded", "turn_accepted"]
    assert types(*one, "-o", begun, "-n", "1") == ["session_created"]
    assert types(*one, "-o", "-50", "--type", "TurnCompleted", "-n", "1") == ["turn_completed"]
    assert types("--channel", "tailed", "-o", begun, "--type", "TurnCompleted", "-n", "1") == ["turn_completed"]
    text = serving.run("tail", "events", *one, "-o", "beginning", "-n", "6", "--timeout-s", "20").out
    assert "turn_started" in text
    assert " web-events " in text
    for whose in (one, ("--channel", "tailed")):  # the channel's session is in the snapshot, or in the log behind it
        frames = serving.run("tail", *whose, "-o", "-500", "--type", "turn_completed", "-n", "1", *follow)
        assert [line["frame"]["type"] for line in frames.lines] == ["turn_completed"]


def test_feed_proves_that_the_histories_are_the_recordings(serving: Deployment) -> None:
    file = serving.directory / "conversations.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in CONVERSATIONS))
    for run in (serving.run_apart, serving.run):  # the second one changes nothing
        fed = run("feed", file.name, "--verify", "--json")
        assert (fed.code, fed.err) == (0, "")
        counts = {name: fed.document[name] for name in ("conversations", "turns", "messages", "mismatches")}
        assert counts == {"conversations": 2, "turns": 3, "messages": 7, "mismatches": 0}
    shown = serving.run("sessions", "show", "feed-first", "--json").document
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert shown["session"]["instructions"] == "Be brief."
    assert shown["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"order":  7}'
    listed = serving.run_apart("sessions", "list", "--limit", "0", "--json").document["sessions"]
    assert {"feed-first", "feed-second"} <= {session["session_id"] for session in listed}
    counted = serving.run_apart("sql", "SELECT count(*) AS n FROM messages WHERE session_id LIKE 'feed-%'", "--json")
    assert counted.document == [{"n": 7}]


def test_a_session_goes_through_export_and_feed_as_it_was(serving: Deployment) -> None:
    (serving.directory / "there.jsonl").write_text(json.dumps(CONVERSATIONS[0] | {"id": "there"}) + "\n")
    assert serving.run("feed", "there.jsonl", "--verify").code == 0
    assert serving.run_apart("export", str(serving.directory / "chats"), "--format", "openai").code == 0
    files = (serving.directory / "chats").glob("conversations/*/current.jsonl")
    lines = [json.loads(line) for file in files for line in file.open()]
    (line,) = [line for line in lines if line["id"] == "feed-there"]
    assert line["messages"] == CONVERSATIONS[0]["messages"]
    given = {"from_seq": 1, "to_seq": 3, "method": "given", "summary": "Order 7 is on its way."}
    assert line["history_compactions"] == [given]
    (serving.directory / "back.jsonl").write_text(json.dumps(line) + "\n")
    back = serving.run("feed", "back.jsonl", "--verify", "--json").document
    assert [back[name] for name in ("verified", "mismatches", "not_stored_lines", "details")] == [True, 0, [], []]


def test_a_session_of_a_channel(serving: Deployment) -> None:
    made = serving.run_apart("sessions", "resolve", "desk", "--title", "Desk 1", "--meta", "team=a", "--json")
    assert (made.code, made.err) == (0, "")
    session_id = made.document["session_id"]
    assert (made.document["created"], made.document["channel"]) == (True, "desk")
    assert serving.run("sessions", "resolve", "desk") == Done(code=0, out=f"{session_id}\n", err="already existed\n")
    assert serving.run("sessions", "active", "desk").out == f"{session_id}\n"
    assert serving.run("send", session_id, "Hello", "--wait").out == "Hello\n"
    got = serving.run("sessions", "get", session_id)
    assert {"title: Desk 1", "metadata: team=a", "messages: 2", "archived: no"} <= set(got.out.splitlines())
    history = serving.run("sessions", "history", session_id, "--limit", "1")
    assert history == Done(code=0, out="\n1 user\n  Hello\n", err="There are more: --after 1\n")
    page = serving.run("sessions", "history", session_id, "--after", "1", "--limit", "0", "--json").document
    assert [(message["role"], message["content"]) for message in page["messages"]] == [("assistant", "Hello")]
    assert page["next_after"] is None
    assert serving.run("sessions", "reset", session_id).out == f"{session_id}\n"


def test_ending_turns_and_sessions(serving: Deployment) -> None:
    session_id = serving.run("sessions", "create", "mail", "--session-id", "mail-1").out.strip()
    assert session_id == "mail-1"
    serving.run("send", session_id, "Go", "--model", "script:1?tools=0&words=9000&delta_ms=20")
    cancelled = serving.run("sessions", "cancel", session_id, "--json").document
    assert (cancelled["status"], cancelled["session_id"]) == ("cancelled", session_id)
    nothing = serving.run("sessions", "cancel", session_id)
    assert (nothing.code, nothing.out) == (5, "")
    assert "not_running" in nothing.err
    nobody = serving.run("sessions", "cancel", "nobody")
    assert (nobody.code, nobody.out) == (4, "")
    assert "nobody" in nobody.err

    rotated = serving.run("sessions", "rotate", "mail", "--request-id", "once", "--json").document
    assert serving.run("sessions", "rotate", "mail", "--request-id", "once", "--json").document == rotated
    assert serving.run("send", session_id, "Too late", "--wait").code == 5
    assert serving.run("sessions", "archive", rotated["session_id"]).err == "archived\n"
    for arguments in (("active", "mail"), ("archive", "nobody")):
        done = serving.run("sessions", *arguments, "--json")
        assert (done.code, done.out) == (4, ""), arguments
    assert serving.run("sessions", "resolve", "no blanks").code == 2

    def listed(*options: str) -> list[str]:
        page = serving.run("sessions", "list", "--channel", "mail", "--json", *options).document
        return sorted(session["session_id"] for session in page["sessions"])

    both = sorted([session_id, rotated["session_id"]])
    until(lambda: listed("--include-archived") == both and listed() == [], "the snapshot has both as archived", 30.0)
    assert listed("--include-archived", "--meta", "team=a") == []


def test_a_history_is_compacted(serving: Deployment) -> None:
    session_id = serving.run("sessions", "create", "notes", "--history-keep-tail", "0").out.strip()
    assert serving.run("send", session_id, "Remember 17", "--wait").out == "Remember 17\n"
    assert serving.run("send", "web-short", "Hello", "--wait").code == 0
    short = serving.run("sessions", "compact", "web-short")
    assert (short.code, short.out) == (0, "")
    assert short.err.startswith("nothing to compact")
    done = serving.run("sessions", "compact", session_id, "--request-id", "once", "--json").document
    assert (done["changed"], done["from_seq"], done["to_seq"]) == (True, 1, 1)
    again = serving.run("sessions", "compact", session_id, "--request-id", "once")
    assert again.code == 0
    assert again.err.startswith("this summary covers messages 1 to 1")
    assert again.out.split() == done["summary"].split()
    assert serving.run("sessions", "compact", "nobody", "--json").code == 4
    history = serving.run("sessions", "history", session_id, "--skip-covered", "--json").document
    assert [message["message_seq"] for message in history["messages"]] == [2]
    assert (history["summary"], history["covered_to"]) == (done["summary"], 1)

    def shown(*options: str) -> Any:
        return serving.run("sessions", "show", session_id, "--json", *options).document

    until(lambda: serving.run("sessions", "show", session_id).code == 0, "the snapshot has the session", 30.0)
    until(lambda: shown()["session"]["covered_to"] == 1, "the snapshot has the summary", 30.0)
    assert shown()["summary"]["summary"] == done["summary"]
    assert [message["covered"] for message in shown()["messages"]] == [True, False]
    assert [message["message_seq"] for message in shown("--skip-covered")["messages"]] == [2]


def test_settings_of_all_workers(serving: Deployment) -> None:
    name = "default-model/quiet"
    assert serving.run_apart("settings", "set", name, "script:1?words=1&tools=0", "--json").document["name"] == name
    assert serving.run("settings", "list", "--json").document == {name: "script:1?words=1&tools=0"}
    number = iter(range(1000))
    until(
        lambda: serving.run("send", f"q{next(number)}", "Hello", "--wait", "--channel", "quiet").out != "Hello\n",
        "it is followed",
    )
    assert name in serving.run("settings", "list").out
    assert serving.run("settings", "unset", name) == Done(code=0, out="", err=f"{name} is unset\n")
    assert serving.run("settings", "list", "--json").document == {}
    wrong = serving.run("settings", "set", "nonsense", "x")
    assert (wrong.code, wrong.out) == (2, "")
    assert "default-model/CHANNEL" in wrong.err


def test_the_doctor_is_content_with_a_stack_that_answers_and_leaves_nothing_behind(serving: Deployment) -> None:
    def known() -> tuple[Any, Any]:
        return (
            serving.run("lag", "--json").document["partitions"],
            serving.run("sessions", "list", "--include-archived", "--limit", "0", "--json").document["sessions"],
        )

    assert serving.run("send", "web-lag", "Hi", "--wait").code == 0
    until(lambda: serving.run("lag", "--max", "0", "--max-behind", "0").code == 0, "all is decided and published", 30.0)
    partitions, sessions = known()
    assert all(each["owner"] and each["waiting"] == 0 for each in partitions)
    done = serving.run_apart("doctor", "--json")
    again = known()
    assert [each["log_end"] for each in again[0]] == [each["log_end"] for each in partitions]
    assert again[1] == sessions
    assert (done.code, done.err) == (0, "")
    assert done.document["ok"] is True
    assert [check["check"] for check in done.document["checks"]] == [
        "python",
        "broker",
        "topics",
        "lag",
        "dead letters",
        "worker",
        "snapshot",
    ]
    assert all(check["ok"] for check in done.document["checks"]), done.document
    with_model = serving.run("doctor", "--model", "script:1?words=1&tools=0", "--json")
    assert with_model.code == 0
    assert [check["ok"] for check in with_model.document["checks"] if check["check"] == "model"] == [True]
    assert "turnlog-doctor-" in serving.run("sessions", "list", "--include-archived").out
    assert "turnlog-doctor-" not in serving.run("sessions", "list").out


def test_a_worker_stops_on_sigterm_with_0_and_logs_json(idle: Deployment) -> None:
    with idle.running("worker") as worker:
        assert idle.run("send", "web-1", "not for the log", "--wait").code == 0
        worker.terminate()
        assert worker.wait(STOP_TIMEOUT_S) == 0
    lines = (idle.directory / "worker.log").read_text().splitlines()
    assert lines
    assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)
    assert "not for the log" not in "".join(lines)
