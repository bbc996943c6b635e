"""The views with a row for each thing that happened: sessions, turns, attempts, messages, calls, tokens, the log."""

from turnlog_workers.materializer.views import View, column, moment, of

DEFAULT_USER_KEY = "user_id"
TURN_END = "TurnCompleted, TurnFailed or TurnCancelled"
ACCEPTED = "TurnAccepted or ToolOutputsAccepted"
_PLACE = (
    column("partition", "partition of the log", "the record's place"),
    column("session_offset", "log offset of the session's first event: with partition its number", "SessionCreated"),
)
_LOG_OFFSET = column("log_offset", "offset in the partition's event log: order by it", "the record's place")
_SESSION_OF = "{0}.partition = s.partition AND {0}.session_offset = s.session_offset"
#: What a row cost: the price of its model on its day.
PRICED = "LEFT JOIN internal.prices p ON p.model = {0}.model AND {0}.{1} >= p.valid_from AND {0}.{1} < p.valid_to"
COST = "{0}.input_tokens / 1000000.0 * p.input_per_million + {0}.output_tokens / 1000000.0 * p.output_per_million"
_COST = "by the prices of TURNLOG_PRICES, in their currency; NULL: no price of that model and day"


def row_views(user_key: str) -> tuple[View, ...]:
    """``user_key``: of the metadata, where sessions have their user's id."""
    user = f"{{0}}metadata ->> '$.\"{user_key}\"'"
    return (
        _sessions(user.format("")),
        _turns(user.format("s.")),
        _ATTEMPTS,
        _MESSAGES,
        _TOOL_CALLS,
        _usage(user.format("s.")),
        _HISTORY_COMPACTIONS,
        _CHANNELS,
        _EVENTS,
        _DEAD_LETTERS,
        _REFUSALS,
        _PRICES,
    )


def _sessions(user: str) -> View:
    said, updated = "SessionCreated", "SessionCreated or SessionUpdated"
    return View(
        name="sessions",
        about="One row for each session.",
        columns=(
            column("session_id", "id of the session", said),
            column("channel", "channel that it belongs to; NULL: none", said),
            column("user_id", "its metadata's value under TURNLOG_USER_METADATA_KEY; NULL: it has none", updated, user),
            column("title", "title; empty: none yet", "SessionCreated, SessionTitled or SessionUpdated"),
            column("instructions", "system prompt; NULL: none", updated),
            column("model", "the session's own model; NULL: the default at each turn", updated),
            column("metadata", "JSON object of texts", updated),
            column("archived", "takes no more turns", "SessionArchived or SessionErased"),
            moment("archived_at", "when it was archived; NULL: it is not", "SessionArchived"),
            moment("erased_at", "when its texts were erased; NULL: they were not", "SessionErased"),
            column("active", "its channel's active session as far as it heard; NULL: no channel", "SessionActivated"),
            column("history_max_tokens", "tokens from which its history is compacted; NULL: the default", said),
            column("history_keep_tail", "messages that are never compacted; NULL: the deployment's", said),
            moment("created_at", "when it was created", said),
            moment("last_active_at", "its newest event of a turn, or its creation", "events of its turns"),
            column("turns", "accepted turns", ACCEPTED),
            column("started_turns", "turns that began", "TurnStarted"),
            column("completed_turns", "turns that ended well, or in calls for the client", "TurnCompleted"),
            column("failed_turns", "turns that ended with an error", "TurnFailed"),
            column("cancelled_turns", "turns that were ended on purpose", "TurnCancelled"),
            column("running_turn_id", "turn that runs; NULL: none", "TurnStarted"),
            column("messages", "messages in the history", "MessageStored"),
            column("covered_to", "the newest summary stands for messages up to this one; 0: none", "HistoryCompacted"),
            column("input_tokens", "tokens, read by models in ended turns", TURN_END),
            column("output_tokens", "tokens, written by models in ended turns", TURN_END),
            column("unknown_events", "events of a newer version: this row may say too little", "any"),
            *_PLACE,
            column("stream_version", "events of the session so far", "any"),
            column("last_offset", "log offset of its newest event", "any"),
        ),
        rest="FROM internal.sessions",
    )


