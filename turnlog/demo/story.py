"""``turnlog demo``: real conversations through real Kafka, a worker killed in the middle, proof that nothing is lost.

Everything it starts is its own, in a directory of its own, and is stopped at the end, whatever happens.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

from turnlog.client.async_client import Client
from turnlog.demo.killer import Killer
from turnlog.demo.real_model import Shown, prove_real_model, published, show_real_model
from turnlog.demo.screen import Screen
from turnlog.errors import EXIT_FAILED, EXIT_OK, TurnlogError
from turnlog.feed.conversations import Conversation
from turnlog.feed.feeding import run_feed
from turnlog.feed.plan import FeedOptions, FeedPlan, FeedProgress, FeedReport, plan_feed
from turnlog.snapshot.listing import SessionFilter, list_sessions
from turnlog.terminal.feed_progress import progress_bar, report_line
from turnlog.terminal.live import LiveTurn
from turnlog.terminal.sessions_table import print_sessions
from turnlog_schemas.frames import TextDelta
from turnlog_schemas.parts import content_text
from turnlog_workers.base.config import Settings
from turnlog_workers.base.counted import counted
from turnlog_workers.devstack import stack
from turnlog_workers.devstack.broker_ports import choose_ports
from turnlog_workers.devstack.stack_dir import StackDir
from turnlog_workers.devstack.stack_topics import init_stack_topics

SAMPLE = Path(__file__).parents[1] / "data" / "sample-conversations.jsonl"
_WORKERS = 2
_DELTA_MS = 30  #: a word: about as fast as a model talks
_MIN_CONVERSATIONS = 10
_KILL_AFTER_WORDS = 10
_START_TIMEOUT_S = 600.0  #: the first download included
_RESTART_TIMEOUT_S = 30.0
_POLL_S = 0.1
_FOLLOW_TIMEOUT_S = 60.0  #: of the live view alone
_KEPT_VARIABLES = ("TURNLOG_CACHE_DIR", "TURNLOG_RUNTIME_DIR")
#: Shorter than the default, so that nobody has to watch a dead worker's partitions wait for ten seconds.
_OWN_VARIABLES = {"TURNLOG_SESSION_TIMEOUT_S": "6"}


def run_demo(data_dir: Path, command: str = "turnlog", *, model_missing: str = "") -> int:
    """Run the demo in ``data_dir`` (emptied first) and tell it on standard output; the exit code.

    ``model_missing``: why there is no real model here; empty: there is one.

    0 only if every history equals its recording and the killed worker is back. Raises what the stack raises.
    """
    screen = Screen()
    started = time.monotonic()
    with _own_environment():
        code = asyncio.run(_run(data_dir.absolute(), screen, model_missing))
    if code == EXIT_OK:
        _say_what_next(screen, data_dir, command, time.monotonic() - started)
    return code


@contextmanager
def _own_environment() -> Iterator[None]:
    """The user's ``TURNLOG_...`` settings are for the user's stack; the demo is the same for everybody."""
    before = {name: value for name, value in os.environ.items() if name.startswith("TURNLOG_")}
    for name in before:
        if name not in _KEPT_VARIABLES:
            del os.environ[name]
    os.environ.update(_OWN_VARIABLES)
    try:
        yield
    finally:
        for name in _OWN_VARIABLES:
            del os.environ[name]
        os.environ.update(before)


async def _run(data_dir: Path, screen: Screen, model_missing: str) -> int:
    await asyncio.to_thread(_empty, data_dir)
    port = choose_ports(port=None, preferred=None, remembered=None, say=screen.stack_line).client
    screen.heading(f"Starting Kafka, {_WORKERS} workers and the materializer in {data_dir}")
    running = asyncio.create_task(
        stack.up(data_dir, workers=_WORKERS, port=port, init_topics=init_stack_topics, say=screen.stack_line)
    )
    story = asyncio.create_task(_Story(data_dir, screen, model_missing).run())
    try:
        await asyncio.wait({running, story}, return_when=asyncio.FIRST_COMPLETED)
        if not story.done():
            running.result()  # why it ended
            raise KeyboardInterrupt  # it was asked to
        return story.result()
    finally:
        story.cancel()
        await asyncio.gather(story, return_exceptions=True)
        if not running.done():
            screen.heading("Stopping everything")
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _empty(data_dir: Path) -> None:
    """Forget the last demo: the same requests again would change nothing. Raises ``StackInUseError`` while one runs."""
    directory = StackDir(data_dir)
    directory.take()
    try:
        directory.stop_leftovers()
        for entry in data_dir.iterdir():
            if entry.name == "stack.lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    finally:
        directory.release()


class _Story:
    """What the demo does once its stack is starting."""

    def __init__(self, data_dir: Path, screen: Screen, model_missing: str) -> None:
        self._data_dir, self._screen, self._model_missing = data_dir, screen, model_missing
        self._real: Shown | None = None
        self._killer = Killer(data_dir, screen)
        self._progress: FeedProgress | None = None

    async def run(self) -> int:
        """Tell it; the exit code."""
        screen = self._screen
        plan = await asyncio.to_thread(
            plan_feed, SAMPLE, FeedOptions(delta_ms=_DELTA_MS, verify=True, resend_after_s=5.0)
        )
        state = await self._killer.stack_state(lambda state: bool(state.get("ready")), _START_TIMEOUT_S)
        if state.get("failing"):
            raise TurnlogError(
                f"{', '.join(state['failing'])} cannot start; what they said is in {self._data_dir}/logs."
            )
        settings = Settings(
            bootstrap_server=state["bootstrap_server"],
            data_dir=self._data_dir,
            snapshot_path=Path(state["snapshot_path"]),
        )
        conversations = plan.file.conversations
        turns = sum(len(conversation.user_messages) for conversation in conversations)
        screen.heading(
            f"Feeding {counted(len(conversations), 'recorded conversation')} ({counted(turns, 'turn')}) through Kafka"
        )
        shown = max(conversations, key=_longest_answer)
        screen.line(f"Of these, session {shown.session_id} streams in here, word by word, from the reply topic:")
        report = await self._feed(plan, settings, shown)
        return await self._prove(report, settings)

    async def _feed(self, plan: FeedPlan, settings: Settings, shown: Conversation) -> FeedReport:
        view = asyncio.create_task(self._watch(plan, settings, shown))
        feeding = asyncio.create_task(run_feed(plan, settings, self._note))
        try:
            await asyncio.wait({view, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()  # if it failed, that is what to tell
            await view
            self._real = await show_real_model(self._model_missing, settings, self._screen, self._killer)
            self._screen.line("\n(…) The rest of all sessions, without showing it.")
            with progress_bar() as show:
                while not feeding.done():
                    if self._progress is not None:
                        show(self._progress)
                    await asyncio.wait({feeding}, timeout=_POLL_S)
            return feeding.result()
        finally:
            for task in (view, feeding):
                task.cancel()
            await asyncio.gather(view, feeding, return_exceptions=True)

    def _note(self, progress: FeedProgress) -> None:
        self._progress = progress

    async def _watch(self, plan: FeedPlan, settings: Settings, shown: Conversation) -> None:
        """Show a session's answers up to the end of the one that its worker was killed in."""
        kill_turn = _turn_to_kill_in(shown)
        numbers = {plan.request_id(shown, n): n for n in range(1, kill_turn + 1)}
        async with Client(settings) as client, asyncio.timeout(_FOLLOW_TIMEOUT_S):
            frames = client.follow(shown.session_id, from_position="beginning")
            live, number, words = LiveTurn(self._screen.write), 0, 0
            async with aclosing(frames):
                async for reply in frames:
                    if numbers.get(reply.header.request_id, 0) != number:
                        number = numbers[reply.header.request_id]
                        live = LiveTurn(self._screen.write)
                        self._screen.line(f"\nuser> {content_text(shown.user_messages[number - 1].content) or ''}")
                    live.show(reply)
                    words += number == kill_turn and isinstance(reply.frame, TextDelta)
                    if words == _KILL_AFTER_WORDS and not self._killer.victims:
                        await self._killer.kill_owner(settings, shown.session_id, epoch=reply.header.epoch)
                    if reply.is_terminal and number == kill_turn:
                        live.finish()
                        return

    async def _prove(self, report: FeedReport, settings: Settings) -> int:
        screen = self._screen
        stored = await published(settings) if self._real is not None else []
        screen.heading("The sessions, out of DuckDB")
        print_sessions(list_sessions(settings.snapshot, SessionFilter(), limit=0).sessions)
        screen.heading("The proof")
        for detail in report.details:
            screen.alarm(str(detail))
        screen.line(report_line(report))
        screen.line("(roles, text, tool calls with their arguments, tool results, order)")
        if self._real is not None:
            prove_real_model(self._real, stored, screen)
        if not self._killer.victims:
            screen.alarm("No worker was killed, so this proves too little.")
            return EXIT_FAILED
        for victim in self._killer.victims:
            new_pid = await self._killer.back(victim, _RESTART_TIMEOUT_S)
            was = f"{victim.name} was killed in the middle of an answer (process {victim.pid})"
            screen.line(f"{was} and runs again ({new_pid}).")
        if report.conversations < _MIN_CONVERSATIONS or not report.verified:
            screen.alarm("Too few conversations were compared.")
            return EXIT_FAILED
        return report.exit_code


