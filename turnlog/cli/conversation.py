"""What ``turnlog chat`` does with what is typed: turns that are shown as they come, and commands."""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from turnlog.cli.chat_input import Command, entered, parsed
from turnlog.cli.common import content_of, files_of
from turnlog.cli.exits import explain
from turnlog.cli.history import compaction_outcome
from turnlog.client.background import BackgroundLoop
from turnlog.client.replies import NOTHING_HEARD
from turnlog.errors import RequestRefusedError, SessionNotFoundError, TurnlogError, UsageError
from turnlog.terminal import output
from turnlog.terminal.history_file import history_file
from turnlog.terminal.live import LiveTurn, finished_document, shorten
from turnlog.terminal.wrapping import WordWrap, wrapped
from turnlog_schemas.files import shown_text
from turnlog_workers.base.counted import counted

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog.client.chat_turn import ChatTurn
    from turnlog.client.replies import FinishedTurn
    from turnlog_schemas.generation import GenerationParams
    from turnlog_schemas.parts import ContentPart, HistoryEntry

HELP = '''/model [MODEL]          this model answers from now on (-: the session's own); alone: says which one does
/file PATH_OR_URI       adds a file to the next message
/cancel                 ends the turn that runs in this session, whoever started it
/compact [WHAT]         has the older messages summarised; WHAT: what the summary must take care of
/help                   this
/quit                   or Ctrl-D, or Ctrl-C twice, ends
Ctrl-C                  while an answer comes, cancels the turn; at the prompt, clears the line
"""                     begins a message of several lines, and ends it; Alt-Enter begins a new line, too
//                      at the beginning of a line sends one slash'''
SHORT_HELP = "/help lists the commands; Ctrl-C cancels an answer; /quit or Ctrl-D ends."

_EARLIER_MESSAGES = 10
_EARLIER_CHARACTERS = 2000
_ASK_TIMEOUT_S = 10.0
_TURN_ID_TIMEOUT_S = 3.0


@dataclass(kw_only=True, slots=True)
class Asking:
    """How the next message is sent. Commands change it."""

    model: str | None = None  #: ``None``: the session's, else the worker's
    params: "GenerationParams | None" = None
    timeout_s: float = 600.0
    files: "tuple[ContentPart, ...]" = ()  #: of the next message


