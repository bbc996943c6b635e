"""A snapshot with the real tables for pages to show, and texts that would run if a page did not escape them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tests.unit.test_cli_sessions import insert
from turnlog_streams.projection.history_row_types import COMPACTIONS
from turnlog_streams.projection.rows import DEAD_LETTERS, EVENTS, MESSAGES, SESSIONS, TOOL_CALLS, TURNS
from turnlog_streams.table_types import PARTITIONS
from turnlog_workers.materializer.analysts_tables import create_analysts_tables

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
#: Each sets a mark on the page where it runs, and does nothing else. {n} tells them apart.
MARKERS = (
    "<script>window.ran{n}=1</script>",
    "<img src=x onerror=window.ran{n}=1>",
    "<svg onload=window.ran{n}=1><circle r=9></svg>",
    "<details open ontoggle=window.ran{n}=1>x</details>",
    "<input autofocus onfocus=window.ran{n}=1>",
    "<iframe srcdoc='<script>parent.ran{n}=1</script>'></iframe>",
    '"><script>window.ran{n}=1</script>',
    "' onmouseover='window.ran{n}=1' autofocus onfocus='window.ran{n}=1",
    "</textarea><script>window.ran{n}=1</script>",
    "</title><script>window.ran{n}=1</script>",
    "--><script>window.ran{n}=1</script><!--",
    "[link](javascript:window.ran{n}=1)",
    "[link](JaVaScRiPt:window.ran{n}=1 'x')",
    '![image](x" onerror="window.ran{n}=1)',
    '<a href="javascript:window.ran{n}=1">click</a>',
    '<a href="data:text/html,<script>window.ran{n}=1</script>">click</a>',
    "[a](data:text/html;base64,PHNjcmlwdD53aW5kb3cucmFuPTE8L3NjcmlwdD4=)",
    "<style>@import 'x';</style><b style=\"background:url(javascript:window.ran{n}=1)\">b</b>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=window.ran{n}=1></style></mglyph></math>",
    '<form action="javascript:window.ran{n}=1"><button>go</button></form>',
    "{{{{ 7 * 7 }}}}{{% for x in range(3) %}}window.ran{n}{{% endfor %}}",
    "`</code><script>window.ran{n}=1</script>`",
    "```\n</pre><script>window.ran{n}=1</script>\n```",
    "| a |\n|---|\n| <img src=x onerror=window.ran{n}=1> |",
    '<base href="javascript:window.ran{n}=1//">',
    '<object data="javascript:window.ran{n}=1"></object><embed src="javascript:window.ran{n}=1">',
    '<meta http-equiv=refresh content="0;url=javascript:window.ran{n}=1">',
    "\u2028<script>window.ran{n}=1</script>\u0000<scr\u0000ipt>window.ran{n}=1</script>",
)

_MORE = (
    "A refund for two lamps",
    "Which size fits?",
    "Change of address",
    "The invoice of November",
    "Is it in stock?",
)


def markers() -> list[str]:
    """All of them, numbered."""
    return [marker.format(n=number) for number, marker in enumerate(MARKERS)]


def make_snapshot(path: Path, *, marked: bool = True) -> Path:
    """Ordinary sessions, ``web-1`` among them, and one of markers, ``odd-1``."""
    connection = duckdb.connect(str(path))
    create_analysts_tables(connection)
    _ordinary(connection)
    if marked:
        _marked(connection)
    for partition in range(3):
        insert(connection, PARTITIONS, partition=partition, next_offset=100, epoch=1, accepted=40, newest_generation=3)
        claim = {"owner": f"worker-{partition}", "incarnation": "i"}
        _event(connection, partition, 1, "PartitionClaimed", claim, stream_kind="partition", stream_id=str(partition))
    insert(
        connection,
        DEAD_LETTERS,
        partition=1,
        request_offset=7,
        code="undecodable",
        reason="no JSON",
        log_offset=9,
        bytes=b"\xff<b>",
    )
    connection.close()
    return path


def _event(
    connection: duckdb.DuckDBPyConnection, partition: int, offset: int, kind: str, body: Any, **values: Any
) -> None:
    values = {"stream_kind": "session", "stream_id": "web-1", "epoch": 1, "n": offset, **values}
    insert(connection, EVENTS, partition=partition, log_offset=offset, type=kind, body=json.dumps(body), **values)


def _session(connection: duckdb.DuckDBPyConnection, session_id: str, number: int, **values: Any) -> None:
    at = {"created_at": NOON - timedelta(hours=number), "last_active_at": NOON - timedelta(minutes=number)}
    insert(connection, SESSIONS, session_id=session_id, partition=0, session_offset=number, **{**at, **values})


def _ordinary(connection: duckdb.DuckDBPyConnection) -> None:
    asked = {"channel": "web", "title": "Where is order 17?", "metadata": '{"customer": "17"}'}
    counted = {"turns": 3, "completed_turns": 1, "failed_turns": 1, "messages": 5, "covered_to": 3}
    cost = {"input_tokens": 1200, "output_tokens": 80}
    _session(connection, "web-1", 1, running_turn_id="t-0-9", **asked, **counted, **cost)
    for number, title in enumerate(_MORE):
        counted = {"turns": 4 + number, "completed_turns": 4 + number, "messages": 9 + 3 * number}
        tokens = {"input_tokens": 3100 * (number + 2), "output_tokens": 410 * (number + 1)}
        _session(connection, f"shop-{number}", 5 + number, channel="shop", title=title, **counted, **tokens)
    _session(connection, "mail-2", 2, channel="mail", title="Quiet", turns=1, completed_turns=1)
    _session(connection, "mail-3", 3, channel="mail", title="Gone", archived=True, turns=1, failed_turns=1)
    _session(connection, "mail-4", 4, channel="mail", title="Waits", turns=1)
    _ordinary_turns(connection)
    of_session = {"session_id": "web-1", "partition": 0, "session_offset": 1}
    for seq, turn_id, role, content in (
        (1, "t-0-3", "user", "Where is *it*?"),
        (2, "t-0-3", "assistant", None),
        (3, "t-0-3", "tool", "on its way"),
        (4, "t-0-3", "assistant", "It is **on its way**."),
        (5, "t-0-8", "user", "Again"),
    ):
        message = {"message_seq": seq, "turn_id": turn_id, "role": role, "content": content, "log_offset": seq + 3}
        insert(connection, MESSAGES, **of_session, **message)
    call = {"call_id": "call-1", "name": "lookup", "arguments": '{"order":17}', "outcome": "ok"}
    insert(connection, TOOL_CALLS, **of_session, message_seq=2, turn_id="t-0-3", result_message_seq=3, **call)
    summary = {"status": "compacted", "trigger": "manual", "summary": "They ask for *order 17*.", "recorded_at": NOON}
    size = {"tokens_before": 900, "tokens_after": 90}
    insert(connection, COMPACTIONS, **of_session, from_seq=1, to_seq=3, **summary, **size)
    for offset, kind in ((2, "SessionCreated"), (3, "TurnAccepted"), (4, "MessageStored")):
        _event(connection, 0, offset, kind, {"request_id": f"r{offset}"}, stream_version=offset - 1)


def _ordinary_turns(connection: duckdb.DuckDBPyConnection) -> None:
    web = {"session_id": "web-1", "partition": 0, "session_offset": 1}
    times = {
        "accepted_at": NOON,
        "started_at": NOON + timedelta(milliseconds=120),
        "ended_at": NOON + timedelta(seconds=2),
        "duration_ms": 1880,
    }
    cost = {"input_tokens": 1200, "output_tokens": 80, "model_calls": 2}
    completed = {"turn_id": "t-0-3", "request_id": "r1", "status": "completed", "model": "echo:", "attempt": 1}
    insert(
        connection, TURNS, **web, **completed, text="Where is it?", accepted_offset=3, ended_offset=8, **times, **cost
    )
    failed = {"turn_id": "t-0-8", "request_id": "r2", "status": "failed", "attempt": 3, "text": "Again"}
    why = {"code": "turn_timeout", "reason": "it took too long"}
    insert(connection, TURNS, **web, **failed, accepted_offset=8, ended_offset=9, **why)
    running = {"turn_id": "t-0-9", "request_id": "r3", "status": "started", "text": "And now?", "accepted_offset": 9}
    insert(connection, TURNS, **web, **running)
    mail = {"session_id": "mail-3", "partition": 0, "session_offset": 3, "turn_id": "t-0-20", "request_id": "r4"}
    insert(connection, TURNS, **mail, status="failed", text="x", accepted_offset=20, ended_offset=21)


def _marked(connection: duckdb.DuckDBPyConnection) -> None:
    """Every field that a stranger can fill, with every marker."""
    found = markers()
    everything = "\n\n".join(found)
    texts = {"title": everything, "instructions": everything, "model": everything, "channel": found[0]}
    metadata = json.dumps({marker: marker for marker in found})
    _session(connection, "odd-1", 30, metadata=metadata, turns=len(found), completed_turns=len(found), **texts)
    of_session = {"session_id": "odd-1", "partition": 0, "session_offset": 30}
    for number, marker in enumerate(found):
        _marked_turn(connection, {**of_session, "turn_id": f"t-0-{100 + number}"}, number, marker)
    run = {"status": "compacted", "trigger": "manual", "recorded_at": NOON, "from_seq": 1, "to_seq": 2}
    insert(connection, COMPACTIONS, **of_session, **run, summary=everything, model=everything, reason=everything)


def _marked_turn(connection: duckdb.DuckDBPyConnection, turn: dict[str, Any], number: int, marker: str) -> None:
    texts = {"request_id": marker, "model": marker, "text": marker, "code": marker, "reason": marker}
    offset = 100 + number
    insert(connection, TURNS, **turn, status="failed", attempt=1, accepted_offset=offset, ended_offset=200, **texts)
    asked, answered = 2 * number + 1, 2 * number + 2
    insert(connection, MESSAGES, **turn, message_seq=asked, role="user", content=marker, name=marker)
    insert(connection, MESSAGES, **turn, message_seq=answered, role="assistant", content=marker)
    call = {"call_id": marker, "name": marker, "arguments": marker, "outcome": marker}
    insert(connection, TOOL_CALLS, **turn, message_seq=answered, **call)
    _event(connection, 0, offset, marker, {marker: marker}, stream_id="odd-1", turn_id=marker)
    letter = {"request_offset": number, "code": marker, "reason": marker, "bytes": marker.encode()}
    insert(connection, DEAD_LETTERS, partition=0, log_offset=number, **letter)
