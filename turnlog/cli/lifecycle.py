"""The verbs of ``turnlog sessions`` that are asked of a session's owner, or of its channel's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from turnlog.cli import output
from turnlog.cli.common import (
    Bootstrap,
    ChannelName,
    DataDir,
    Json,
    Metadata,
    Prefix,
    RequestId,
    SessionId,
    TimeoutS,
    Verbose,
    client_settings,
    metadata_of,
)
from turnlog.cli.talk import CONNECT_TIMEOUT_S
from turnlog.cli.transcript import MAX_RESULT, print_message

if TYPE_CHECKING:
    from schemas.parts import HistoryEntry
    from turnlog.client import Client
    from turnlog.session_info import SessionInfo
    from workers.config import Settings

T = TypeVar("T")

Title = Annotated[str | None, typer.Option("--title", help="Default: made of the first message.", show_default=False)]
Instructions = Annotated[
    str | None, typer.Option("--instructions", help="What the model is told first.", show_default=False)
]
OwnModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="The session's own. Default: that of the channel."),
]


def _ask(settings: "Settings", verb: "Callable[[Client], Awaitable[T]]") -> T:
    """The answer to one verb."""

    async def ask() -> T:
        from turnlog.client import Client

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
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Open a session in a channel, and print its id; it becomes the channel's active one."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    new = _new(title, instructions, model, metadata)
    new["session_id"] = session_id
    info = _ask(settings, lambda client: client.create(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, f"created in channel {info.channel}")


def resolve(
    channel: ChannelName,
    title: Title = None,
    instructions: Instructions = None,
    model: OwnModel = None,
    metadata: Metadata = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Print the id of a channel's active session; a new one is made if there is none.

    However many ask at once, all get the same.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    new = _new(title, instructions, model, metadata)
    info = _ask(settings, lambda client: client.resolve(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, "created" if info.created else "was there")


def rotate(
    channel: ChannelName,
    title: Title = None,
    instructions: Instructions = None,
    model: OwnModel = None,
    metadata: Metadata = None,
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
    new = _new(title, instructions, model, metadata)
    info = _ask(settings, lambda client: client.rotate(channel, request_id=request_id, timeout_s=timeout_s, **new))
    _print_id(info, json, f"created in channel {info.channel}")


def archive(
    session_id: SessionId,
    channel: Annotated[
        str | None, typer.Option("--channel", help="The session's. Default: its owner is asked.", show_default=False)
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Archive a session: it stays readable, what is queued is cancelled, later messages are refused."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = _ask(
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
    """Print the id of a channel's active session: the most recently active one that is not archived."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = _ask(settings, lambda client: client.active(channel, timeout_s=timeout_s))
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
    """What a session's owner knows of it now: what was written before is in it."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = _ask(settings, lambda client: client.get(session_id, timeout_s=timeout_s))
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


def history(
    session_id: SessionId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only messages behind this number.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many, 0 for all.")] = 100,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long tool results.", show_default=False)] = False,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """The messages of a session as its owner has them, in turn order, page by page."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    entries, next_after = _ask(settings, lambda client: _messages(client, session_id, after, limit, timeout_s))
    documents = [_entry_document(entry) for entry in entries]
    if json:
        output.print_json({"session_id": session_id, "messages": documents, "next_after": next_after})
        return
    for document in documents:
        print_message(document, max_result=0 if full else MAX_RESULT)
    if next_after is not None:
        output.say(f"There are more: --after {next_after}")


async def _messages(
    client: "Client", session_id: str, after: int, limit: int, timeout_s: float
) -> "tuple[list[HistoryEntry], int | None]":
    """So many messages (0: all), and where to go on."""
    found: list[HistoryEntry] = []
    position: int | None = after
    while position is not None and (not limit or len(found) < limit):
        wanted = min(limit - len(found), _MAX_PAGE) if limit else _MAX_PAGE
        page = await client.history(session_id, after=position, limit=wanted, timeout_s=timeout_s)
        found += page.messages
        position = page.next_after
    return found, position


_MAX_PAGE = 1000


def _entry_document(entry: "HistoryEntry") -> dict[str, Any]:
    """A message with its tool calls in OpenAI's form."""
    from schemas.parts import content_text

    document = asdict(entry)
    document["content"] = content_text(entry.content)
    calls = document.pop("tool_calls")
    if calls:
        document["tool_calls"] = [
            {"id": call["call_id"], "type": "function", "function": {n: call[n] for n in ("name", "arguments")}}
            for call in calls
        ]
    return document


def cancel(
    session_id: SessionId,
    turn_id: Annotated[
        str | None, typer.Option("--turn", metavar="TURN", help="Which one. Default: the running one.")
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """End a turn of a session, queued or running. What it had said is kept as a message, and printed."""
    from turnlog.cli.live import finished_document

    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    turn = _ask(settings, lambda client: client.cancel(session_id, turn_id, request_id=request_id, timeout_s=timeout_s))
    if json:
        output.print_json(finished_document(turn))
        return
    if turn.text:
        output.print_text(turn.text)
    output.say(f"turn {turn.turn_id} is cancelled")


def reset(
    session_id: SessionId,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Close a session's runner: its next turn makes a new one, by the settings of then."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    info = _ask(settings, lambda client: client.reset_runner(session_id, timeout_s=timeout_s))
    _print_id(info, json, "its next turn makes a new runner")


def _new(title: str | None, instructions: str | None, model: str | None, metadata: list[str] | None) -> dict[str, Any]:
    return {
        "title": title,
        "instructions": instructions,
        "model": model,
        "metadata": metadata_of(metadata),
    }


VERBS = (create, get, resolve, rotate, archive, active, history, cancel, reset)
