"""``turnlog dead-letters``: requests that nobody could read or decide, and what becomes of them."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, check_session_id, client_settings
from turnlog.errors import EXIT_NOT_FOUND, EXIT_OK, EXIT_REFUSED, NotFoundError, UsageError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted, moment
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    from turnlog.client.dead_letters import DeadLetter, LetterFilter, Place
    from turnlog.client.redriving import Outcome
    from turnlog_workers.base.config import Settings

dead_letters_app = typer.Typer(
    help="Requests that nobody could read or decide. A dead letter is known by the place of its request, "
    "PARTITION@OFFSET, and is kept for as long as its topic keeps it: 30 days.",
    no_args_is_help=True,
)
_MAX_REASON = 120  #: characters in a line

Ids = Annotated[list[str] | None, typer.Argument(metavar="[PARTITION@OFFSET]...", help="Which ones.")]
Codes = Annotated[
    list[str] | None,
    typer.Option("--code", metavar="CODE", help="Only this code; may be repeated."),
]
OfSession = Annotated[str | None, typer.Option("--session", metavar="SESSION", help="Only requests for this session.")]
Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", metavar="NUMBER", min=0, help="Only this partition of the requests; may be repeated."),
]
#: As typer reads them, and as they are printed.
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]
Since = Annotated[
    datetime | None, typer.Option("--since", formats=_MOMENTS, help="Only those parked at or after this time (UTC).")
]
Before = Annotated[
    datetime | None, typer.Option("--before", formats=_MOMENTS, help="Only those parked before this time (UTC).")
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Maximum number of them; 0: all.")]
Every = Annotated[bool, typer.Option("--all", help="All that wait.", show_default=False)]


@dead_letters_app.command("list")
def list_(
    codes: Codes = None,
    session_id: OfSession = None,
    partitions: Partitions = None,
    since: Since = None,
    before: Before = None,
    done: Annotated[
        bool,
        typer.Option("--all", help="Those that were redriven or discarded, too.", show_default=False),
    ] = False,
    limit: Limit = 50,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """List dead letters that wait for a decision, in the order in which they were parked.

    With --json one document per line, as they are read.
    """
    wanted = _filter([], codes, session_id, partitions, since, before, done=done)
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)

    async def list_them() -> None:
        count = 0
        async with aclosing(_letters(settings, wanted)) as letters:
            async for letter in letters:
                if limit and count == limit:
                    output.say(f"The first {limit} are shown; more: --limit, --since or another filter.")
                    return
                count += 1
                output.print_json(document_of(letter)) if json else output.print_text(line_of(letter))
        if not json:
            output.say(f"{counted(count, 'dead letter')}{'' if done else ' to be decided on'}")

    asyncio.run(list_them())


@dead_letters_app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="Which one, as `list` shows it.")],
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show a dead letter: why it was parked, its headers, and its bytes as far as they are kept."""
    wanted = _filter([letter_id], None, None, None, None, None, done=True)
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)

    async def find() -> "DeadLetter":
        async with aclosing(_letters(settings, wanted)) as letters:
            async for letter in letters:
                return letter
        raise NotFoundError(_not_there(letter_id, settings))

    letter = asyncio.run(find())
    text = (letter.value or b"").decode(errors="backslashreplace")
    headers = {name: content.decode(errors="backslashreplace") for name, content in letter.headers}
    if json:
        more = {
            "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
            "headers": headers,
            "value": None if letter.value is None else text,
            "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode(),
        }
        output.print_json({**document_of(letter), **more})
        return
    output.print_text(line_of(letter, max_reason=0))
    if letter.cut is not None:
        output.print_text(
            f"cut: {letter.cut}; of {letter.original_bytes or '?'} bytes. It cannot be redriven: send the request anew"
        )
    key = "none" if letter.key is None else repr(letter.key.decode(errors="backslashreplace"))
    output.print_text(f"stored: {settings.topics.dead_letters}[{letter.stored[0]}]@{letter.stored[1]}\nkey: {key}")
    for name, content in headers.items():
        output.print_text(f"header {name}: {content}")
    output.print_text("no value" if letter.value is None else f"\n{text}")


@dead_letters_app.command("redrive")
def redrive(
    ids: Ids = None,
    codes: Codes = None,
    session_id: OfSession = None,
    partitions: Partitions = None,
    since: Since = None,
    before: Before = None,
    every: Every = False,
    limit: Limit = 0,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Send also what, as far as this version and these settings know, would be parked again.",
            show_default=False,
        ),
    ] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Send requests again: same key, value and headers, to the partition that the key belongs to now.

    A request keeps its identity, so one that is sent twice is one turn. In the order in which they were parked. Exit
    code 5 if one could not be sent: what was cut when it was parked cannot.
    """
    require("worker", "turnlog dead-letters redrive")
    wanted = _chosen(ids, codes, session_id, partitions, since, before, every=every)
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    raise typer.Exit(asyncio.run(_decide(settings, wanted, ids or [], limit, discard=False, force=force, json=json)))


@dead_letters_app.command("discard")
def discard(
    ids: Ids = None,
    codes: Codes = None,
    session_id: OfSession = None,
    partitions: Partitions = None,
    since: Since = None,
    before: Before = None,
    every: Every = False,
    limit: Limit = 0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Record that dead letters are done with: `list` no longer shows them. Nothing is deleted.

    `list --all` shows them, and `redrive` still sends them if it is given their places.
    """
    require("worker", "turnlog dead-letters discard")
    wanted = _chosen(ids, codes, session_id, partitions, since, before, every=every)
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    raise typer.Exit(asyncio.run(_decide(settings, wanted, ids or [], limit, discard=True, force=False, json=json)))


