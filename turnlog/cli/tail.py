"""``turnlog tail``: events and reply frames as they stand in their topics."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, check_session_id, client_settings, finite
from turnlog.errors import NotFoundError, TurnTimedOutError, UsageError
from turnlog.terminal import output
from turnlog_workers.base.counted import moment

if TYPE_CHECKING:
    from turnlog.client.replies import ReplyFrame
    from turnlog.client.topic_tail import Filter, Place
    from turnlog_schemas.codec import Codec
    from turnlog_workers.base.config import Settings

MAX_TEXT = 2000  #: characters of one text in a JSON line
MAX_ITEMS = 100  #: of one list or object in a JSON line
_MAX_DETAIL = 160  #: characters of what a line says beside its place
_UNSAID = ("type", "command_hash", "request_id", "reply")


class Records(StrEnum):
    """What ``tail`` shows."""

    FRAMES = "frames"
    EVENTS = "events"


What = Annotated[
    Records,
    typer.Argument(metavar="[frames|events]", help="frames of the reply topic, or events of the log."),
]
OfChannel = Annotated[
    str | None,
    typer.Option(
        "--channel",
        metavar="CHANNEL",
        help="Only this channel and its sessions: those of the snapshot, and those that are opened since.",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Only this type, such as TurnFailed; may be repeated."),
]
Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", metavar="NUMBER", min=0, help="Only this partition; may be repeated."),
]
Offset = Annotated[
    str,
    typer.Option(
        "--offset",
        "-o",
        metavar="PLACE",
        help="Where to begin: beginning, end, -5 (the last 5 of each partition), or a moment (2026-05-01T12:00Z).",
    ),
]
Deadline = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        metavar="SECONDS",
        min=0.0,
        callback=finite,
        help="Stop after this many seconds (exit code 6 if fewer than --max arrived); 0: never.",
    ),
]


def tail(
    what: What = Records.FRAMES,
    session_id: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Show only this session. Default: all sessions.")
    ] = None,
    channel: OfChannel = None,
    types: Types = None,
    partitions: Partitions = None,
    start: Offset = "end",
    max_count: Annotated[
        int, typer.Option("--max", "-n", metavar="COUNT", min=0, help="Stop after so many; 0: continue until Ctrl-C.")
    ] = 0,
    timeout_s: Deadline = 0.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Follow reply frames, or events, as they arrive: all that is in the topic, of overtaken owners too.

    Long texts are shown cut, in JSON as well. Ctrl-C ends it.
    """
    from turnlog.client.topic_tail import Filter, Place, wrong_type

    events = what is Records.EVENTS
    place = Place.of(start)
    if (wrong := wrong_type(types or (), events=events)) is not None:
        raise UsageError(wrong)
    for name in (session_id, channel):
        if name is not None:
            check_session_id(name)
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    wanted = Filter(session=session_id, types=types or (), channel=channel)
    known = _known_sessions(settings, wanted)
    try:
        asyncio.run(_tail(settings, events, place, wanted, known, partitions or [], max_count, timeout_s, json))
    except KeyboardInterrupt:  # how it is meant to end
        return


def _known_sessions(settings: "Settings", wanted: "Filter") -> Mapping[int, int] | None:
    """Puts the channel's sessions that the snapshot knows into the filter. How far the snapshot is; ``None``: there is
    none, or nothing to read it.
    """
    from turnlog.errors import MissingExtraError

    if (channel := wanted.channel) is None:
        return None
    try:
        from turnlog.snapshot.listing import SessionFilter, list_sessions
        from turnlog.snapshot.positions import read_positions

        positions = read_positions(settings.snapshot, settings.topics.events)  # before the list: nothing is in between
        found = list_sessions(settings.snapshot, SessionFilter(channel=channel, include_archived=True), limit=0)
    except (NotFoundError, MissingExtraError) as error:
        output.say(f"Of channel {channel} only sessions that are opened from now on are known: {error}")
        return None
    wanted.members |= {session.session_id for session in found.sessions}
    return positions


async def _tail(
    settings: "Settings",
    events: bool,
    place: "Place",
    wanted: "Filter",
    known: Mapping[int, int] | None,
    partitions: list[int],
    max_count: int,
    timeout_s: float,
    json: bool,
) -> None:
    from turnlog.client.channel_sessions import channel_sessions
    from turnlog.client.topic_tail import codec_of, tail
    from turnlog.terminal.live import frame_document, frame_line

    codec = codec_of(events)
    count = 0
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(timeout_s or None))
            sessions = None
            if wanted.channel is not None:
                following = channel_sessions(settings, known, wanted.is_of_channel, output.say)
                sessions = await stack.enter_async_context(following)
            records = tail(
                settings, events=events, place=place, wanted=wanted, partitions=partitions, sessions=sessions
            )
            await stack.enter_async_context(aclosing(records))
            async for found in records:
                if json or events:
                    document = event_document(codec, found) if events else frame_document(codec, found)
                    document = bounded(document)
                    output.print_json(document) if json else output.print_text(event_line(document))
                else:
                    output.print_text(frame_line(found))
                count += 1
                if count == max_count:
                    return
    except TimeoutError as error:
        if max_count:
            name = "events" if events else "frames"
            raise TurnTimedOutError(f"{count} of {max_count} {name} came within {timeout_s:g} s.") from error


def bounded(value: Any) -> Any:
    """The value with its long texts and lists cut; what was cut says how much there was."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        cut = {name: bounded(item) for name, item in list(value.items())[:MAX_ITEMS]}
        return cut if len(value) <= MAX_ITEMS else {**cut, "…": f"{len(value)} entries"}
    if isinstance(value, list | tuple):
        items = [bounded(item) for item in value[:MAX_ITEMS]]
        return items if len(value) <= MAX_ITEMS else [*items, f"… ({len(value)} items)"]
    return value


def event_document(codec: "Codec", found: "ReplyFrame") -> dict[str, Any]:
    """An event in its JSON form, with its place in the log."""
    return {**codec.to_json(found.header, found.frame), "partition": found.partition, "offset": found.offset}


def event_line(document: Mapping[str, Any]) -> str:
    """An event as one line for people: when, where, whose, what."""
    body, said = document["event"], document["stream_id"]
    place = f"{document['partition']}@{document['offset']}"
    when = f"{moment(document['recorded_at'])} "
    turn = f" {document['turn_id']}" if document.get("turn_id") else ""
    attempt = f" #{document['attempt']}" if (document.get("attempt") or 0) > 1 else ""
    details = [f"{name}={_short(item)}" for name, item in body.items() if _says(name, item)]
    detail = re.sub(r"\s+", " ", " ".join(details))
    detail = detail if len(detail) <= _MAX_DETAIL else f"{detail[: _MAX_DETAIL - 1]}…"
    return f"{when}{place} {said}{turn}{attempt} {body['type']}{': ' if detail else ''}{detail}"


def _says(name: str, item: object) -> bool:
    return name not in _UNSAID and item not in (None, "", 0, False, [], {})


def _short(item: object) -> str:
    """A value without what it does not say."""
    if isinstance(item, Mapping):
        return "{" + " ".join(f"{name}={_short(each)}" for name, each in item.items() if _says(name, each)) + "}"
    if isinstance(item, list | tuple):
        texts = [each["text"] for each in item if isinstance(each, Mapping) and each.get("text")]
        return " ".join(texts) if texts and len(texts) == len(item) else "[" + " ".join(map(_short, item)) + "]"
    return str(item)[: _MAX_DETAIL * 2]