class Conversation:
    """Reads what is typed and shows the turns that it starts."""

    def __init__(
        self,
        client: "Client",
        loop: BackgroundLoop,
        session_id: str,
        asking: Asking,
        *,
        json: bool = False,
        check_model: Callable[[str], None] = lambda _: None,
        read: Callable[[], str] | None = None,
    ) -> None:
        """``check_model`` raises a :class:`TurnlogError` for a model that nobody serves. ``read``: asks somebody at a
        terminal for the next message; without it lines are read from standard input.
        """
        self.asking = asking
        self._client, self._loop, self._session_id = client, loop, session_id
        self._json, self._check_model, self._read = json, check_model, read
        self._turn: ChatTurn | None = None
        self._task: asyncio.Task[FinishedTurn] | None = None
        self._heard = asyncio.Event()  # of the turn: something
        self._commands = {
            "/help": self._help,
            "/model": self._model,
            "/file": self._file,
            "/cancel": self._cancel,
            "/compact": self._compact,
        }

    @property
    def _interactive(self) -> bool:
        return self._read is not None

    def run(self, *, resumed: bool) -> None:
        """Until the input ends. Piped input: raises the first error; somebody at a terminal may go on after it.

        Raises the last error when no message was answered. ``resumed``: the session may have earlier turns to show.
        """
        if self._interactive:
            output.say(f"session {self._session_id}. {SHORT_HELP}")
            if resumed and not self._json:
                self._show_earlier()
        answered, failure = False, None
        for said in self._entered():
            try:
                if isinstance(said, Command):
                    self._carry_out(said)
                else:
                    answered = self._answer(said) or answered
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                output.say("\nNot waiting any more.")
            except TurnlogError as error:
                if not self._interactive:
                    raise
                if not isinstance(said, Command):
                    failure = error
                output.say(f"({explain(error)[1]})")
        if failure is not None and not answered:
            raise typer.Exit(failure.exit_code)  # it was told when it happened

    # ---- input

    def _entered(self) -> Iterator[str | Command]:
        for said in entered(input) if self._read is None else self._asked(self._read):
            if isinstance(said, Command) and said.name in ("/quit", "/exit"):
                return
            yield said

    def _asked(self, read: Callable[[], str]) -> Iterator[str | Command]:
        while True:
            output.say("")
            try:
                said = parsed(read())
            except EOFError:
                return
            except KeyboardInterrupt:  # between two prompts
                continue
            if said is not None:
                yield said

    # ---- commands

    def _carry_out(self, command: Command) -> None:
        do = self._commands.get(command.name)
        if do is None:
            raise UsageError(
                f"{command.name[:80]} is no command, and nothing was sent: /help lists the commands, and a line that "
                "begins with // is sent with one slash."
            )
        do(command.argument)

    def _help(self, _: str) -> None:
        output.say(HELP)

    def _model(self, model: str) -> None:
        if model == "-":
            self.asking.model = None
        elif model:
            self._check_model(model)
            self.asking.model = model
        output.say(f"model: {self.asking.model or self._default_model()}")

    def _default_model(self) -> str:
        try:
            own = self._loop.wait(self._client.get(self._session_id, timeout_s=_ASK_TIMEOUT_S)).model
        except SessionNotFoundError:
            own = None
        return f"{own} (the session's)" if own else "the workers' default"

    def _file(self, path: str) -> None:
        if not path:
            raise UsageError("/file PATH_OR_URI: which file?")
        self.asking.files += files_of([path])
        output.say_progress(f"{path} goes with the next message.")

    def _cancel(self, _: str) -> None:
        turn = self._loop.wait(self._client.cancel(self._session_id, timeout_s=_ASK_TIMEOUT_S))
        output.say(f"turn {turn.turn_id} is cancelled")

    def _compact(self, instructions: str) -> None:
        output.say_progress("summarising the older messages...")
        compact = self._client.compact(
            self._session_id, instructions=instructions or None, timeout_s=self.asking.timeout_s
        )
        done = self._loop.wait(compact)
        if done.summary:
            output.print_text(_on_screen(done.summary))
        output.say(compaction_outcome(done))

    # ---- turns

    def _answer(self, text: str) -> bool:
        """Send a message and show its turn; ``False``: nobody waits for its end, or it was cancelled from here.

        Raises what the turn ended with. Ctrl-C cancels the turn; another one stops waiting for that.
        """
        future = self._loop.start(self._say(text))
        try:
            future.result().raise_for_status()
            return True
        except KeyboardInterrupt:
            if not self._interactive:
                future.cancel()
                raise
        try:
            output.say("\n(cancelling; Ctrl-C once more stops waiting)")
            self._loop.wait(self._cancel_turn())
            turn = future.result(_ASK_TIMEOUT_S)
        except (KeyboardInterrupt, TimeoutError, TurnlogError) as error:
            self._leave(future)
            why = f"{explain(error)[1]}. " if isinstance(error, TurnlogError) else ""
            output.say(f"({why}{self._what_goes_on()})")
            return False
        if turn.status == "cancelled":
            output.say("(cancelled: what was said so far is kept)")
            return False
        turn.raise_for_status()  # it had ended before
        return True

    async def _cancel_turn(self) -> None:
        turn = self._turn
        assert turn is not None
        async with asyncio.timeout(_TURN_ID_TIMEOUT_S):
            await self._heard.wait()
        if turn.ended or turn.view.turn_id is None:
            return
        try:
            await self._client.cancel(self._session_id, turn.view.turn_id, timeout_s=_ASK_TIMEOUT_S)
        except RequestRefusedError as error:
            if error.code != "not_running":  # it has ended meanwhile
                raise

    def _leave(self, future: "Future[FinishedTurn]") -> None:
        """Stop following the turn, and see that nothing of it is shown any more: the prompt comes next."""
        future.cancel()
        self._loop.wait(self._ended())

    async def _ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=1)

    def _what_goes_on(self) -> str:
        if self._turn is not None and self._turn.state == NOTHING_HEARD:
            return "Nothing was heard of this message yet: `turnlog doctor` finds out why."
        return "Not waiting any more. The turn goes on, and the next message comes after it."

    async def _say(self, text: str) -> "FinishedTurn":
        self._task = asyncio.current_task()
        heard = self._heard = asyncio.Event()
        turn = self._turn = self._client.chat(
            self._session_id,
            content_of(text, self.asking.files),
            model=self.asking.model,
            params=self.asking.params,
            timeout_s=self.asking.timeout_s,
        )
        self.asking.files = ()
        live = LiveTurn(_writer())
        async with turn:
            try:
                async for reply in turn:
                    heard.set()
                    if not self._json:
                        live.show(reply)
            finally:
                heard.set()
                live.finish()
            finished = await turn.result()
        if self._json:
            output.print_json(finished_document(finished))
        return finished

    # ---- earlier turns

    def _show_earlier(self) -> None:
        try:
            archived, before, messages = self._loop.wait(self._earlier())
        except SessionNotFoundError:
            output.say("It is a new one.")
            return
        except (KeyboardInterrupt, TurnlogError) as error:
            why = explain(error)[1] if isinstance(error, TurnlogError) else "interrupted"
            output.say(f"(its earlier turns cannot be shown: {why})")
            return
        if before:
            output.say(f"({counted(before, 'earlier message')}: turnlog sessions history {self._session_id})")
        for message in messages:
            _show_message(message)
        if archived:
            output.say("\nThis session is archived: it can be read, and takes no messages.")

    async def _earlier(self) -> "tuple[bool, int, tuple[HistoryEntry, ...]]":
        """Is it archived; how many messages come before those that are shown; and these, from a user's on."""
        info = await self._client.get(self._session_id, timeout_s=_ASK_TIMEOUT_S)
        after = max(0, (info.messages or 0) - _EARLIER_MESSAGES)
        page = await self._client.history(
            self._session_id, after=after, limit=_EARLIER_MESSAGES, timeout_s=_ASK_TIMEOUT_S
        )
        first = next((i for i, message in enumerate(page.messages) if message.role == "user"), 0) if after else 0
        return info.archived, after + first, page.messages[first:]


