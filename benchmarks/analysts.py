"""The analysts' file at a size: what readers wait for, what a snapshot costs, and how long commits stop for it.

The bulk of the rows is put there by SQL, as the projection would leave them: each session's messages are spread over
20,000 messages of the log, and ids are random. What is committed beside a snapshot goes through the projection.
"""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import duckdb

from benchmarks.deployment import Deployment
from benchmarks.meter import load_average
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, text_content
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind

_HISTORY = 200  #: messages of a session
_WINDOW = 20_000
_CHANNELS = 50
_TURNS = 100  #: of a commit
_ASKED = 15

_SPREAD = f"""SELECT i, (i // {_WINDOW}) * {_WINDOW // _HISTORY} + i % {_WINDOW // _HISTORY} AS s,
    (i % {_WINDOW}) // {_WINDOW // _HISTORY} + 1 AS seq FROM range({{messages}}) t(i)"""
_FILL = (
    f"""INSERT INTO internal.sessions BY NAME
SELECT 'web-' || md5(s::VARCHAR) AS session_id, 0 AS partition, s AS session_offset,
    'channel-' || s % {_CHANNELS} AS channel, 'A title ' || s AS title, '{{"user_id": "u"}}' AS metadata,
    false AS archived, 0 AS forward_seq, '{{}}' AS marks,
    make_timestamptz(1700000000000000 + s * 1000000) AS created_at,
    make_timestamptz(1700000000000000 + (hash(s) % 1000000000000)::BIGINT) AS last_active_at, {_HISTORY // 2} AS turns,
    {_HISTORY // 2} AS started_turns, {_HISTORY // 2} AS completed_turns, 0 AS failed_turns, 0 AS cancelled_turns,
    {_HISTORY} AS messages, 0 AS covered_to, 0 AS awaited_seq, 1000 AS input_tokens, 1000 AS output_tokens,
    0 AS unknown_events, 500 AS stream_version, max(i) AS last_offset
FROM ({_SPREAD}) GROUP BY s ORDER BY s""",
    f"""INSERT INTO internal.messages BY NAME
SELECT 'web-' || md5(s::VARCHAR) AS session_id, 0 AS partition, s AS session_offset, seq AS message_seq,
    't-' || i // 2 AS turn_id, CASE WHEN seq % 2 = 1 THEN 'user' ELSE 'assistant' END AS role,
    'Message ' || i || ' ' || array_to_string(list_transform(range(20), lambda k:
        substr('reservationflightinsuranceçaféпривет注文番号', (1 + hash(i * 100 + k) % 30)::INT, 7)), ' ')
        || CASE WHEN i = {{messages}} // 2 THEN ' HAT097 Zugspitze' ELSE '' END AS content,
    false AS interrupted, false AS truncated, false AS imported, i AS log_offset,
    make_timestamptz(1700000000000000 + i * 1000) AS recorded_at FROM ({_SPREAD}) ORDER BY i""",
    f"""INSERT INTO internal.turns BY NAME
SELECT 't-' || i // 2 AS turn_id, 'web-' || md5(s::VARCHAR) AS session_id, 0 AS partition, s AS session_offset,
    'r-' || i AS request_id, repeat('0', 32) AS command_hash, 'completed' AS status, 'echo:' AS model, 1 AS attempt,
    0 AS runner_failures, 0 AS takeovers_in_a_row, seq + 1 AS answer_seq, 'Message ' || i AS text, false AS hidden,
    'avro' AS framing, i AS accepted_offset, i + 1 AS ended_offset, 900 AS duration_ms,
    make_timestamptz(1700000000000000 + i * 1000) AS accepted_at,
    make_timestamptz(1700000000000000 + i * 1000 + 1000000) AS ended_at
FROM ({_SPREAD}) WHERE seq % 2 = 1 ORDER BY i""",
)


