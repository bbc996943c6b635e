"""Sessions as conversations in the OpenAI chat format, one a line: what ``turnlog feed`` reads."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb

from turnlog.snapshot.history import Histories, shown_histories
from turnlog_schemas.parts import FILE_REF, ContentPart, is_plain_text
from turnlog_workers.runners.recordings import Message

_SESSIONS_AT_A_TIME = 500


def write_conversations(connection: duckdb.DuckDBPyConnection, day: str, path: Path) -> None:
    """All sessions that were created on a day (UTC), to a file. Hidden turns are left out,
    and sessions in which nothing was said."""
    rows = connection.execute(
        "SELECT session_id, title FROM snapshot.main.sessions WHERE CAST(created_at AS DATE) = ? AND erased_at IS NULL "
        "ORDER BY partition, session_offset",
        [day],
    ).fetchall()
    titles = dict(rows)
    waiting = iter(titles)
    with path.open("wb") as file:
        while some := list(islice(waiting, _SESSIONS_AT_A_TIME)):
            histories = shown_histories(connection, some)
            summaries = _summaries(connection, some, histories)
            for session_id in some:
                messages = histories.messages(session_id)
                if not messages:
                    continue
                line = conversation_line(
                    session_id,
                    histories.instructions.get(session_id),
                    messages,
                    title=titles[session_id],
                    summaries=summaries.get(session_id, ()),
                )
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def conversation_line(
    session_id: str,
    instructions: str | None,
    messages: Iterable[Message],
    *,
    title: str = "",
    summaries: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A session in the OpenAI chat format. ``summaries`` stand beside the messages, which are all there."""
    line: dict[str, Any] = {"id": session_id, "messages": []}
    if title:
        line["title"] = title
    if instructions is not None:
        line["messages"].append({"role": "system", "content": instructions})
    line["messages"] += [_message(message) for message in messages]
    if summaries := list(summaries):
        line["history_compactions"] = summaries
    return line


def _message(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": _content(message.content)}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _content(content: tuple[ContentPart, ...] | None) -> str | list[dict[str, Any]] | None:
    """``null`` and ``""`` differ; one plain text is a text."""
    if content is None:
        return None
    if len(content) == 1 and is_plain_text(content[0]):
        return content[0].text or ""
    return [_part(part) for part in content]


def _part(part: ContentPart) -> dict[str, Any]:
    if part.kind != FILE_REF:
        return {"type": "text", "text": part.text or ""}
    named = {"uri": part.uri, "media_type": part.media_type, "sha256": part.sha256, "bytes": part.bytes}
    return {"type": FILE_REF, **{name: value for name, value in named.items() if value is not None}}


def _summaries(
    connection: duckdb.DuckDBPyConnection, session_ids: list[str], histories: Histories
) -> dict[str, list[dict[str, Any]]]:
    """What each stands for is counted among the messages that are exported: hidden ones are not."""
    rows = connection.execute(
        "SELECT session_id, from_seq, to_seq, method, summary FROM snapshot.main.history_compactions "
        "WHERE status = 'compacted' AND session_id IN (SELECT unnest(?)) ORDER BY partition, log_offset",
        [session_ids],
    ).fetchall()
    out: dict[str, list[dict[str, Any]]] = {}
    for session_id, from_seq, to_seq, method, summary in rows:
        last = histories.position(session_id, to_seq)
        if not last:
            continue
        first = histories.position(session_id, from_seq - 1) + 1
        found = {"from_seq": first, "to_seq": last, "method": method, "summary": summary}
        out.setdefault(session_id, []).append(found)
    return out
