"""The views that answer a question: activity, latency, tools, cost, stuck and slow turns, compaction, lag; search."""

from turnlog_workers.materializer.views import View, column, moment

_SLOW = 0.95
#: Well below the time limit of a turn (TURNLOG_TURN_TIMEOUT_S, 600 s unless set otherwise), which ends it as failed.
_STUCK = "INTERVAL 2 MINUTE"
#: Amounts of several currencies have no sum.
_ONE_CURRENCY = "CASE WHEN count(DISTINCT currency) = 1 THEN {0} END"

QUESTION_VIEWS = (
    View(
        name="daily_activity",
        about="Turns of a day in a channel. Days are those of the connection's time zone.",
        columns=(
            column("day", "day of acceptance", "turns", "accepted_at::DATE"),
            column("channel", "channel; NULL: sessions without one", "turns"),
            column("turns", "accepted turns", "turns", "count(*)"),
            column("sessions", "sessions with one", "turns", "count(DISTINCT session_id)"),
            column("users", "users with one", "turns", "count(DISTINCT user_id)"),
            column("completed", "that ended well", "turns", "count(*) FILTER (status = 'completed')"),
            column("failed", "that failed", "turns", "count(*) FILTER (status = 'failed')"),
            column("cancelled", "that were ended on purpose", "turns", "count(*) FILTER (status = 'cancelled')"),
            column(
                *("requires_action", "that ended in calls for the client", "turns"),
                "count(*) FILTER (status = 'requires_action')",
            ),
            column("open", "that have not ended", "turns", "count(*) FILTER (ended_at IS NULL)"),
            column("input_tokens", "tokens read", "turns", "coalesce(sum(input_tokens), 0)"),
            column("output_tokens", "tokens written", "turns", "coalesce(sum(output_tokens), 0)"),
            column(
                *("cost", "cost of those with a price; NULL: none has one, or in several currencies (costs)", "turns"),
                _ONE_CURRENCY.format("sum(cost)"),
            ),
            column("currency", "of the cost; NULL: as with the cost", "turns", _ONE_CURRENCY.format("min(currency)")),
        ),
        rest="FROM turns GROUP BY ALL ORDER BY day, channel",
    ),
    View(
        name="latency_percentiles",
        about="How long ended turns took, however they ended, by model. All in ms from acceptance.",
        columns=(
            column("model", "model; NULL: never started", "turns"),
            column("turns", "ended turns", "turns", "count(*)"),
            column("failed", "those that failed", "turns", "count(*) FILTER (status = 'failed')"),
            column("cancelled", "those that were ended on purpose", "turns", "count(*) FILTER (status = 'cancelled')"),
            column("p50_queue_ms", "half began within", "turns", "quantile_cont(queue_ms, 0.5)"),
            column("p95_queue_ms", "95 % began within", "turns", "quantile_cont(queue_ms, 0.95)"),
            column("p50_first_delta_ms", "half streamed within", "turns", "quantile_cont(first_delta_ms, 0.5)"),
            column("p95_first_delta_ms", "95 % streamed within", "turns", "quantile_cont(first_delta_ms, 0.95)"),
            column("p50_total_ms", "half ended within", "turns", "quantile_cont(total_ms, 0.5)"),
            column("p95_total_ms", "95 % ended within", "turns", "quantile_cont(total_ms, 0.95)"),
            column("max_total_ms", "the slowest", "turns", "max(total_ms)"),
        ),
        rest="FROM turns WHERE ended_at IS NOT NULL GROUP BY model ORDER BY turns DESC, model",
    ),
    View(
        name="tool_error_rate",
        about="How the calls of each tool ended.",
        columns=(
            column("name", "tool", "tool_calls"),
            column("calls", "calls", "tool_calls", "count(*)"),
            column("answered", "calls with a result", "tool_calls", "count(result_message_seq)"),
            column("errors", "that the tool failed in", "tool_calls", "count(*) FILTER (outcome = 'error')"),
            column("timed_out", "that took too long", "tool_calls", "count(*) FILTER (outcome = 'timed_out')"),
            column("interrupted", "of unknown outcome", "tool_calls", "count(*) FILTER (outcome = 'interrupted')"),
            column(
                *("error_rate", "all three in those with an outcome, 0 to 1; NULL: none has one", "tool_calls"),
                "count(*) FILTER (outcome IN ('error', 'timed_out', 'interrupted')) / nullif(count(outcome), 0)",
            ),
            column("p50_ms", "half took at most, in ms", "tool_calls", "quantile_cont(duration_ms, 0.5)"),
            column("p95_ms", "95 % took at most, in ms", "tool_calls", "quantile_cont(duration_ms, 0.95)"),
        ),
        rest="FROM tool_calls GROUP BY name ORDER BY error_rate DESC NULLS LAST, calls DESC",
    ),
    View(
        name="costs",
        about="Tokens and cost of a day by channel, user, model and kind. Sum over what you do not ask for.",
        columns=(
            column("day", "day, in the connection's time zone", "usage", "recorded_at::DATE"),
            column("channel", "channel; NULL: none", "usage"),
            column("user_id", "user; NULL: not said", "usage"),
            column("model", "model", "usage"),
            column("kind", "turn, compaction or title", "usage"),
            column("rows", "turns, compactions or titles", "usage", "count(*)"),
            column("input_tokens", "tokens read", "usage", "sum(input_tokens)"),
            column("output_tokens", "tokens written", "usage", "sum(output_tokens)"),
            column("cost", "cost; NULL: no price of that model and day", "usage", "sum(cost)"),
            column("currency", "of the cost", "usage"),
        ),
        rest="FROM usage GROUP BY ALL ORDER BY day, cost DESC",
    ),
    View(
        name="stuck_turns",
        about="Open turns that were accepted more than two minutes before now. The snapshot's age counts with it. "
        "A turn that waits for tools of a client has ended (requires_action).",
        columns=(
            column("session_id", "session", "turns"),
            column("turn_id", "turn", "turns"),
            column("channel", "channel; NULL: none", "turns"),
            column("status", "accepted (it waits) or started", "turns"),
            column("model", "model; NULL: not started", "turns"),
            column("attempt", "newest attempt; 0: not started", "turns"),
            moment("accepted_at", "acceptance", "turns"),
            column("age_s", "seconds since then", "turns", "(epoch_ms(now()) - epoch_ms(accepted_at)) / 1000"),
        ),
        rest=f"FROM turns WHERE ended_at IS NULL AND accepted_at < now() - {_STUCK} ORDER BY accepted_at",
    ),
    View(
        name="slow_turns",
        about="Ended turns that took longer than 95 % of their model's.",
        columns=(
            column("session_id", "session", "turns"),
            column("turn_id", "turn", "turns"),
            column("channel", "channel; NULL: none", "turns"),
            column("model", "model", "turns"),
            column("status", "how it ended", "turns"),
            column("attempt", "attempts that it took", "turns"),
            column("queue_ms", "ms to the first attempt", "turns"),
            column("first_delta_ms", "ms to the first text", "turns"),
            column("total_ms", "ms to the end", "turns"),
            column("p95_total_ms", "what 95 % of the model's turns took at most", "turns", "p95"),
            moment("accepted_at", "acceptance", "turns"),
        ),
        rest=f"FROM (SELECT *, quantile_cont(total_ms, {_SLOW}) OVER (PARTITION BY model) AS p95 FROM turns "
        "WHERE ended_at IS NOT NULL) WHERE total_ms > p95 ORDER BY total_ms DESC",
    ),
    View(
        name="compaction_savings",
        about="What summaries save, by session with one.",
        columns=(
            column("session_id", "session", "history_compactions"),
            column("summaries", "summaries", "history_compactions", "count(*)"),
            column("messages_covered", "messages that the newest one stands for", "history_compactions", "max(to_seq)"),
            column(
                *(
                    "tokens_before",
                    "tokens of prompts before (estimated), summed; NULL: not known of a summary that was brought",
                    "history_compactions",
                ),
                "sum(tokens_before)",
            ),
            column(
                *("tokens_after", "tokens of prompts after (estimated), summed; NULL: likewise", "history_compactions"),
                "sum(tokens_after)",
            ),
            column(
                *("tokens_saved", "the difference: saved in each later prompt; NULL: not known", "history_compactions"),
                "sum(tokens_before - tokens_after)",
            ),
            column(
                *("tokens_spent", "tokens that the summaries took", "history_compactions"),
                "sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0))",
            ),
            moment("newest_at", "the newest one", "history_compactions", "max(recorded_at)"),
        ),
        rest="FROM history_compactions WHERE status = 'compacted' GROUP BY session_id ORDER BY tokens_saved DESC",
    ),
    View(
        name="lag",
        about="How far this file is, by partition. What the log has beyond it, turnlog doctor says.",
        columns=(
            column("partition", "partition of the log", "partitions", "p.partition"),
            column("next_offset", "log offset from which on nothing is in this file", "partitions"),
            column("accepted", "every request up to this offset is decided", "partitions"),
            moment("newest_event_at", "the newest event in this file; NULL: none", "events", "e.newest"),
            column(
                *("age_s", "seconds from then to now: idle time counts, too", "events"),
                "(epoch_ms(now()) - epoch_ms(e.newest)) / 1000",
            ),
        ),
        rest="FROM partitions p LEFT JOIN (SELECT partition, max(recorded_at) AS newest FROM internal.events "
        "GROUP BY partition) e ON e.partition = p.partition ORDER BY p.partition",
    ),
)

