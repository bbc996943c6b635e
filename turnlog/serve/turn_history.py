"""A turn out of the history, where the reply topic has forgotten it: frames of whole messages and of its end.

The snapshot knows all of a turn, some seconds late. Where there is none, the session's owner is asked for the messages.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnlog.client.async_client import Client
from turnlog.client.replies import ReplyFrame
from turnlog.errors import NotFoundError, SessionNotFoundError, TurnlogError
from turnlog.serve.turn_ids import TurnRef
from turnlog.snapshot.listing import snapshot_file
from turnlog_schemas import frames as fr
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.json_values import record_reader
from turnlog_schemas.parts import ContentPart, HistoryEntry, ToolCall, Usage, content_text, text_content

_PAGE = 500
_MAX_PAGES = 40  #: of one look-up without a snapshot
_READ_PART = record_reader(ContentPart, closed=False)
_ENDED = ("completed", "requires_action", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """What the history has of a turn."""

    request_id: str
    accepted_at_ms: int | None
    said: tuple[ContentPart, ...]  #: by the user
    frames: tuple[ReplyFrame, ...]
    hidden: bool = False
    ended: bool = True


Ending = Callable[[], Awaitable[ReplyFrame | None]]


async def stored_turn(client: Client, turn: TurnRef, ending: Ending) -> StoredTurn | None:
    """The turn; ``None``: the session has none of this id, or it cannot be told.

    ``ending`` asks the owner how it ended, where that can be asked.
    """
    path = client.settings.snapshot
    found = None
    if path.is_file():
        try:
            found = await asyncio.to_thread(_from_snapshot, path, turn)
        except (TurnlogError, OSError):  # it is being replaced, or is another version's: ask the owner
            found = None
        if found is not None and (found.ended or found.hidden):
            return found
    # The snapshot is some seconds late: what runs by it may have ended.
    return await _from_owner(client, turn, ending) or found


async def is_hidden(client: Client, turn: TurnRef) -> bool:
    """Does the snapshot say so? It may be some seconds late."""
    path = client.settings.snapshot
    if not path.is_file():
        return False
    try:
        row = await asyncio.to_thread(_turn_row, path, turn)
    except (TurnlogError, OSError):
        return False
    return bool(row and row.get("hidden"))


def _query(path: Path, statement: str, values: Sequence[object]) -> list[dict[str, Any]]:
    from turnlog.snapshot.sql import open_snapshot, run

    with open_snapshot(snapshot_file(path)) as connection:
        return run(connection, statement, values).records()


def _turn_row(path: Path, turn: TurnRef) -> dict[str, Any] | None:
    rows = _query(path, "SELECT * FROM turns WHERE turn_id = ? AND session_id = ?", (turn.turn_id, turn.session_id))
    return rows[0] if rows else None


def _from_snapshot(path: Path, turn: TurnRef) -> StoredTurn | None:
    row = _turn_row(path, turn)
    if row is None:
        return None
    messages = _query(
        path,
        "SELECT * FROM messages WHERE turn_id = ? AND session_id = ? ORDER BY message_seq",
        (turn.turn_id, turn.session_id),
    )
    calls = _query(
        path,
        "SELECT * FROM tool_calls WHERE turn_id = ? AND session_id = ? ORDER BY message_seq, position",
        (turn.turn_id, turn.session_id),
    )
    of_message: dict[int, list[ToolCall]] = {}
    for call in calls:
        of_message.setdefault(call["message_seq"], []).append(_call(call))
    stored = [
        _stored(
            seq=message["message_seq"],
            role=message["role"],
            content=_content(message["content"], message["content_parts"]),
            calls=tuple(of_message.get(message["message_seq"], ())),
            call_id=message["tool_call_id"],
            interrupted=message["interrupted"],
        )
        for message in messages
        if message["role"] != "user"
    ]
    end = _end(row, stored)
    started = [fr.TurnStarted(model=row["model"])] if row["model"] else []
    accepted_at = row["accepted_at"]
    return StoredTurn(
        request_id=row["request_id"],
        accepted_at_ms=int(accepted_at.timestamp() * 1000) if accepted_at is not None else None,
        said=_content(row["text"], row["content_parts"]) or (),
        frames=_replies(turn, row["request_id"], [*started, *stored, *([end] if end is not None else [])]),
        hidden=bool(row.get("hidden")),
        ended=end is not None,
    )


def _call(row: Mapping[str, Any]) -> ToolCall:
    return ToolCall(
        call_id=row["call_id"], name=row["name"], arguments=row["arguments"], client=bool(row.get("client"))
    )


def _content(text: str | None, parts: Any) -> tuple[ContentPart, ...] | None:
    """``parts`` are there only where the text does not say it all."""
    if parts is not None:
        return tuple(_READ_PART(part) for part in (json.loads(parts) if isinstance(parts, str) else parts))
    return None if text is None else text_content(text)


def _stored(
    *,
    seq: int,
    role: str,
    content: tuple[ContentPart, ...] | None,
    calls: tuple[ToolCall, ...],
    call_id: str | None,
    interrupted: bool,
) -> fr.MessageStored:
    return fr.MessageStored(
        message_seq=seq, role=role, content=content, tool_calls=calls, tool_call_id=call_id, interrupted=interrupted
    )


def _end(row: Mapping[str, Any], stored: Sequence[fr.MessageStored]) -> fr.Frame | None:
    usage = Usage(
        input_tokens=row["input_tokens"] or 0,
        output_tokens=row["output_tokens"] or 0,
        model_calls=row["model_calls"] or 0,
    )
    text = _last_text(stored)
    match row["status"]:
        case "completed" | "requires_action":
            return fr.TurnCompleted(text=text, usage=usage)
        case "failed":
            return fr.TurnFailed(code=row["code"] or "failed", reason=row["reason"] or "", usage=usage)
        case "cancelled":
            return fr.TurnCancelled(reason=row["reason"] or "", text=text, usage=usage)
        case _:
            return None


def _last_text(stored: Sequence[fr.MessageStored]) -> str:
    spoken = [message for message in stored if message.role == "assistant"]
    return (content_text(spoken[-1].content) or "") if spoken else ""


def _replies(turn: TurnRef, request_id: str, frames: Sequence[fr.Frame]) -> tuple[ReplyFrame, ...]:
    header = fr.FrameHeader(session_id=turn.session_id, request_id=request_id, turn_id=turn.turn_id)
    return tuple(ReplyFrame(header=header, frame=frame, partition=turn.partition, offset=-1) for frame in frames)


# ---- without a snapshot


async def _from_owner(client: Client, turn: TurnRef, ending: Ending) -> StoredTurn | None:
    """What the owner's history has of it, and how it ended; where nobody can be asked that, it went well."""
    try:
        info = await client.get(turn.session_id)
        entries = await _entries(client, turn, info.messages or 0)
    except (SessionNotFoundError, NotFoundError):
        return None
    if not entries:
        return None
    stored = [
        _stored(
            seq=entry.message_seq,
            role=entry.role,
            content=entry.content,
            calls=entry.tool_calls,
            call_id=entry.tool_call_id,
            interrupted=entry.interrupted,
        )
        for entry in entries
        if entry.role != "user"
    ]
    running = info.running_turn_id == turn.turn_id
    ended = None if running else await ending()
    end = fr.TurnCompleted(text=_last_text(stored), usage=Usage()) if ended is None else ended.frame
    assert not isinstance(end, UnknownPayload)
    said = next((entry.content for entry in entries if entry.role == "user"), None)
    return StoredTurn(
        request_id="",
        accepted_at_ms=None,
        said=said or (),
        frames=_replies(turn, "", stored if running else [*stored, end]),
        ended=not running,
    )


async def _entries(client: Client, turn: TurnRef, messages: int) -> list[HistoryEntry]:
    """The turn's messages: pages from the newest backwards, as most that is asked for is new."""
    found: list[HistoryEntry] = []
    upper = messages
    for _ in range(_MAX_PAGES):
        lower = max(0, upper - _PAGE)
        page: list[HistoryEntry] = []
        position: int | None = lower
        while position is not None and position < upper:
            part = await client.history(turn.session_id, after=position, limit=upper - position)
            page += part.messages
            position = part.next_after
        mine = [entry for entry in page if entry.turn_id == turn.turn_id]
        found = mine + found
        if lower == 0 or (found and page and page[0].turn_id != turn.turn_id):
            break
        upper = lower
    return found
