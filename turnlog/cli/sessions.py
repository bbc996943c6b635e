"""``turnlog sessions``: what the published snapshot knows of sessions, beside the verbs that ask their owners."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli import history, lifecycle
from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Json,
    Prefix,
    SessionId,
    Verbose,
    client_settings,
    metadata_of,
    snapshot_or_fail,
)
from turnlog.cli.erasing import erase
from turnlog.errors import NotFoundError
from turnlog.terminal import output
from turnlog.terminal.sessions_table import print_sessions, session_state, snapshot_age
from turnlog.terminal.transcript import MAX_RESULT, cut, in_words, print_message, print_summary
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    import duckdb


sessions_app = typer.Typer(
    help="Create, find, end and read sessions. The commands list and show read the "
    "published snapshot; the others ask the workers.",
    no_args_is_help=True,
)

_SESSION = """
    SELECT session_id, title, channel, model, instructions, metadata, archived, erased_at, turns, started_turns,
           completed_turns, failed_turns, cancelled_turns, running_turn_id, messages, input_tokens, output_tokens,
           created_at, last_active_at, covered_to, history_max_tokens, history_keep_tail, partition,
           stream_version, unknown_events
    FROM sessions WHERE session_id = ?
"""
_TURNS = """
    SELECT turn_id, request_id, status, model, attempt, text, content_parts, accepted_at, ended_at, duration_ms,
           input_tokens, output_tokens, code, reason
    FROM turns WHERE session_id = ? ORDER BY accepted_offset
"""
_MESSAGES = """
    SELECT message_seq, turn_id, role, content, content_parts, tool_call_id, name, interrupted, truncated, outcome,
           recorded_at
    FROM messages WHERE session_id = ? ORDER BY message_seq
"""
_CALLS = """
    SELECT message_seq, call_id AS id, name, arguments
    FROM tool_calls WHERE session_id = ? ORDER BY message_seq, position
"""
# What models see: a range's newest summary by a model, else its newest without one.
_SUMMARY = """
    SELECT history_compaction_id, from_seq, to_seq, summary, method, model, trigger, recorded_at
    FROM history_compactions WHERE session_id = ? AND to_seq = ? AND status = 'compacted'
    ORDER BY method = 'model' DESC, stream_version DESC LIMIT 1
"""


for verb in (*lifecycle.VERBS, *history.VERBS, erase):
    sessions_app.command(verb.__name__)(verb)


@sessions_app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=0, help="Maximum number of them; 0: all.")] = 20,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="KEY", help="Show the next page: the key that the previous page printed."),
    ] = None,
    include_archived: Annotated[
        bool, typer.Option("--include-archived", help="Include archived sessions.", show_default=False)
    ] = False,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Only sessions of this channel.", show_default=False)
    ] = None,
    no_channel: Annotated[
        bool, typer.Option("--no-channel", help="Only sessions without a channel.", show_default=False)
    ] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--meta",
            metavar="NAME=VALUE",
            help="Only sessions with this metadata; may be repeated.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only sessions active at or after this time (UTC).")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option("--before", help="Only sessions last active before this time (UTC).")
    ] = None,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """List the sessions, the most recently active first."""
    require("sql", "turnlog sessions list")
    path = snapshot_or_fail(client_settings(bootstrap_server, data_dir, prefix, verbose=verbose))
    from turnlog.snapshot.listing import SessionFilter, list_sessions

    which = SessionFilter(
        include_archived=include_archived,
        channel=channel,
        no_channel=no_channel,
        metadata=metadata_of(metadata),
        active_since=since,
        active_before=before,
    )
    page = list_sessions(path, which, after=after, limit=limit)
    if json:
        document = asdict(page)
        del document["lag_events"]  # nobody was asked
        output.print_json(document)
        return
    print_sessions(page.sessions)
    total = counted(page.total, "session")
    shown = f"{len(page.sessions)} of {total}" if page.next_after or after else total
    more = f"; more: --after {page.next_after}" if page.next_after else ""
    output.say(f"{shown}{more}; {snapshot_age(path)}")


@sessions_app.command("show")
def show(
    session_id: SessionId,
    skip_covered: history.SkipCovered = False,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long tool results.", show_default=False)] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show a session: its messages with their tool calls, the newest summary, and how its turns ended."""
    require("sql", "turnlog sessions show")
    path = snapshot_or_fail(client_settings(bootstrap_server, data_dir, prefix, verbose=verbose))
    from turnlog.snapshot.sql import open_snapshot

    with open_snapshot(path) as connection:
        document = load_session(connection, session_id)
    if document is None:
        raise NotFoundError(
            f"There is no session {session_id} ({snapshot_age(path)}). `turnlog sessions list` shows those there are."
        )
    if json:
        if skip_covered:
            document["messages"] = [message for message in document["messages"] if not message["covered"]]
        output.print_json(document)
    else:
        _print_transcript(document, max_result=0 if full else MAX_RESULT, skip_covered=skip_covered)
        output.say(snapshot_age(path))


