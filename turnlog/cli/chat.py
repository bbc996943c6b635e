"""``turnlog chat``: a conversation in the terminal, the answer streaming in. Works with piped lines too."""

import shlex
import uuid
from collections.abc import Mapping
from typing import Annotated

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
    files_of,
    params_of,
    refuse_unservable,
)
from turnlog.client.background import BackgroundLoop
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.terminal import output


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

    A line is a message, and so are pasted lines and what stands between two \"\"\". /help lists the commands (/model,
    /file, /cancel, /compact); Ctrl-C cancels an answer; /quit or Ctrl-D ends. With piped input, the command ends at the
    first turn that does not complete, with its exit code. With --json each answer is one line.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    if session_id is not None:
        check_session_id(session_id)
    refuse_unservable(settings, model)
    params = params_of(temperature, max_tokens, stop, model_setting)
    files = files_of(file)
    from turnlog.cli.conversation import Asking, Conversation, prompt_on_terminal
    from turnlog.client.async_client import Client

    resumed, session_id = session_id is not None, session_id or f"cli-{uuid.uuid4().hex[:8]}"
    asking = Asking(model=model, params=params, timeout_s=timeout_s, files=files)
    read = prompt_on_terminal()
    if read is None and not resumed:
        output.say(f"session {session_id}")
    # In a thread, its connections live on while this one waits for somebody to type.
    with BackgroundLoop() as loop:
        client = Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S)
        loop.wait(client.__aenter__())
        try:
            conversation = Conversation(
                client,
                loop,
                session_id,
                asking,
                json=json,
                check_model=lambda model: refuse_unservable(settings, model),
                read=read,
            )
            conversation.run(resumed=resumed)
        finally:
            loop.wait(client.aclose())
    if read is not None:
        options = {"--model": asking.model, "--temperature": temperature, "--max-tokens": max_tokens, "--stop": stop}
        options |= {"--model-setting": model_setting, "--bootstrap-server": bootstrap_server}
        output.say(_again(session_id, {**options, "--data-dir": data_dir, "--prefix": prefix}))


def _again(session_id: str, options: Mapping[str, object]) -> str:
    """How to go on with the session, with the options that were given."""
    command = f"turnlog chat {session_id}"
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        command += "".join(f" {name} {shlex.quote(str(each))}" for each in values)
    return f"To continue this session: {command}"