def _show_message(message: "HistoryEntry") -> None:
    text = shown_text(message.content) or ""
    if len(text) > _EARLIER_CHARACTERS:
        text = f"{text[:_EARLIER_CHARACTERS]}… ({len(text)} characters)"
    match message.role:
        case "user":
            output.print_text(_on_screen(f"\nyou> {text}"))
        case "assistant":
            if text:
                output.print_text(_on_screen(f"{text}{' [interrupted]' if message.interrupted else ''}"))
            for call in message.tool_calls:
                _writer()(f"-> {output.printable(call.name)}({output.printable(shorten(call.arguments))})\n", True)
        case "tool":
            _writer()(f"<- {output.printable(shorten(text))}\n", True)
        case role:
            output.print_text(_on_screen(f"\n{role}> {text}"))


def _width() -> int:
    return shutil.get_terminal_size().columns


def _on_screen(text: str) -> str:
    return wrapped(text, _width()) if output.is_terminal(sys.stdout) else text


def _writer() -> Callable[[str, bool], None]:
    """Writes pieces of an answer: broken between words on a terminal, as they are elsewhere."""
    on_terminal = output.is_terminal(sys.stdout)
    dim = on_terminal and not os.environ.get("NO_COLOR")
    answer = WordWrap(lambda text: print(text, end=""), _width)

    def write(text: str, aside: bool) -> None:
        if aside:
            answer.flush()
            line = _on_screen(text.rstrip("\n"))
            print(f"\x1b[2m{line}\x1b[0m" if dim else line, end=text[len(text.rstrip("\n")) :])
        elif on_terminal:
            answer.feed(text)
        else:
            print(text, end="")
        sys.stdout.flush()

    return write


def prompt_on_terminal() -> Callable[[], str] | None:
    """Asks for the next message, where somebody is there to ask."""
    if not output.is_terminal(sys.stdin):
        return None
    if not (output.is_terminal(sys.stdout) or output.is_terminal(sys.stderr)):
        return input
    from turnlog.cli.chat_prompt import ChatPrompt

    return ChatPrompt(history_file("chat_history")).ask
