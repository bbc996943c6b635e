"""What the snapshot says of one session: turns with their messages, tool calls with their results, summaries in place.

It blocks: call it in a thread. Everything has a bound; what is cut says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from turnlog.errors import NotFoundError
from turnlog.snapshot.listing import age_s, snapshot_file
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_schemas.files import reference_text
from turnlog_schemas.json_values import record_reader
from turnlog_schemas.parts import FILE_REF, ContentPart

TURNS_PER_PAGE = 40
MAX_SHOWN_CHARS = 32_768  #: of one message, one result, one list of arguments; the record of the log has all
ENDED = ("completed", "requires_action", "failed", "cancelled")
_TURN_COLUMNS = (
    "turn_id, request_id, status, coalesce(model, requested_model) AS model, attempt, runner_failures, text, "
    "accepted_offset, started_offset, ended_offset, accepted_at, started_at, ended_at, duration_ms, input_tokens, "
    "output_tokens, model_calls, code, reason, hidden"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text as far as it is shown. ``None``: there is none, which is not the empty one."""

    text: str | None
    chars: int = 0  #: of the whole

    @property
    def cut(self) -> bool:
        """Is there more of it than is shown?"""
        return self.text is not None and self.chars > len(self.text)


def shown(text: str | None) -> Text:
    """The beginning of a text."""
    return Text(text=None) if text is None else Text(text=text[:MAX_SHOWN_CHARS], chars=len(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call and, once it is there, its result."""

    call_id: str
    name: str
    arguments: Text
    outcome: str | None = None
    result: Text | None = None
    result_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMessage:
    """A message that is no result of a call which is shown with it."""

    message_seq: int
    role: str
    content: Text
    calls: tuple[Call, ...] = ()
    marks: tuple[str, ...] = ()  #: ``interrupted``, ``truncated``, ``imported``
    name: str | None = None
    log_offset: int | None = None
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run of history compaction, and where it stands: behind the last message that it covers."""

    status: str
    trigger: str
    at: datetime
    from_seq: int | None = None
    to_seq: int | None = None
    summary: Text = field(default_factory=lambda: Text(text=None))
    model: str | None = None
    reason: str | None = None
    tokens_before: int | None = None
    tokens_after: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTurn:
    """A turn: who asked what, what came of it, what it cost and how long it took. Times are workers' clocks, UTC."""

    turn_id: str
    request_id: str
    status: str
    model: str | None
    attempt: int
    question: Text  #: as the request had it
    accepted_at: datetime
    accepted_offset: int
    messages: tuple[ShownMessage, ...] = ()
    summaries: tuple[Summary, ...] = ()
    waited_ms: int | None = None  #: from its acceptance to its first attempt
    duration_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model_calls: int | None = None
    code: str | None = None
    reason: str | None = None
    hidden: bool = False  #: somebody wants it not to be shown to others; here it is

    @property
    def open(self) -> bool:
        """Has it not ended?"""
        return self.status not in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A page of a session, oldest turn first."""

    session: Mapping[str, Any]  #: the row of ``sessions``
    turns: tuple[ShownTurn, ...]
    before: int | None  #: ``accepted_offset`` that the page of older turns ends before; ``None``: there are none
    snapshot_age_s: float
    first_summaries: tuple[Summary, ...] = ()  #: of what stands before the first turn shown
    imported: tuple[ShownMessage, ...] = ()  #: messages that belong to no turn shown here


def read_transcript(path: Path, session_id: str, *, before: int | None = None) -> Transcript:
    """The newest turns of a session, or those before an ``accepted_offset``. Raises :class:`NotFoundError`."""
    with open_snapshot(snapshot_file(path)) as connection:
        session = _session(connection, session_id)
        turns = _turns(connection, session, before)
        older = len(turns) > TURNS_PER_PAGE
        turns = turns[:TURNS_PER_PAGE][::-1]
        messages = _messages(connection, session, [turn["turn_id"] for turn in turns])
        others = [] if older else _of_no_turn(connection, session)
        calls = _calls(connection, session)
        summaries = _summaries(connection, session)
    by_turn, first = _placed(summaries, turns, {row["message_seq"]: row["turn_id"] for row in messages})
    made = tuple(
        _turn(
            row,
            _assembled([m for m in messages if m["turn_id"] == row["turn_id"]], calls),
            tuple(by_turn.get(row["turn_id"], ())),
        )
        for row in turns
    )
    return Transcript(
        session=session,
        turns=made,
        before=turns[0]["accepted_offset"] if older else None,
        snapshot_age_s=age_s(path),
        first_summaries=tuple(first) if before is None else (),
        imported=_assembled(others, calls),
    )


def _session(connection: duckdb.DuckDBPyConnection, session_id: str) -> dict[str, Any]:
    found = run(connection, "SELECT * FROM sessions WHERE session_id = ?", [session_id], max_rows=1).records()
    if not found:
        raise NotFoundError(f"There is no session {session_id} in the snapshot.")
    return {name: utc(value) if isinstance(value, datetime) else value for name, value in found[0].items()}


def utc(value: datetime) -> datetime:
    """The same moment, in UTC."""
    return value.astimezone(UTC)


def _turns(
    connection: duckdb.DuckDBPyConnection, session: Mapping[str, Any], before: int | None
) -> list[dict[str, Any]]:
    statement = (
        f"SELECT {_TURN_COLUMNS} FROM internal.turns WHERE partition = ? AND session_offset = ? "
        "AND accepted_offset < ? ORDER BY accepted_offset DESC"
    )
    values = [session["partition"], session["session_offset"], 2**62 if before is None else before]
    return run(connection, statement, values, max_rows=TURNS_PER_PAGE + 1).records()


_MESSAGE_COLUMNS = (
    "message_seq, turn_id, role, left(content, ?) AS content, length(content) AS chars, content_parts, tool_call_id, "
    "name, interrupted, truncated, imported, log_offset, recorded_at"
)
_READ_PART = record_reader(ContentPart, closed=False)
_MAX_MESSAGES = 4_000


def _messages(
    connection: duckdb.DuckDBPyConnection, session: Mapping[str, Any], turn_ids: Sequence[str]
) -> list[dict[str, Any]]:
    statement = (
        f"SELECT {_MESSAGE_COLUMNS} FROM messages WHERE partition = ? AND session_offset = ? "
        "AND turn_id IN (SELECT unnest(?)) ORDER BY message_seq DESC"
    )
    values = [MAX_SHOWN_CHARS, session["partition"], session["session_offset"], list(turn_ids)]
    return run(connection, statement, values, max_rows=_MAX_MESSAGES).records()[::-1]


def _of_no_turn(connection: duckdb.DuckDBPyConnection, session: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the history has from before the first turn: messages that came with the session."""
    statement = (
        f"SELECT {_MESSAGE_COLUMNS} FROM messages WHERE partition = ? AND session_offset = ? AND turn_id NOT IN "
        "(SELECT turn_id FROM internal.turns WHERE partition = ? AND session_offset = ?) ORDER BY message_seq"
    )
    place = [session["partition"], session["session_offset"]]
    return run(connection, statement, [MAX_SHOWN_CHARS, *place, *place], max_rows=_MAX_MESSAGES).records()


def _calls(connection: duckdb.DuckDBPyConnection, session: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    statement = (
        "SELECT c.message_seq, c.call_id, c.name, left(c.arguments, ?) AS arguments, length(c.arguments) AS chars, "
        "c.outcome, c.result_message_seq, left(m.content, ?) AS result, length(m.content) AS result_chars "
        "FROM tool_calls c LEFT JOIN messages m ON m.partition = c.partition AND m.session_offset = c.session_offset "
        "AND m.message_seq = c.result_message_seq WHERE c.partition = ? AND c.session_offset = ? "
        "ORDER BY c.message_seq DESC, c.position"
    )
    values = [MAX_SHOWN_CHARS, MAX_SHOWN_CHARS, session["partition"], session["session_offset"]]
    found: dict[int, list[dict[str, Any]]] = {}
    for row in run(connection, statement, values, max_rows=_MAX_MESSAGES).records():
        found.setdefault(row["message_seq"], []).append(row)
    return found


def _summaries(connection: duckdb.DuckDBPyConnection, session: Mapping[str, Any]) -> list[Summary]:
    statement = (
        "SELECT status, trigger, recorded_at AS at, from_seq, to_seq, summary, model, reason, tokens_before, "
        "tokens_after, input_tokens, output_tokens, duration_ms FROM history_compactions "
        "WHERE partition = ? AND session_offset = ? AND status <> 'skipped' ORDER BY log_offset DESC"
    )
    rows = run(connection, statement, [session["partition"], session["session_offset"]], max_rows=50).records()
    return [Summary(**{**row, "at": utc(row["at"]), "summary": shown(row["summary"])}) for row in reversed(rows)]


def _placed(
    summaries: Sequence[Summary], turns: Sequence[Mapping[str, Any]], turn_of: Mapping[int, str]
) -> tuple[dict[str, list[Summary]], list[Summary]]:
    """Summaries by the turn that they stand in, and those that stand before all of these turns."""
    by_turn: dict[str, list[Summary]] = {}
    first: list[Summary] = []
    for summary in summaries:
        if summary.to_seq is not None:
            turn_id = turn_of.get(summary.to_seq)
            earlier = not turn_of or summary.to_seq < min(turn_of)
        else:  # of a run that failed: the newest turn that was there already
            before = [turn["turn_id"] for turn in turns if utc(turn["accepted_at"]) <= summary.at]
            turn_id, earlier = (before[-1] if before else None), False
        if turn_id is not None:
            by_turn.setdefault(turn_id, []).append(summary)
        elif earlier:
            first.append(summary)
    return by_turn, first


def _assembled(
    rows: Sequence[Mapping[str, Any]], calls: Mapping[int, list[dict[str, Any]]]
) -> tuple[ShownMessage, ...]:
    """Messages in order, results folded into the calls that they answer."""
    found = {row["message_seq"]: tuple(_call(each) for each in calls.get(row["message_seq"], ())) for row in rows}
    answered = {call.result_seq for made in found.values() for call in made if call.result_seq is not None}
    return tuple(
        ShownMessage(
            message_seq=row["message_seq"],
            role=row["role"],
            content=_content(row),
            calls=found[row["message_seq"]],
            marks=tuple(mark for mark in ("interrupted", "truncated", "imported") if row[mark]),
            name=row["name"],
            log_offset=row["log_offset"],
            recorded_at=utc(row["recorded_at"]),
        )
        for row in rows
        if row["message_seq"] not in answered
    )


def _content(row: Mapping[str, Any]) -> Text:
    if row["content"] is None and row["content_parts"] is not None:
        return shown("".join(str(part.get("text") or f"[{part.get('kind')}]") for part in row["content_parts"]))
    files = [_READ_PART(part) for part in row["content_parts"] or () if part.get("kind") == FILE_REF]
    if files:
        return shown("\n".join([row["content"] or "", *map(reference_text, files)]).strip("\n"))
    return Text(text=row["content"], chars=row["chars"] or 0)


def _call(row: Mapping[str, Any]) -> Call:
    answered = row["result_message_seq"] is not None
    return Call(
        call_id=row["call_id"],
        name=row["name"],
        arguments=Text(text=row["arguments"], chars=row["chars"]),
        outcome=row["outcome"],
        result=Text(text=row["result"], chars=row["result_chars"] or 0) if answered else None,
        result_seq=row["result_message_seq"],
    )


def _turn(row: Mapping[str, Any], messages: tuple[ShownMessage, ...], summaries: tuple[Summary, ...]) -> ShownTurn:
    accepted, started = utc(row["accepted_at"]), row["started_at"]
    return ShownTurn(
        turn_id=row["turn_id"],
        request_id=row["request_id"],
        status=row["status"],
        model=row["model"],
        attempt=row["attempt"],
        question=shown(row["text"]),
        accepted_at=accepted,
        accepted_offset=row["accepted_offset"],
        messages=messages,
        summaries=summaries,
        waited_ms=None if started is None else max(0, round((utc(started) - accepted).total_seconds() * 1000)),
        duration_ms=row["duration_ms"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        model_calls=row["model_calls"],
        code=row["code"],
        reason=row["reason"],
        hidden=row["hidden"],
    )
