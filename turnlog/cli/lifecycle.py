"""The verbs of ``turnlog sessions`` that are asked of a session's owner, or of its channel's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from turnlog.cli.common import (
    Bootstrap,
    ChannelName,
    DataDir,
    Json,
    MaxTokens,
    Metadata,
    ModelSetting,
    Prefix,
    RequestId,
    SessionId,
    Stop,
    Temperature,
    TimeoutS,
    Verbose,
    client_settings,
    metadata_of,
    params_of,
    refuse_unservable,
)
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.errors import UsageError
from turnlog.terminal import output

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog.client.session_info import SessionInfo
    from turnlog_schemas.generation import GenerationParams
    from turnlog_workers.base.config import Settings

T = TypeVar("T")

Title = Annotated[
    str | None, typer.Option("--title", help="The title. Default: taken from the first message.", show_default=False)
]
Instructions = Annotated[
    str | None, typer.Option("--instructions", help="What the model is told first.", show_default=False)
]
OwnModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="The session's model. Default: the channel's."),
]
HistoryMaxTokens = Annotated[
    int | None,
    typer.Option(
        "--history-max-tokens",
        metavar="TOKENS",
        help="Compact the history above this many tokens; 0: the workers' "
        "setting; negative: only on request. Default: 0.",
        show_default=False,
    ),
]
HistoryKeepTail = Annotated[
    int | None,
    typer.Option(
        "--history-keep-tail",
        metavar="MESSAGES",
        min=0,
        help="How many of the newest messages a history compaction keeps word for word. Default: the workers' setting.",
        show_default=False,
    ),
]


def ask_once(settings: "Settings", verb: "Callable[[Client], Awaitable[T]]") -> T:
    """The answer to one verb."""

    async def ask() -> T:
        from turnlog.client.async_client import Client

        async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            return await verb(client)

    return asyncio.run(ask())


def _print_id(info: "SessionInfo", json: bool, note: str) -> None:
    """The id alone on standard output, so that a script can take it."""
    if json:
        output.print_json(asdict(info))
    else:
        output.print_text(info.session_id)
        output.say(note)


def create(
    channel: ChannelName,
    session_id: Annotated[
        str | None, typer.Option("--session-id", help="The new session's id. Default: channel, -, 8 hex digits.")
    ] = None,
    title: Title = None,
    instructions: Instructions = None,
    model: OwnModel = None,
    metadata: Metadata = None,
    history_max_tokens: HistoryMaxTokens = None,
    history_keep_tail: HistoryKeepTail = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    model_setting: ModelSetting = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Open a session in a channel and print its id. It becomes the channel's active session."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    params = params_of(temperature, max_tokens, stop, model_setting)
    new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params)
    new["session_id"] = session_id
    info = ask_once(settings, lambda client: client.create(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, f"created in channel {info.channel}")


def resolve(
    channel: ChannelName,
    title: Title = None,
    instructions: Instructions = None,
    model: OwnModel = None,
    metadata: Metadata = None,
    history_max_tokens: HistoryMaxTokens = None,
    history_keep_tail: HistoryKeepTail = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    model_setting: ModelSetting = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Print the id of a channel's active session; if there is none, create one.

    However many ask at once, all get the same session.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    params = params_of(temperature, max_tokens, stop, model_setting)
    new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params)
    info = ask_once(settings, lambda client: client.resolve(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, "created" if info.created else "already existed")


def rotate(
    channel: ChannelName,
    title: Title = None,
    instructions: Instructions = None,
    model: OwnModel = None,
    metadata: Metadata = None,
    history_max_tokens: HistoryMaxTokens = None,
    history_keep_tail: HistoryKeepTail = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    model_setting: ModelSetting = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Archive a channel's active session, if any, open a new one, and print its id."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    params = params_of(temperature, max_tokens, stop, model_setting)
    new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params)
    info = ask_once(settings, lambda client: client.rotate(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, f"created in channel {info.channel}")


def archive(
    session_id: SessionId,
    channel: Annotated[
        str | None,
        typer.Option("--channel", help="The session's channel. Default: ask the session's owner.", show_default=False),
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Archive a session: it stays readable, queued turns are cancelled, later messages are refused."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = ask_once(
        settings,
        lambda client: client.archive(session_id, channel, request_id=request_id, timeout_s=timeout_s),
    )
    _print_id(info, json, "archived")


def active(
    channel: ChannelName,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Print the id of a channel's active session: the one that was opened last and is not archived."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = ask_once(settings, lambda client: client.active(channel, timeout_s=timeout_s))
    _print_id(info, json, f"active in channel {info.channel}")


def get(
    session_id: SessionId,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show a session as its owner knows it now, with everything written so far."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = ask_once(settings, lambda client: client.get(session_id, timeout_s=timeout_s))
    if json:
        output.print_json(asdict(info))
    else:
        print_info(info)


def print_info(info: "SessionInfo") -> None:
    """A session for people, a line for each thing that is known."""
    for name, value in asdict(info).items():
        if value not in (None, "", {}) and name not in ("request_id", "created"):
            output.print_text(f"{name.replace('_', ' ')}: {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def cancel(
    session_id: SessionId,
    turn_id: Annotated[
        str | None, typer.Option("--turn", metavar="TURN", help="The turn to cancel. Default: the running one.")
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Cancel a turn of a session, queued or running. The text so far is kept as a message and printed."""
    from turnlog.terminal.live import finished_document

    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    turn = ask_once(
        settings, lambda client: client.cancel(session_id, turn_id, request_id=request_id, timeout_s=timeout_s)
    )
    if json:
        output.print_json(finished_document(turn))
        return
    if turn.text:
        output.print_text(turn.text)
    output.say(f"turn {turn.turn_id} is cancelled")