_OF_TURNS = (
    f"FROM internal.turns t LEFT JOIN internal.sessions s ON {_SESSION_OF.format('t')} "
    "LEFT JOIN internal.messages m ON m.partition = t.partition AND m.session_offset = t.session_offset "
    f"AND m.message_seq = t.answer_seq {PRICED.format('t', 'accepted_at')}"
)


def _turns(user: str) -> View:
    return View(
        name="turns",
        about="One row for each turn: a user's message (or a client's tool outputs) up to its one end.",
        columns=of(
            "t",
            (
                column("turn_id", "id of the turn", ACCEPTED),
                column("session_id", "its session", ACCEPTED),
                column("channel", "its session's channel; NULL: none", "SessionCreated", "s.channel"),
                column("user_id", "its session's user; NULL: not said", "SessionCreated", user),
                column("request_id", "id of the request, chosen by its sender", ACCEPTED),
                column("status", "accepted, started, completed, requires_action, failed or cancelled", TURN_END),
                column("code", "why it failed or was cancelled, a word; NULL: neither", TURN_END),
                column("reason", "the same for people", TURN_END),
                column("requested_model", "model that the request named; NULL: none", ACCEPTED),
                column("model", "model that ran; NULL: not started", "TurnStarted"),
                column("text", "the question; NULL: it goes on from tool outputs alone", ACCEPTED),
                column("answer", "text of its newest assistant message; NULL: none", "MessageStored", "m.content"),
                column("content_parts", "the question in parts, where text does not say it all (JSON)", ACCEPTED),
                column("tools", "tools that the client runs, as it described them (JSON)", ACCEPTED),
                column("tool_outputs", "outputs of calls that the session waited for (JSON)", "ToolOutputsAccepted"),
                column("answer_seq", "message_seq of the newest assistant message; NULL: none", "MessageStored"),
                column("hidden", "somebody wants it not to be shown", "TurnHidden"),
                column("attempt", "number of the newest attempt; 0: not started", "TurnStarted"),
                column(
                    "runner_failures", "attempts that the runner failed in and that were tried again", "TurnStarted"
                ),
                moment("accepted_at", "when it was accepted", ACCEPTED),
                moment("started_at", "when its first attempt began; NULL: not yet", "TurnStarted"),
                moment("ended_at", "when it ended; NULL: it is open", TURN_END),
                column(
                    *("queue_ms", "ms from acceptance to the first attempt", "TurnStarted"),
                    "epoch_ms(t.started_at) - epoch_ms(t.accepted_at)",
                ),
                column(
                    "first_delta_ms",
                    "ms from acceptance to the first text that the attempt which ended it streamed; NULL: it streamed "
                    "none, or is of an older version",
                    TURN_END,
                    "epoch_ms(t.attempt_started_at) - epoch_ms(t.accepted_at) + t.first_delta_ms",
                ),
                column(
                    *("total_ms", "ms from acceptance to the end, with the queue and all attempts", TURN_END),
                    "epoch_ms(t.ended_at) - epoch_ms(t.accepted_at)",
                ),
                column("duration_ms", "ms that the attempt which ended it worked", TURN_END),
                column("input_tokens", "tokens read by models, of all attempts that told", TURN_END),
                column("output_tokens", "tokens written by models, of all attempts that told", TURN_END),
                column("model_calls", "calls of models", TURN_END),
                column("cost", f"cost of its tokens {_COST}", "TurnStarted and prices", COST.format("t")),
                column("currency", "of the cost", "prices", "p.currency"),
                column("accepted_offset", "log offset of its acceptance: order by it", ACCEPTED),
                column("started_offset", "log offset of its first attempt", "TurnStarted"),
                column("ended_offset", "log offset of its end; NULL: it is open", TURN_END),
                *_PLACE,
            ),
        ),
        rest=_OF_TURNS,
    )


