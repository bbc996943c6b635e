"""The prompt of ``turnlog chat`` on a terminal: editing, history, several lines, and Ctrl-C that leaves it whole."""

import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output

from turnlog.cli.chat_input import is_open
from turnlog.terminal import output

_HISTORY_MESSAGES = 1000
_MORE = "...> "
_HOW_TO_END = "Ctrl-C once more, Ctrl-D or /quit ends."


class ChatPrompt:
    """Asks for one message or command after the other."""

    def __init__(self, history: Path, *, source: Input | None = None, screen: Output | None = None) -> None:
        """``history``: the file of what was typed before; ``source``, ``screen``: of the process, if absent."""
        self._interrupted = False  # by the newest key, so that another one ends
        self._session: PromptSession[str] = PromptSession(
            history=_kept(history),
            multiline=True,
            prompt_continuation=_MORE,
            key_bindings=self._keys(),
            reserve_space_for_menu=0,
            input=source,
            output=screen or _screen(),
        )
        self._session.default_buffer.on_text_changed += self._typed

    def ask(self) -> str:
        """What was entered. Raises ``EOFError`` when there is no more: Ctrl-D, or Ctrl-C twice."""
        self._interrupted = False
        return self._session.prompt("you> ")

    def _typed(self, _: object) -> None:
        if self._session.default_buffer.text:
            self._interrupted = False

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if is_open(buffer.text):
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            if self._interrupted:
                event.app.exit(exception=EOFError())
                return
            event.current_buffer.reset()
            self._interrupted = True
            run_in_terminal(lambda: output.say(_HOW_TO_END))

        return keys


def _screen() -> Output:
    """The terminal, also where standard output goes elsewhere."""
    screen = create_output(stdout=sys.stdout if output.is_terminal(sys.stdout) else sys.stderr)
    if isinstance(screen, Vt100_Output):
        screen.enable_cpr = False  # nothing here needs to know where the cursor is, and some terminals do not answer
    return screen


class _FileHistory(FileHistory):
    """What cannot be kept is no reason to lose what was just typed."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:
            output.say(f"The history is not kept: {error}")


def _kept(path: Path) -> History:
    """The history in a file of the user's own, with the newest messages only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        history = _FileHistory(str(path))
        newest_first = list(history.load_history_strings())
        if len(newest_first) > _HISTORY_MESSAGES:
            _rewrite(path, reversed(newest_first[:_HISTORY_MESSAGES]))
    except OSError as error:
        output.say(f"The history is not kept: {error}")
        return InMemoryHistory()
    return history


def _rewrite(path: Path, messages: Iterable[str]) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    shorter = FileHistory(str(new))
    for message in messages:
        shorter.store_string(message)
    new.replace(path)
