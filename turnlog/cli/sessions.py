"""``turnlog sessions``: what the published snapshot knows of sessions."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli import output
from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, snapshot_or_fail
from turnlog.errors import NotFoundError

if TYPE_CHECKING:
    import duckdb

sessions_app = typer.Typer(help="List and show sessions, as the published snapshot has them.", no_args_is_help=True)

_MAX_RESULT = 400
_LIST = """
    SELECT session_id, title, channel, model, archived, turns, completed_turns, failed_turns, cancelled_turns,
           running_turn_id, messages, input_tokens, output_tokens, created_at, last_active_at
    FROM sessions ORDER BY last_active_at DESC, session_id
"""
_SESSION = """
    SELECT session_id, title, channel, model, instructions, metadata, archived, turns, started_turns, completed_turns,
           failed_turns, cancelled_turns, running_turn_id, messages, input_tokens, output_tokens, created_at,
           last_active_at, partition, stream_version, unknown_events
    FROM sessions WHERE session_id = ?
"""
_TURNS = """
    SELECT turn_id, request_id, status, model, attempt, text, accepted_at, ended_at, duration_ms, input_tokens,
           output_tokens, code, reason
    FROM turns WHERE session_id = ? ORDER BY accepted_offset
"""
_MESSAGES = """
    SELECT message_seq, turn_id, role, content, content_parts, tool_call_id, name, interrupted, truncated, recorded_at
    FROM messages WHERE session_id = ? ORDER BY message_seq
"""
_CALLS = """
    SELECT message_seq, call_id AS id, name, arguments
    FROM tool_calls WHERE session_id = ? ORDER BY message_seq, position
"""


@sessions_app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many, 0 for all.")] = 20,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """List the sessions, the most recently active first."""
    path = snapshot_or_fail(client_settings(bootstrap_server, data_dir, prefix, verbose=verbose))
    from turnlog.cli.snapshot_sql import open_snapshot, run

    with open_snapshot(path) as connection:
        sessions = list_records(connection, max_rows=limit)
        total = run(connection, "SELECT count(*) FROM sessions").rows[0][0]
    if json:
        output.print_json(sessions)
        return
    print_sessions(sessions)
    shown = f"{len(sessions)} of {total} sessions" if len(sessions) < total else f"{total} sessions"
    output.say(f"{shown}; {snapshot_age(path)}")


def list_records(connection: "duckdb.DuckDBPyConnection", *, max_rows: int = 0) -> list[dict[str, Any]]:
    """The sessions, the most recently active first."""
    from turnlog.cli.snapshot_sql import run

    return run(connection, _LIST, max_rows=max_rows).records()


def print_sessions(sessions: Sequence[Mapping[str, Any]]) -> None:
    """A table of sessions for people."""
    columns = ("session", "title", "turns", "messages", "last active (UTC)", "state")
    rows = [
        (
            session["session_id"],
            session["title"],
            session["turns"],
            session["messages"],
            session["last_active_at"].strftime("%Y-%m-%d %H:%M"),
            _state(session),
        )
        for session in sessions
    ]
    output.print_table(columns, rows, right=("turns", "messages"), elastic="title")


def _state(session: Mapping[str, Any]) -> str:
    words = ["archived"] if session["archived"] else []
    if session["running_turn_id"]:
        words.append("running")
    words += [f"{session[f'{s}_turns']} {s}" for s in ("failed", "cancelled") if session[f"{s}_turns"]]
    return ", ".join(words) or "idle"


def snapshot_age(path: Path) -> str:
    """How old the snapshot is, for people: a newer one appears only when there is something new."""
    return f"snapshot published {max(0.0, time.time() - path.stat().st_mtime):.0f} s ago"


@sessions_app.command("show")
def show(
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    full: Annotated[bool, typer.Option("--full", help="Do not cut long tool results.", show_default=False)] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show a session: its messages with their tool calls, and how its turns ended."""
    path = snapshot_or_fail(client_settings(bootstrap_server, data_dir, prefix, verbose=verbose))
    from turnlog.cli.snapshot_sql import open_snapshot

    with open_snapshot(path) as connection:
        document = load_session(connection, session_id)
    if document is None:
        raise NotFoundError(
            f"There is no session {session_id} ({snapshot_age(path)}). `turnlog sessions list` shows those there are."
        )
    if json:
        output.print_json(document)
    else:
        _print_transcript(document, max_result=0 if full else _MAX_RESULT)
        output.say(snapshot_age(path))