_ATTEMPT_END = "coalesce(lead(a.recorded_at) OVER attempts, t.ended_at)"
_ATTEMPTS = View(
    name="attempts",
    about="One row for each attempt at a turn; cause tells a takeover by another worker from a retry.",
    columns=of(
        "a",
        (
            column("session_id", "its session", "TurnStarted"),
            column("turn_id", "its turn", "TurnStarted"),
            column("attempt", "its number, from 1", "TurnStarted"),
            column("cause", "first, retry (the runner failed) or takeover (the worker was lost)", "TurnStarted"),
            column("model", "model that ran", "TurnStarted"),
            moment("started_at", "when it began", "TurnStarted", "a.recorded_at"),
            moment("ended_at", "when the next one began, or the turn ended", f"TurnStarted, {TURN_END}", _ATTEMPT_END),
            column(
                *("duration_ms", "ms between the two", f"TurnStarted, {TURN_END}"),
                f"epoch_ms({_ATTEMPT_END}) - epoch_ms(a.recorded_at)",
            ),
            column(
                "outcome",
                "completed, requires_action, failed or cancelled with its turn; retry or takeover, as the next one "
                "says; NULL: it runs",
                f"TurnStarted, {TURN_END}",
                "coalesce(lead(a.cause) OVER attempts, CASE WHEN t.ended_offset IS NOT NULL THEN t.status END)",
            ),
            column(
                *(
                    "error",
                    "why it ended, of one that was tried again, failed or was cancelled; NULL: of the others",
                    f"TurnStarted, {TURN_END}",
                ),
                "coalesce(nullif(lead(a.error) OVER attempts, ''), "
                "CASE WHEN a.attempt = t.attempt THEN nullif(concat_ws(': ', t.code, nullif(t.reason, '')), '') END)",
            ),
            *_PLACE,
            _LOG_OFFSET,
        ),
    ),
    rest="FROM internal.attempts a LEFT JOIN internal.turns t ON t.partition = a.partition "
    "AND t.session_offset = a.session_offset AND t.turn_id = a.turn_id "
    "WINDOW attempts AS (PARTITION BY a.partition, a.session_offset, a.turn_id ORDER BY a.log_offset)",
)

_STORED = "MessageStored"
_MESSAGES = View(
    name="messages",
    about="One row for each message of a history. Compacted ones stay.",
    columns=(
        column("session_id", "its session", _STORED),
        column("message_seq", "place in the session's history, from 1", _STORED),
        column("turn_id", "its turn; empty: the session was opened with it", _STORED),
        column("role", "user, assistant or tool", _STORED),
        column("content", "its text; NULL: it has none, which is not the empty text", _STORED),
        column("content_parts", "its parts, where content does not say it all (JSON)", _STORED),
        column("tool_call_id", "call that a tool message answers", _STORED),
        column("name", "tool, or whoever speaks", _STORED),
        column("interrupted", "made up: the call's outcome is unknown, or the answer was cancelled", _STORED),
        column("truncated", "cut at the size limit", _STORED),
        column("outcome", "of a tool message: ok, error, timed_out or interrupted; NULL: not said", _STORED),
        column("imported", "said elsewhere: the session was opened with it", _STORED),
        moment("recorded_at", "when it was stored", _STORED),
        *_PLACE,
        _LOG_OFFSET,
    ),
    rest="FROM internal.messages",
)