async def measure(messages: int, deployment: Deployment, *, commits: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What the questions and a snapshot of so many messages cost. Needs no broker."""
    return await asyncio.to_thread(_measure, messages, deployment.directory, commits, say)


def _measure(messages: int, folder: Path, commits: int, say: Callable[[str], None]) -> dict[str, Any]:
    path, snapshot = folder / "analytics.duckdb", folder / "snapshot.duckdb"
    load_before = load_average()
    kind = analysts_kind("bench id", (0,))
    AnalystsFile(path, kind).close()
    with duckdb.connect(str(path), config={"threads": 2}) as connection:
        for statement in _FILL:
            connection.execute(statement.replace("{messages}", str(messages)))
    say(f"analysts: {messages} messages are there")
    file = AnalystsFile(path, kind)
    try:
        began = monotonic()
        file.publish_now(snapshot)
        snapshot_s = monotonic() - began
        alone = [_commit(file, number, messages) for number in range(commits)]
        file.publish(snapshot)  # in another thread
        beside = [_commit(file, number, messages) for number in range(commits, 2 * commits)]
        file.publish_now(snapshot)
    finally:
        file.close()
    return {
        "messages": messages,
        "file_mb": path.stat().st_size / 1e6,
        "snapshot_s": snapshot_s,
        "commit_p50_ms": statistics.median(alone),
        "commit_beside_snapshot_p50_ms": statistics.median(beside),
        "commit_beside_snapshot_max_ms": max(beside),
        **_ask(snapshot, messages),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def _commit(file: AnalystsFile, number: int, messages: int) -> float:
    """A batch of sessions that begin, with a turn each; how many ms its commit took."""
    position = file.positions[0]
    first = max(position.next_offset, 2 * messages)
    events = []
    for index in range(_TURNS):
        name = f"new-{number}-{index}"
        payloads = (
            ev.SessionCreated(new_session=NewSession(channel="new")),
            ev.TurnAccepted(request_id="r", command_hash="0" * 32, content=text_content("a question")),
            ev.TurnStarted(model="echo:", cause="first"),
            ev.MessageStored(message_seq=1, role="user", content=text_content("a question")),
            ev.MessageStored(message_seq=2, role="assistant", content=text_content("an answer " * 20)),
            ev.TurnCompleted(usage=ev.Usage(), duration_ms=5, first_delta_ms=1),
        )
        for version, payload in enumerate(payloads, start=1):
            header = ev.EventHeader(
                **{"stream_kind": ev.SESSION, "stream_id": name, "stream_version": version, "epoch": 0, "n": 0},
                **{"accepted": 0, "replied": 0, "recorded_at": 1_800_000_000_000, "attempt": int(version > 2)},
                turn_id=None if version == 1 else f"turn-{name}",
            )
            events.append(LoggedEvent(partition=0, offset=first + len(events), header=header, payload=payload))
    began = perf_counter()
    file.write(events, {0: replace(position, next_offset=first + len(events))})
    return (perf_counter() - began) * 1000


def _ask(snapshot: Path, messages: int) -> dict[str, float]:
    sessions = max(1, messages // _HISTORY)
    with open_snapshot(snapshot) as connection:

        def p50_ms(statement: str, *wanted: object) -> float:
            times = []
            for number in range(_ASKED):
                values = [value(number) if callable(value) else value for value in wanted]
                began = perf_counter()
                rows = run(connection, statement, values).rows
                times.append((perf_counter() - began) * 1000)
                assert rows, statement
            return statistics.median(times)

        def session_id(number: int) -> str:
            return str(run(connection, "SELECT 'web-' || md5(?)", [str(number * 37 % sessions)]).rows[0][0])

        return {
            "top_50_p50_ms": p50_ms(
                "SELECT session_id, title, last_active_at FROM sessions WHERE channel = ? "
                "ORDER BY last_active_at DESC LIMIT 50",
                lambda number: f"channel-{number % min(_CHANNELS, sessions)}",
            ),
            "history_p50_ms": p50_ms("SELECT message_seq, role, content FROM history(?)", session_id),
            "search_p50_ms": p50_ms("SELECT session_id, text FROM search(?)", "zugspitze"),
            "search_number_p50_ms": p50_ms("SELECT session_id, text FROM search(?)", "hat097"),
            "turns_p50_ms": p50_ms("SELECT count(*) FROM turns"),
            "daily_activity_p50_ms": p50_ms("FROM daily_activity"),
        }