def load_session(connection: "duckdb.DuckDBPyConnection", session_id: str) -> dict[str, Any] | None:
    """A session with its turns and messages (tool calls inside, in OpenAI's form); ``None`` when it does not exist."""
    from turnlog.cli.snapshot_sql import run

    found = run(connection, _SESSION, [session_id]).records()
    if not found:
        return None
    messages = run(connection, _MESSAGES, [session_id]).records()
    by_seq = {message["message_seq"]: message for message in messages}
    for call in run(connection, _CALLS, [session_id]).records():
        function = {"name": call["name"], "arguments": call["arguments"]}
        calls = by_seq[call["message_seq"]].setdefault("tool_calls", [])
        calls.append({"id": call["id"], "type": "function", "function": function})
    turns = run(connection, _TURNS, [session_id]).records()
    return {"session": found[0], "turns": turns, "messages": messages}


def _print_transcript(document: Mapping[str, Any], *, max_result: int) -> None:
    session, turns, messages = document["session"], document["turns"], document["messages"]
    output.print_text(
        f"{session['session_id']}: {session['title']}\n"
        f"turns: {session['turns']}, messages: {session['messages']}, "
        f"tokens in/out: {session['input_tokens']}/{session['output_tokens']}; {_state(session)}"
    )
    if session["instructions"]:
        output.print_text(f"instructions: {_cut(session['instructions'], max_result)}")
    last_of_turn = {message["turn_id"]: message["message_seq"] for message in messages}
    by_id = {turn["turn_id"]: turn for turn in turns}
    for message in messages:
        _print_message(message, max_result=max_result)
        turn = by_id.get(message["turn_id"])
        if turn and last_of_turn[message["turn_id"]] == message["message_seq"] and turn["status"] != "completed":
            output.print_text(f"\n({_turn_state(turn)})")
    for turn in turns:
        if turn["turn_id"] not in last_of_turn:
            output.print_text(f"\n({_turn_state(turn)}) {turn['text'] or ''}")


def _turn_state(turn: Mapping[str, Any]) -> str:
    if turn["status"] == "accepted":
        return "turn waits"
    why = ": ".join(str(turn[name]) for name in ("code", "reason") if turn[name])
    attempt = f", attempt {turn['attempt']}" if turn["attempt"] > 1 else ""
    status = "is running" if turn["status"] == "started" else turn["status"]
    return f"turn {status}{attempt}" + (f"; {why}" if why else "")


def _print_message(message: Mapping[str, Any], *, max_result: int) -> None:
    marks = "".join(f" [{mark}]" for mark in ("interrupted", "truncated") if message[mark])
    name = f" {message['name']}" if message["name"] else ""
    output.print_text(f"\n{message['message_seq']} {message['role']}{name}{marks}")
    content = message["content"] if message["content"] is not None else message["content_parts"]
    if content:
        output.print_text(_indent(_cut(content, max_result) if message["role"] == "tool" else content))
    for call in message.get("tool_calls", ()):
        function = call["function"]
        output.print_text(_indent(f"-> {function['name']}({_cut(function['arguments'], max_result)})"))


def _cut(text: str, max_length: int) -> str:
    if not max_length or len(text) <= max_length:
        return text
    return f"{text[:max_length]}… (--full shows all {len(text)} characters)"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.split("\n"))