_TOOL_CALLS = View(
    name="tool_calls",
    about="One row for each call of a tool.",
    columns=(
        column("session_id", "its session", _STORED),
        column("turn_id", "its turn", _STORED),
        column("message_seq", "message with the call", _STORED),
        column("position", "place in that message, from 0", _STORED),
        column("call_id", "id that the model gave it; they repeat", _STORED),
        column("name", "tool", _STORED),
        column("arguments", "as the model wrote them, not necessarily JSON", _STORED),
        column("client", "the client runs the tool", _STORED),
        column("idempotent", "may be repeated when its outcome is unknown", _STORED),
        column("result_message_seq", "message with its result; NULL: none yet", _STORED),
        column("outcome", "ok, error, timed_out or interrupted; NULL: no result, or not said", _STORED),
        moment("recorded_at", "when the call was stored", _STORED),
        moment("result_at", "when its result was stored; NULL: none yet", _STORED),
        column(
            *("duration_ms", "ms between the two: with the wait for a client, if it runs the tool", _STORED),
            "epoch_ms(result_at) - epoch_ms(recorded_at)",
        ),
        *_PLACE,
        _LOG_OFFSET,
    ),
    rest="FROM internal.tool_calls",
)


def _usage(user: str) -> View:
    ends = f"{TURN_END}, HistoryCompacted, HistoryCompactionFailed or SessionTitled"
    kind = "CASE WHEN u.turn_id IS NOT NULL THEN 'turn' WHEN u.status = 'titled' THEN 'title' ELSE 'compaction' END"
    return View(
        name="usage",
        about="One row for each thing that cost tokens: a turn, a history compaction or a title.",
        columns=of(
            "u",
            (
                column("session_id", "its session", ends),
                column("channel", "its session's channel; NULL: none", "SessionCreated", "s.channel"),
                column("user_id", "its session's user; NULL: not said", "SessionCreated", user),
                column("turn_id", "turn; NULL: of no turn", ends),
                column("kind", "turn, compaction or title", ends, kind),
                column("model", "model; NULL: the turn never started", ends),
                column("attempt", "attempt that ended the turn", ends),
                column("status", "how it ended", ends),
                column("input_tokens", "tokens read by the model", ends),
                column("output_tokens", "tokens written by the model", ends),
                column("model_calls", "calls of the model", ends),
                column("last_input_tokens", "tokens of the newest call's prompt", ends),
                column("cost", f"cost {_COST}", "prices", COST.format("u")),
                column("currency", "of the cost", "prices", "p.currency"),
                column("duration_ms", "ms of work", ends),
                moment("recorded_at", "when it ended", ends),
                column("partition", "partition of the log", "the record's place"),
                _LOG_OFFSET,
            ),
        ),
        rest="FROM internal.usage u LEFT JOIN internal.sessions s ON s.partition = u.partition "
        f"AND s.session_id = u.session_id {PRICED.format('u', 'recorded_at')}",
    )


_RUN = "HistoryCompacted, HistoryCompactionFailed or HistoryCompactionSkipped"
_KNOWN = "CASE WHEN method IS DISTINCT FROM 'given' THEN tokens_{0} END"
_HISTORY_COMPACTIONS = View(
    name="history_compactions",
    about="One row for each run of history compaction: a summary of messages, a failure, or nothing to do.",
    columns=(
        column("session_id", "its session", _RUN),
        column("status", "compacted, failed or skipped", _RUN),
        column("trigger", "automatic or manual", _RUN),
        column("history_compaction_id", "the same for the same messages under the same settings", _RUN),
        column("from_seq", "first message that the summary stands for", _RUN),
        column("to_seq", "last message that it stands for", _RUN),
        column("summary", "the summary", _RUN),
        column("history_seq", "newest message when the run read the history", _RUN),
        column("method", "model, truncation, or given: its request brought it", _RUN),
        column("model", "model that wrote it; NULL: none", _RUN),
        column("code", "why it failed, a word", _RUN),
        column("reason", "the same for people", _RUN),
        column(
            "tokens_before", "tokens of the prompt before (estimated); NULL: brought", _RUN, _KNOWN.format("before")
        ),
        column("tokens_after", "tokens of the prompt after (estimated); NULL: brought", _RUN, _KNOWN.format("after")),
        column("input_tokens", "tokens that the run read", _RUN),
        column("output_tokens", "tokens that it wrote", _RUN),
        column("model_calls", "calls of the model", _RUN),
        column("duration_ms", "ms of work", _RUN),
        column("request_id", "request that it answers; NULL: none", _RUN),
        moment("recorded_at", "when it ended", _RUN),
        *_PLACE,
        column("stream_version", "place among the session's events", _RUN),
        _LOG_OFFSET,
    ),
    rest="FROM internal.compactions",
)