def _words(conversation: Conversation, number: int) -> int:
    """Of the longest message that answers user message ``number`` (from 1)."""
    answers = conversation.turns[number - 1][1:]
    texts = [content_text(message.content) or "" for message in answers if message.role == "assistant"]
    return max((len(text.split()) for text in texts), default=0)


def _turn_to_kill_in(conversation: Conversation) -> int:
    """The first turn but one with an answer long enough to die in."""
    candidates = range(2, len(conversation.turns) + 1)
    long_enough = (number for number in candidates if _words(conversation, number) >= 3 * _KILL_AFTER_WORDS)
    return next(long_enough, max(candidates, key=lambda number: _words(conversation, number)))


def _longest_answer(conversation: Conversation) -> int:
    return max(_words(conversation, number) for number in range(1, len(conversation.turns) + 1))


def _say_what_next(screen: Screen, data_dir: Path, command: str, took_s: float) -> None:
    screen.heading(f"Done in {took_s:.0f} s. Try next")
    for what, step in (
        ("what this demo left behind", f"sessions list --data-dir {data_dir}"),
        ("a stack of your own; leave it running, and in another terminal:", "up"),
        ("talk to the real model (without --model: to an echo)", "chat --model smollm2:"),
        ("ask all sessions", 'sql "SELECT session_id, role, content FROM messages"'),
    ):
        screen.line(f"   {command} {step}")
        screen.stack_line(f"   {what}")
