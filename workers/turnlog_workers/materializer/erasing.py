"""The rows of an erased session without its texts: the same, whether they were read from the log or blank already.

What stays is what happened: turns, calls, tokens, times, models. Rows behind the erasure are not touched, so that batch
sizes do not matter.
"""

from collections.abc import Iterable

import duckdb

from turnlog_streams.projection.row_updates import ErasedInChannel, ErasedSession

_OF_SESSION = "partition = $1 AND session_offset = $2 AND {} < $3"
_OF_ID = "partition = $1 AND session_id = $2 AND log_offset < $3"
_SESSION_STATEMENTS = (
    "UPDATE internal.messages SET content = NULL, content_parts = NULL, name = NULL "
    f"WHERE {_OF_SESSION.format('log_offset')}",
    "UPDATE internal.turns SET text = NULL, content_parts = NULL, tools = NULL, tool_outputs = NULL, reason = NULL, "
    f"command_hash = '', by_command_hash = NULL WHERE {_OF_SESSION.format('accepted_offset')}",
    f"UPDATE internal.attempts SET error = NULL WHERE {_OF_SESSION.format('log_offset')}",
    f"UPDATE internal.tool_calls SET arguments = '' WHERE {_OF_SESSION.format('log_offset')}",
    "UPDATE internal.compaction_requests SET instructions = NULL, command_hash = '' "
    f"WHERE {_OF_SESSION.format('log_offset')}",
    f"UPDATE internal.compactions SET summary = NULL, reason = NULL WHERE {_OF_SESSION.format('log_offset')}",
)
_ID_STATEMENTS = (
    f"UPDATE internal.refusals SET reason = '', command_hash = '' WHERE {_OF_ID}",
    "UPDATE internal.forwards SET new_session = NULL WHERE partition = $1 AND source_kind = 'session' "
    "AND source_id = $2 AND log_offset < $3",
    "UPDATE internal.events SET body = '{}' WHERE partition = $1 AND stream_kind = 'session' AND stream_id = $2 "
    "AND log_offset < $3",
    "UPDATE internal.unknown_events SET body = '{}' WHERE partition = $1 AND stream_kind = 'session' "
    "AND stream_id = $2 AND log_offset < $3",
)
_TELLS_OF_IT = (
    "((body->>'session_id') = $3 OR (body->>'target_id') = $3) AND json_type(body, '$.new_session') = 'OBJECT'"
)
_CHANNEL_STATEMENTS = (
    "UPDATE internal.forwards SET new_session = NULL WHERE partition = $1 AND source_kind = 'channel' "
    "AND source_id = $2 AND target_id = $3 AND log_offset < $4",
    "UPDATE internal.channel_events SET body = '{}' WHERE partition = $1 AND channel = $2 AND log_offset < $4 "
    f"AND {_TELLS_OF_IT}",
    "UPDATE internal.events SET body = '{}' WHERE partition = $1 AND stream_kind = 'channel' AND stream_id = $2 "
    f"AND log_offset < $4 AND {_TELLS_OF_IT}",
)


def erase_texts(
    connection: duckdb.DuckDBPyConnection, sessions: Iterable[ErasedSession], in_channels: Iterable[ErasedInChannel]
) -> None:
    """Within the caller's transaction, behind what its batch inserts."""
    for session in sessions:
        for statement in _SESSION_STATEMENTS:
            connection.execute(statement, [session.partition, session.session_offset, session.log_offset])
        for statement in _ID_STATEMENTS:
            connection.execute(statement, [session.partition, session.session_id, session.log_offset])
    for channel in in_channels:
        for statement in _CHANNEL_STATEMENTS:
            connection.execute(statement, list(channel))
