"""``turnlog chat``: a conversation in the terminal, the answer streaming in. Works with piped lines too."""

import os
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Files,
    Json,
    MaxTokens,
    Model,
    ModelSetting,
    Prefix,
    Stop,
    Temperature,
    TimeoutS,
    Verbose,
    check_session_id,
    client_settings,
    content_of,
    files_of,
    params_of,
    refuse_unservable,
)
from turnlog.cli.exits import explain
from turnlog.cli.talk import CONNECT_TIMEOUT_S
from turnlog.client.background import BackgroundLoop
from turnlog.errors import TurnlogError
from turnlog.terminal import output

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog.client.chat_turn import ChatTurn
    from turnlog.client.replies import FinishedTurn
    from turnlog_schemas.generation import GenerationParams
    from turnlog_schemas.parts import ContentPart

_HELP = (
    "Each line is a message; /file PATH_OR_URI adds a file to the next one. /quit or Ctrl-D ends; Ctrl-C stops waiting "
    "for an answer (the turn goes on)."
)


def chat(
    session_id: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="The session to continue. Default: a new one.")
    ] = None,
    model: Model = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    model_setting: ModelSetting = None,
    file: Files = None,
    timeout_s: TimeoutS = 600.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Chat with a session; answers stream in as they are generated.

    Each line is a message; /file PATH_OR_URI adds a file to the next one. /quit or Ctrl-D ends. With piped input, the
    command ends at the first turn that does not complete, with its exit code. With --json each answer is one line.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    if session_id is not None:
        check_session_id(session_id)
    refuse_unservable(settings, model)
    params = params_of(temperature, max_tokens, stop, model_setting)
    files = files_of(file)
    given: dict[str, object] = {"--model": model, "--temperature": temperature, "--max-tokens": max_tokens}
    given |= {"--bootstrap-server": bootstrap_server, "--data-dir": data_dir, "--prefix": prefix}
    options = "".join(f" {name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)
    options += "".join(f" --stop {shlex.quote(text)}" for text in stop or ())
    options += "".join(f" --model-setting {shlex.quote(pair)}" for pair in model_setting or ())
    from turnlog.client.async_client import Client

    if session_id is None:
        session_id = f"cli-{uuid.uuid4().hex[:8]}"
        if not output.is_terminal(sys.stdin):
            output.say(f"session {session_id}")
    # In a thread, its connections live on while this one waits for somebody to type.
    with BackgroundLoop() as loop:
        client = Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S)
        loop.wait(client.__aenter__())
        try:
            conversation = _Conversation(
                client, loop, session_id, model=model, params=params, timeout_s=timeout_s, json=json, files=files
            )
            conversation.run(f"turnlog chat {session_id}{options}")
        finally:
            loop.wait(client.aclose())


class _Conversation:
    """Reads lines and shows the turns that they start."""

    def __init__(
        self,
        client: "Client",
        loop: BackgroundLoop,
        session_id: str,
        *,
        model: str | None,
        params: "GenerationParams | None",
        timeout_s: float,
        json: bool,
        files: "tuple[ContentPart, ...]" = (),
    ) -> None:
        self._files = files  # of the next message
        self._client, self._loop, self._session_id = client, loop, session_id
        self._model, self._params, self._timeout_s, self._json = model, params, timeout_s, json
        self._interactive = output.is_terminal(sys.stdin)
        self._turn: ChatTurn | None = None

    def run(self, again: str) -> None:
        """Until the input ends. Piped input: raises the first error; somebody at a terminal may go on after it.

        Raises the last error when no message was answered. ``again``: the command that goes on with the session.
        """
        if self._interactive:
            output.say(f"session {self._session_id}. {_HELP}")
        answered, failure = False, None
        for line in self._lines():
            if line == "/help":
                output.say(_HELP)
                continue
            try:
                if line.startswith("/file "):
                    self._files += files_of([line.removeprefix("/file ").strip()])
                    continue
                turn = self._loop.wait(self._say(line))
                turn.raise_for_status()
                answered = True
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                output.say(f"\nNot waiting any more. {self._what_goes_on()}")
            except TurnlogError as error:
                if not self._interactive:
                    raise
                failure = error
                output.say(f"({explain(error)[1]})")
        if failure is not None and not answered:
            raise typer.Exit(failure.exit_code)  # it was told when it happened
        if self._interactive:
            output.say(f"To continue this session: {again}")

    def _what_goes_on(self) -> str:
        from turnlog.client.replies import NOTHING_HEARD

        if self._turn is not None and self._turn.state == NOTHING_HEARD:
            return "Nothing was heard of this message yet: `turnlog doctor` finds out why."
        return "The turn goes on, and the next message comes after it."

    def _lines(self) -> Iterator[str]:
        if self._interactive:
            _enable_line_editing()
        while True:
            try:
                line = input("\nyou> " if self._interactive else "")
            except EOFError:
                if self._interactive:
                    output.say("")
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                output.say("\n/quit or Ctrl-D ends.")
                continue
            line = line.strip()
            if line == "/quit":
                return
            if line:
                yield line

    async def _say(self, text: str) -> "FinishedTurn":
        from turnlog.terminal.live import LiveTurn, finished_document

        turn = self._turn = self._client.chat(
            self._session_id,
            content_of(text, self._files),
            model=self._model,
            params=self._params,
            timeout_s=self._timeout_s,
        )
        self._files = ()
        live = LiveTurn(_writer())
        async with turn:
            try:
                async for reply in turn:
                    if not self._json:
                        live.show(reply)
            finally:
                live.finish()
            finished = await turn.result()
        if self._json:
            output.print_json(finished_document(finished))
        return finished


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 - importing it is what gives input() its editing
    except ImportError:  # not on every platform; input() works without
        return


def _writer() -> Callable[[str, bool], None]:
    dim = output.is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")

    def write(text: str, aside: bool) -> None:
        line = text.rstrip("\n")
        sys.stdout.write(f"\x1b[2m{line}\x1b[0m{text[len(line) :]}" if aside and dim else text)
        sys.stdout.flush()

    return write