_OF_CHANNEL = "ChannelSessionOpened or ChannelSessionArchived"
_CHANNELS = View(
    name="channels",
    about="One row for each channel that has had a session.",
    columns=(
        column("channel", "its name", _OF_CHANNEL),
        column("active_session_id", "its active session; NULL: none", _OF_CHANNEL),
        column("sessions", "sessions that it has had", _OF_CHANNEL),
        column("archived_sessions", "those that are archived", _OF_CHANNEL),
        moment("opened_at", "its first session", _OF_CHANNEL),
        moment("last_active_at", "when its active session became another one", _OF_CHANNEL),
        column("unknown_events", "events of a newer version: this row may say too little", "any"),
        column("partition", "partition of the log", "the record's place"),
        column("last_offset", "log offset of its newest event", "any"),
    ),
    rest="FROM internal.channels",
)

_EVENTS = View(
    name="events",
    about="One row for each accepted event, as the log has it.",
    columns=(
        column("stream_kind", "session, channel or partition", "any"),
        column("stream_id", "id of the session or the channel, or the partition", "any"),
        column("stream_version", "place among the stream's events, from 1", "any"),
        column("type", "name of the event, as in docs/wire.md", "any"),
        column("turn_id", "its turn; NULL: of none", "any"),
        column("attempt", "its attempt; 0: of none", "any"),
        column("body", "its own fields (JSON)", "any"),
        moment("recorded_at", "when its writer made it", "any"),
        moment("logged_at", "Kafka's time of the record; NULL: not known", "the record"),
        column("partition", "partition of the log", "the record's place"),
        _LOG_OFFSET,
    ),
    rest="FROM internal.events",
)

_LETTER = "RequestDeadLettered"
_DEAD_LETTERS = View(
    name="dead_letters",
    about="One row for each request that nobody can read or decide.",
    columns=(
        column("partition", "partition of the requests", _LETTER),
        column("request_offset", "offset of the request", _LETTER),
        column("code", "why, a word", _LETTER),
        column("reason", "the same for people", _LETTER),
        moment("recorded_at", "when it was set aside", _LETTER),
        column(
            "bytes",
            "the request; NULL: not read yet, or gone from its topic (30 days), or its prefix is sealed",
            "the dead-letter topic",
        ),
        _LOG_OFFSET,
    ),
    rest="FROM internal.dead_letters",
)

_REFUSED = "RequestRefused"
_REFUSALS = View(
    name="refusals",
    about="One row for each readable request that was not carried out.",
    columns=(
        column("session_id", "session that it named, which need not exist", _REFUSED),
        column("request_id", "id of the request", _REFUSED),
        column("code", "why, a word", _REFUSED),
        column("reason", "the same for people", _REFUSED),
        column("reused", "its id was used before, for something else", _REFUSED),
        moment("recorded_at", "when it was refused", _REFUSED),
        column("partition", "partition of the log", "the record's place"),
        _LOG_OFFSET,
    ),
    rest="FROM internal.refusals",
)

_CSV = "TURNLOG_PRICES"
_PRICES = View(
    name="prices",
    about="One row for each price that is known, from the file that TURNLOG_PRICES names.",
    columns=(
        column("model", "model, as turns and usage name it", _CSV),
        column("input_per_million", "price of 1,000,000 tokens that it reads", _CSV),
        column("output_per_million", "price of 1,000,000 tokens that it writes", _CSV),
        column("currency", "of both", _CSV),
        moment("valid_from", "from when on; -infinity: always was", _CSV),
        moment("valid_to", "until when, exclusive: the model's next price", _CSV),
    ),
    rest="FROM internal.prices",
)
