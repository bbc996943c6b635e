"""Macros of the analysts' file: one session as of a time or a position, from the rows alone, without a rebuild."""

_END = 2**63 - 1

#: Where the session is, and the log offset before which its events are: that of the first event of its partition that
#: is later than the moment (by Kafka's timestamp, as ``turnlog sql --as-of`` has it), or behind the position.
_CUT = f"""place AS (
    SELECT session_id, partition, session_offset, last_offset FROM internal.sessions WHERE session_id = session
), cut AS (
    SELECT place.*, coalesce((
        SELECT min(e.log_offset) FROM internal.events e WHERE e.partition = place.partition AND CASE
            WHEN at_offset IS NOT NULL THEN e.log_offset > at_offset
            ELSE e.logged_at > CAST(moment AS TIMESTAMPTZ) END
    ), {_END}) AS before FROM place
)"""

_ACTIVE = (
    "('SessionCreated', 'TurnAccepted', 'ToolOutputsAccepted', 'TurnStarted', 'MessageStored', 'TurnCompleted', "
    "'TurnFailed', 'TurnCancelled')"
)

#: Each column as the projection makes it of the events before the cut; a test compares it with a rebuild.
SESSION_AS_OF = f"""CREATE OR REPLACE MACRO session_as_of(session, moment := NULL, at_offset := NULL) AS TABLE
WITH {_CUT}, own AS (
    SELECT e.* FROM internal.events e JOIN cut ON e.partition = cut.partition AND e.stream_id = cut.session_id
    WHERE e.stream_kind = 'session' AND e.log_offset < cut.before
    AND e.log_offset BETWEEN cut.session_offset AND cut.last_offset
), told AS (
    SELECT
        arg_max(body->'new_session', log_offset) FILTER (type = 'SessionCreated') AS created,
        arg_max(CASE type WHEN 'SessionCreated' THEN body->'new_session' ELSE body END, log_offset)
            FILTER (type IN ('SessionCreated', 'SessionUpdated')) AS profile,
        arg_max(CASE type WHEN 'SessionCreated' THEN coalesce(body->'new_session'->>'title', '')
            ELSE body->>'title' END, log_offset)
            FILTER (type IN ('SessionCreated', 'SessionTitled', 'SessionUpdated')) AS title,
        count(*) FILTER (type IN ('SessionArchived', 'SessionErased')) > 0 AS archived,
        arg_max(type = 'SessionActivated', log_offset) FILTER (type IN ('SessionActivated', 'SessionDeactivated'))
            AS active,
        min(recorded_at) FILTER (log_offset = (SELECT session_offset FROM cut)) AS created_at,
        arg_max(recorded_at, log_offset) FILTER (type IN {_ACTIVE}) AS last_active_at,
        arg_max(turn_id, log_offset) FILTER (type = 'TurnStarted') AS started,
        coalesce(arg_max(CAST(body->>'to_seq' AS BIGINT), log_offset) FILTER (type = 'HistoryCompacted'), 0)
            AS covered_to,
        max(log_offset) AS last_offset
    FROM own
), counted AS (
    SELECT
        count(*) AS turns,
        count(*) FILTER (ended_offset < before AND status IN ('completed', 'requires_action')) AS completed_turns,
        count(*) FILTER (ended_offset < before AND status = 'failed') AS failed_turns,
        count(*) FILTER (ended_offset < before AND status = 'cancelled') AS cancelled_turns,
        any_value(turn_id) FILTER (turn_id = (SELECT started FROM told)
            AND (ended_offset IS NULL OR ended_offset >= before)) AS running_turn_id
    FROM internal.turns JOIN cut USING (partition, session_offset) WHERE accepted_offset < before
), spent AS (
    SELECT coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens,
        coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens
    FROM internal.usage usage JOIN cut ON usage.partition = cut.partition AND usage.session_id = cut.session_id
    WHERE usage.turn_id IS NOT NULL AND usage.log_offset < before
), said AS (
    SELECT coalesce(max(message_seq), 0) AS messages FROM internal.messages JOIN cut USING (partition, session_offset)
    WHERE log_offset < before
)
SELECT
    cut.session_id, CASE WHEN archived THEN 'archived' WHEN running_turn_id IS NOT NULL THEN 'running'
        WHEN turns > completed_turns + failed_turns + cancelled_turns THEN 'waiting' ELSE 'idle' END AS state,
    created->>'channel' AS channel, title, profile->>'instructions' AS instructions, profile->>'model' AS model,
    archived, coalesce(active, CASE WHEN created->>'channel' IS NULL THEN NULL ELSE true END) AS active,
    created_at, last_active_at, turns, completed_turns, failed_turns, cancelled_turns, running_turn_id, messages,
    covered_to, input_tokens, output_tokens, cut.partition, told.last_offset
FROM cut, told, counted, spent, said WHERE told.last_offset IS NOT NULL"""

HISTORY_AS_OF = f"""CREATE OR REPLACE MACRO history_as_of(session, moment := NULL, at_offset := NULL) AS TABLE
WITH {_CUT}
SELECT m.* FROM internal.messages m JOIN cut USING (partition, session_offset) WHERE m.log_offset < cut.before
ORDER BY m.message_seq"""

MACROS = (SESSION_AS_OF, HISTORY_AS_OF)