def load_session(connection: "duckdb.DuckDBPyConnection", session_id: str) -> dict[str, Any] | None:
    """A session with its turns, its messages (tool calls inside, in OpenAI's form) and its newest summary.

    ``None`` when it does not exist.
    """
    from turnlog.snapshot.sql import run

    found = run(connection, _SESSION, [session_id]).records()
    if not found:
        return None
    covered_to = found[0]["covered_to"]
    messages = [
        {**message, "covered": message["message_seq"] <= covered_to}
        for message in run(connection, _MESSAGES, [session_id]).records()
    ]
    by_seq = {message["message_seq"]: message for message in messages}
    for call in run(connection, _CALLS, [session_id]).records():
        function = {"name": call["name"], "arguments": call["arguments"]}
        calls = by_seq[call["message_seq"]].setdefault("tool_calls", [])
        calls.append({"id": call["id"], "type": "function", "function": function})
    turns = run(connection, _TURNS, [session_id]).records()
    summaries = run(connection, _SUMMARY, [session_id, covered_to]).records()
    return {"session": found[0], "turns": turns, "messages": messages, "summary": next(iter(summaries), None)}


def _print_transcript(document: Mapping[str, Any], *, max_result: int, skip_covered: bool) -> None:
    session, turns, messages = document["session"], document["turns"], document["messages"]
    output.print_text(
        f"{session['session_id']}: {session['title']}\n"
        f"turns: {session['turns']}, messages: {session['messages']}, "
        f"tokens in/out: {session['input_tokens']}/{session['output_tokens']}; {session_state(session)}"
    )
    if session["instructions"]:
        output.print_text(f"instructions: {cut(session['instructions'], max_result)}")
    last_of_turn = {message["turn_id"]: message["message_seq"] for message in messages}
    by_id = {turn["turn_id"]: turn for turn in turns}
    summary = document["summary"]
    for message in messages:
        seq, turn = message["message_seq"], by_id.get(message["turn_id"])
        shown = not (skip_covered and message["covered"])
        if shown:
            print_message(message, max_result=max_result)
        if summary and seq == summary["to_seq"]:
            print_summary(summary["summary"], summary["to_seq"])
        if shown and turn and last_of_turn[message["turn_id"]] == seq and turn["status"] != "completed":
            output.print_text(f"\n({_turn_state(turn)})")
    for turn in turns:
        if turn["turn_id"] not in last_of_turn:
            output.print_text(f"\n({_turn_state(turn)}) {in_words(turn['text'], turn['content_parts']) or ''}")


def _turn_state(turn: Mapping[str, Any]) -> str:
    if turn["status"] == "accepted":
        return "turn waits"
    why = ": ".join(str(turn[name]) for name in ("code", "reason") if turn[name])
    attempt = f", attempt {turn['attempt']}" if turn["attempt"] > 1 else ""
    status = "is running" if turn["status"] == "started" else turn["status"]
    return f"turn {status}{attempt}" + (f"; {why}" if why else "")
