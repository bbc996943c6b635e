"""The tool ``sql``: one statement that only reads, on the published snapshot, within bounds.

It sees every session of the deployment: allow it where all of them may be seen (``TURNLOG_ALLOW_TOOLS``).
"""

from turnlog.errors import NotFoundError, TurnlogError
from turnlog.snapshot.query import Bounds, QueryTimedOutError, QueryTooLargeError, SnapshotQuery
from turnlog.tools import ToolError, tool
from turnlog_workers.base.config import Settings

TIMEOUT_S = 15.0
MAX_ROWS = 200
_BOUNDS = Bounds(timeout_s=TIMEOUT_S, memory_mb=256, max_rows=MAX_ROWS, spill_mb=256)
_MAX_ANSWER_BYTES = 1024 * 1024  #: read at all; the worker's bound cuts what the model is shown
_MAX_STATEMENT_CHARACTERS = 20_000


@tool(idempotent=True, timeout_s=TIMEOUT_S + 10, max_running=2)
def sql(statement: str) -> str:
    """Look something up in the record of all sessions: one SQL statement (DuckDB) that only reads. Answers with CSV, at
    most 200 rows. The record is some seconds old.

    Main tables: sessions (session_id, channel, title, created_at, turns, messages), messages (session_id, message_seq,
    turn_id, role, content, name, recorded_at), turns (turn_id, session_id, status, model, text, started_at, ended_at,
    input_tokens, output_tokens, code, reason), tool_calls (session_id, message_seq, name, arguments, outcome).
    DESCRIBE TABLE shows the columns of a table, SHOW TABLES all tables.

    Args:
        statement: such as SELECT channel, count(*) FROM sessions GROUP BY channel
    """
    if len(statement) > _MAX_STATEMENT_CHARACTERS:
        raise ToolError(f"the statement has {len(statement)} characters; at most {_MAX_STATEMENT_CHARACTERS} are read")
    path = Settings().snapshot
    if not path.exists():
        raise ToolError("there is no snapshot here yet")
    pieces: list[bytes] = []
    size = 0
    try:
        with SnapshotQuery(path, statement, form="csv", bounds=_BOUNDS) as query:
            for piece in query:
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_ANSWER_BYTES:
                    return b"".join(pieces)[:_MAX_ANSWER_BYTES].decode(errors="ignore")
            more = f"(the first {MAX_ROWS} rows; there are more)" if query.more else ""
    except QueryTimedOutError as error:
        raise ToolError(f"the statement was ended after {TIMEOUT_S:g} s") from error
    except QueryTooLargeError as error:
        raise ToolError("the statement needs more memory than it may have; select less at a time") from error
    except NotFoundError as error:
        raise ToolError("there is no snapshot here yet") from error
    except TurnlogError as error:
        raise ToolError(str(error).replace(str(path), "the snapshot")) from error
    return b"".join(pieces).decode(errors="replace") + more