async def _letters(settings: "Settings", wanted: "LetterFilter") -> "AsyncGenerator[DeadLetter, None]":
    from turnlog.client.dead_letters import dead_letter_reader

    async with dead_letter_reader(settings) as reader, aclosing(reader.letters(wanted)) as letters:
        async for letter in letters:
            yield letter


async def _decide(
    settings: "Settings", wanted: "LetterFilter", ids: list[str], limit: int, *, discard: bool, force: bool, json: bool
) -> int:
    """Do it with each; the exit code."""
    from turnlog.client.dead_letters import dead_letter_reader, letter_id
    from turnlog.client.redriving import LetterDesk

    found: set[Place] = set()
    failed = 0

    def tell() -> None:
        nonlocal failed
        for outcome in desk.outcomes():
            failed += bool(outcome.why_not)
            _tell(outcome, discard=discard, json=json)

    async with dead_letter_reader(settings) as reader:
        desk = LetterDesk(settings, partition_count=reader.recorded_partitions)
        try:
            async with desk, aclosing(reader.letters(wanted)) as letters:
                async for letter in letters:
                    found.add((letter.partition, letter.offset))
                    await (desk.discard(letter) if discard else desk.redrive(letter, force=force))
                    tell()
                    if limit and len(found) == limit:
                        break
        finally:
            tell()  # also of what was done before something failed
    missing = [each for each in dict.fromkeys(ids) if letter_id(each) not in found] if not limit else []
    for each in missing:
        output.say(_not_there(each, settings))
    done = len(found) - failed
    if not json:
        output.say(f"{counted(done, 'dead letter')} {'discarded' if discard else 'redriven'}")
    if missing:
        return EXIT_NOT_FOUND
    return EXIT_REFUSED if failed else EXIT_OK


def _tell(outcome: "Outcome", *, discard: bool, json: bool) -> None:
    letter = outcome.letter
    if json:
        output.print_json(
            {
                "id": letter.id,
                "done": not outcome.why_not,
                "sent_to": outcome.sent_to or None,
                "request_id": outcome.request_id,
                "why_not": outcome.why_not or None,
            }
        )
    elif outcome.why_not:
        output.say(f"{letter.id}: {outcome.why_not}")
    elif not discard:
        request = f" (request {outcome.request_id})" if outcome.request_id else ""
        output.print_text(f"{letter.id} -> {outcome.sent_to}{request}")


def _not_there(said: str, settings: "Settings") -> str:
    return f"There is no dead letter {said} in {settings.topics.dead_letters}, or not any more: it keeps them 30 days."


def _chosen(
    ids: list[str] | None,
    codes: list[str] | None,
    session_id: str | None,
    partitions: list[int] | None,
    since: datetime | None,
    before: datetime | None,
    *,
    every: bool,
) -> "LetterFilter":
    """What is to be decided on. Raises :class:`UsageError` where nothing is said of that."""
    if not (ids or codes or session_id or partitions or since or before or every):
        raise UsageError("Which ones? Name their places (PARTITION@OFFSET), a filter such as --code, or --all.")
    return _filter(ids or [], codes, session_id, partitions, since, before, done=bool(ids))


def _filter(
    ids: list[str],
    codes: list[str] | None,
    session_id: str | None,
    partitions: list[int] | None,
    since: datetime | None,
    before: datetime | None,
    *,
    done: bool,
) -> "LetterFilter":
    from turnlog.client.dead_letters import LetterFilter, letter_id

    if session_id is not None:
        check_session_id(session_id)
    return LetterFilter(
        ids=frozenset(letter_id(each) for each in ids),
        codes=frozenset(codes or ()),
        session=session_id,
        partitions=frozenset(partitions or ()),
        since_ms=_ms(since),
        before_ms=_ms(before),
        done=done,
    )


def _ms(said: datetime | None) -> int | None:
    return None if said is None else max(0, int(said.replace(tzinfo=UTC).timestamp() * 1000))


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else moment(at_ms)


def line_of(letter: "DeadLetter", *, max_reason: int = _MAX_REASON) -> str:
    """A dead letter as one line; ``max_reason`` 0: the whole reason."""
    reason = " ".join(letter.reason.split())
    if max_reason and len(reason) > max_reason:
        reason = f"{reason[: max_reason - 1]}…"
    done = ""
    if letter.mark is not None:
        to = f" to {letter.mark.sent_to}" if letter.mark.sent_to else ""
        done = f" [{letter.mark.kind} at {_time(letter.mark.at_ms)}{to}]"
    cut = " [cut]" if letter.cut is not None else ""
    whose = f" {letter.subject}" if letter.subject else ""
    return (
        f"{letter.id} {_time(letter.parked_at_ms) or '(no time)'} {letter.code}{whose} "
        f"{counted(letter.size_bytes, 'byte')}{cut}{done}: {reason}"
    )


def document_of(letter: "DeadLetter") -> dict[str, Any]:
    """A dead letter as JSON, without its bytes."""
    return {
        "id": letter.id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "code": letter.code,
        "reason": letter.reason,
        "subject": letter.subject or None,
        "bytes": letter.size_bytes,
        "cut": letter.cut,
        "original_bytes": letter.original_bytes,
        "parked_at": _time(letter.parked_at_ms),
        "state": letter.state,
        "decided_at": _time(letter.mark.at_ms) if letter.mark else None,
        "sent_to": (letter.mark.sent_to or None) if letter.mark else None,
    }