def hide(
    session_id: SessionId,
    turn_id: Annotated[str, typer.Argument(metavar="TURN", help="The turn's id (see sessions show).")],
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Mark a turn as hidden, for good. Nothing is erased, and models see it as before."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    hidden = ask_once(
        settings, lambda client: client.hide_turn(session_id, turn_id, request_id=request_id, timeout_s=timeout_s)
    )
    if json:
        output.print_json({"session_id": session_id, "hidden_turn_id": hidden})
    else:
        output.say(f"turn {hidden} is hidden")


def update(
    session_id: SessionId,
    title: Annotated[
        str | None, typer.Option("--title", help="The new title; empty: the next message gives it one.")
    ] = None,
    instructions: Annotated[
        str | None, typer.Option("--instructions", help="What the model is told first from now on; empty: nothing.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Of its later turns; empty: the channel's default."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "--meta", metavar="NAME=VALUE", help="Set one entry of metadata; may be repeated."),
    ] = None,
    remove_metadata: Annotated[
        list[str] | None,
        typer.Option("--remove-metadata", metavar="NAME", help="Remove one entry of metadata; may be repeated."),
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Change a session's title, model, instructions or metadata. What is not named stays as it is."""
    said: dict[str, Any] = {"title": title, "instructions": instructions, "model": model}
    said |= {"metadata": metadata_of(metadata), "remove_metadata": tuple(remove_metadata or ())}
    if all(value is None or value == () for value in said.values()):
        raise UsageError("Nothing to change: name a title, a model, instructions or metadata.")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model or None)
    info = ask_once(
        settings, lambda client: client.update(session_id, request_id=request_id, timeout_s=timeout_s, **said)
    )
    _print_id(info, json, "updated")


def reset(
    session_id: SessionId,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Close a session's runner. Its next turn starts a new one, with the settings in force then."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = ask_once(settings, lambda client: client.reset_runner(session_id, timeout_s=timeout_s))
    _print_id(info, json, "its next turn makes a new runner")


def _new(
    title: str | None,
    instructions: str | None,
    model: str | None,
    metadata: list[str] | None,
    history_max_tokens: int | None,
    history_keep_tail: int | None,
    params: "GenerationParams | None",
) -> dict[str, Any]:
    return {
        "title": title,
        "instructions": instructions,
        "model": model,
        "metadata": metadata_of(metadata),
        "history_max_tokens": history_max_tokens,
        "history_keep_tail": history_keep_tail,
        "params": params,
    }


VERBS = (create, get, update, resolve, rotate, archive, active, cancel, hide, reset)
