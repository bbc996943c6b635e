"""``turnlog sessions history`` and ``turnlog sessions compact``: a session's messages, and the summary of them."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Json,
    Prefix,
    RequestId,
    SessionId,
    TimeoutS,
    Verbose,
    client_settings,
)
from turnlog.cli.lifecycle import ask_once
from turnlog.terminal import output
from turnlog.terminal.transcript import MAX_RESULT, print_message, print_summary
from turnlog_workers.base.counted import counted

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog.client.session_info import HistoryCompaction, HistoryPage
    from turnlog_schemas.parts import HistoryEntry

SkipCovered = Annotated[
    bool,
    typer.Option(
        "--skip-covered", help="Show the newest summary in place of the messages that it covers.", show_default=False
    ),
]
_MAX_PAGE = 1000


def history(
    session_id: SessionId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only messages after this number.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Maximum number of them; 0: all.")] = 100,
    skip_covered: SkipCovered = False,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long tool results.", show_default=False)] = False,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show a session's messages as its owner has them, in turn order, page by page."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    page = ask_once(
        settings,
        lambda client: _messages(client, session_id, after, limit, skip_covered=skip_covered, timeout_s=timeout_s),
    )
    documents = [_entry_document(entry) for entry in page.messages]
    if json:
        about = {"session_id": session_id, "covered_to": page.covered_to, "summary": page.summary}
        output.print_json({**about, "messages": documents, "next_after": page.next_after})
        return
    if page.summary and after <= page.covered_to:  # the pages behind the first one do not say it again
        print_summary(page.summary, page.covered_to)
    for document in documents:
        print_message(document, max_result=0 if full else MAX_RESULT)
    if page.next_after is not None:
        output.say(f"There are more: --after {page.next_after}")


async def _messages(
    client: "Client", session_id: str, after: int, limit: int, *, skip_covered: bool, timeout_s: float
) -> "HistoryPage":
    """So many messages (0: all) as one page."""
    found: list[HistoryEntry] = []
    position: int | None = after
    while True:
        wanted = min(limit - len(found), _MAX_PAGE) if limit else _MAX_PAGE
        page = await client.history(
            session_id, after=position or 0, limit=wanted, skip_covered=skip_covered, timeout_s=timeout_s
        )
        found += page.messages
        if skip_covered:  # between two pages another summary may have come, and this page says what it covers
            found = [entry for entry in found if entry.message_seq > page.covered_to]
        position = page.next_after
        if position is None or 0 < limit <= len(found):
            return replace(page, messages=tuple(found))


def _entry_document(entry: "HistoryEntry") -> dict[str, Any]:
    """A message with its tool calls in OpenAI's form."""
    from turnlog_schemas.parts import content_text, files_of

    document = asdict(entry)
    document["content"] = content_text(entry.content)
    if files_of(entry.content):
        document["content_parts"] = [asdict(part) for part in entry.content or ()]
    calls = document.pop("tool_calls")
    if calls:
        document["tool_calls"] = [
            {"id": call["call_id"], "type": "function", "function": {n: call[n] for n in ("name", "arguments")}}
            for call in calls
        ]
    return document


def compact(
    session_id: SessionId,
    instructions: Annotated[
        str | None,
        typer.Option(
            "--instructions", metavar="TEXT", help="What the summary must pay attention to.", show_default=False
        ),
    ] = None,
    summary: Annotated[
        str | None,
        typer.Option(
            "--summary", metavar="TEXT", help="A summary that you have: no model is asked.", show_default=False
        ),
    ] = None,
    to_seq: Annotated[
        int | None,
        typer.Option(
            "--to-seq", metavar="NUMBER", min=1, help="The last message that --summary covers.", show_default=False
        ),
    ] = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 900.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Have a model summarise the older messages of a session, and print the summary.

    From then on models see the summary in place of these messages, which stay readable. Waits for the running turn.
    Exit code 0 also if there is nothing to compact; 1 if no summary could be made: the history is then unchanged.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    done = ask_once(
        settings,
        lambda client: client.compact(
            session_id,
            instructions=instructions,
            summary=summary,
            to_seq=to_seq,
            request_id=request_id,
            timeout_s=timeout_s,
        ),
    )
    if json:
        output.print_json(asdict(done))
        return
    if done.summary:
        output.print_text(done.summary)
    output.say(compaction_outcome(done))


def compaction_outcome(done: "HistoryCompaction") -> str:
    """What came of it, for people."""
    if not done.to_seq:
        return "nothing to compact: there are no messages before those that stay word for word"
    tokens = ""
    if done.tokens_before and done.tokens_after is not None:  # 0: the summary was brought, nobody counted
        tokens = f"; about {counted(done.tokens_before, 'token')} became {done.tokens_after:,}"
    covers = f"this summary covers messages {done.from_seq} to {done.to_seq}"
    return f"{covers}{tokens}" if done.changed else f"{covers}, and already existed: nothing to add"


VERBS = (history, compact)