_WANTED = "nfc_normalize(wanted)"
#: What of it has no case is looked for first: that is several times faster than a pattern. It may be empty.
_SAME_IN_ANY_CASE = (
    f"CASE WHEN lower({_WANTED}) = upper({_WANTED}) THEN {_WANTED} ELSE regexp_extract({_WANTED}, '[0-9]+') END"
)
_HOLDS = (
    f"CASE WHEN contains({{0}}, {_SAME_IN_ANY_CASE}) "
    f"THEN regexp_matches({{0}}, '(?i)' || regexp_escape({_WANTED})) ELSE false END"
)
#: Accents, kana's voice marks and the parts of Hangul syllables, where they are characters of their own.
_DECOMPOSED = r"[\x{0300}-\x{036F}\x{3099}\x{309A}\x{1100}-\x{11FF}]"
#: Only what is not ASCII can be written in two ways, and to compose all text would take twenty times as long.
_FOUND = (
    f"CASE WHEN {_HOLDS} THEN true WHEN strlen(wanted) = length(wanted) OR strlen({{0}}) = length({{0}}) THEN false "
    f"WHEN regexp_matches({{0}}, '{_DECOMPOSED}') THEN {_HOLDS.replace('{0}', 'nfc_normalize({0})')} ELSE false END"
)
#: Text is compared without regard to case, and to how its accents are written. A scan: nothing to keep up, and every
#: script and number is found.
SEARCH = (
    "CREATE OR REPLACE MACRO search(wanted) AS TABLE "
    "SELECT session_id, message_seq, turn_id, role, content AS text, recorded_at, partition, log_offset "
    f"FROM internal.messages WHERE {_FOUND.replace('{0}', 'content')} UNION ALL "
    "SELECT session_id, message_seq, turn_id, 'tool_call', name || ' ' || arguments, recorded_at, partition, "
    f"log_offset FROM internal.tool_calls WHERE {_FOUND.replace('{0}', 'arguments')}"
)

#: Found by the session's number: the log's order keeps the messages of a session near each other, its id does not.
HISTORY = (
    "CREATE OR REPLACE MACRO history(session) AS TABLE "
    "SELECT m.message_seq, m.turn_id, m.role, m.content, m.content_parts, m.tool_call_id, m.name, m.interrupted, "
    "m.truncated, m.outcome, m.recorded_at, m.log_offset FROM internal.sessions s JOIN internal.messages m "
    "ON m.partition = s.partition AND m.session_offset = s.session_offset WHERE s.session_id = session "
    "ORDER BY m.message_seq"
)
