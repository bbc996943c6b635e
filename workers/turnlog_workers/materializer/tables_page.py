"""docs/tables.md, written of the views as they are declared: ``python -m turnlog_workers.materializer.tables_page``."""

from pathlib import Path

from turnlog_workers.materializer.analysts_tables import all_views
from turnlog_workers.materializer.views import UTC, View

PAGE = Path("docs/tables.md")

#: Ten questions and a line that answers each.
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("Turns a day, by channel", "FROM daily_activity"),
    ("How long until the first text, and until the end, by model (p50, p95)", "FROM latency_percentiles"),
    (
        "What failed, and why",
        "SELECT code, reason, count(*) AS turns, max(ended_at) AS newest FROM turns WHERE status = 'failed' "
        "GROUP BY ALL ORDER BY turns DESC",
    ),
    ("Which tools fail", "FROM tool_error_rate"),
    (
        "Tokens and cost, by model and day",
        "SELECT day, model, currency, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, "
        "sum(cost) AS cost FROM costs GROUP BY ALL ORDER BY day, model",
    ),
    (
        "The longest sessions",
        "SELECT session_id, channel, title, turns, messages, last_active_at - created_at AS lasted FROM sessions "
        "ORDER BY messages DESC LIMIT 20",
    ),
    ("Turns that are stuck", "FROM stuck_turns"),
    ("Sessions with a summary, and what it saves", "FROM compaction_savings"),
    (
        "A session as it was an hour ago",
        "SELECT message_seq, role, content FROM history_as_of('web-1', now() - INTERVAL 1 HOUR)",
    ),
    (
        "Sessions that mention something",
        "SELECT session_id, count(*) AS times, min(text) AS example FROM search('HAT097') GROUP BY session_id "
        "ORDER BY times DESC",
    ),
)

TOOL_ERRORS = (
    "SELECT c.name, c.outcome, m.content FROM tool_calls c JOIN messages m ON m.session_id = c.session_id "
    "AND m.message_seq = c.result_message_seq WHERE c.outcome <> 'ok'"
)

_HEAD = """# The tables

What [`snapshot.duckdb`](analysts.md) has for those who ask it: views, each column with its meaning and the
[event](wire.md) that it comes from. This page is written of the same declarations as the comments in the file:

```console
$ turnlog sql "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal"
$ turnlog sql "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'turns' AND schema_name = 'main'"
```

Tables of the schema `internal` hold the rows, and change from version to version. `partitions` says how far it is.

- A time is {utc}.
- `_ms` is milliseconds, `_s` seconds; tokens are as the model's server counted them, unless said otherwise.
- A *turn* has one *attempt* or more: a runner that fails is tried again (`retry`), a lost worker's turn goes on
  elsewhere (`takeover`). `total_ms`, `queue_ms` and `first_delta_ms` of a turn count from its acceptance, through all
  attempts; `duration_ms` is the last attempt's own work.
- Within a partition rows are ordered by their offsets. Clocks of two workers may differ.

## Ten questions

{questions}Failed turns are not all that can go wrong: what was tried again stands in `attempts`, requests that were
not carried out in `refusals`, those that nobody could read in `dead_letters`. What a failed tool said is a message:

```sql
{tool_errors}
```

## What to search for

`search('…')` is a table: `session_id`, `message_seq`, `turn_id`, `role` (`tool_call` for the arguments of a call),
`text`, `recorded_at`, `partition`, `log_offset`. It looks through all messages and the arguments of all calls, not
through titles, instructions and summaries. It finds parts of words, numbers, dates and any script, whatever the case of
letters, and whether Unicode writes an accent as part of its letter or as a character of its own. Accents count: `cafe`
does not find `café`. Arguments are searched as the model wrote them: JSON may say `é` as `\\u00e9`, which only
`search('\\u00e9')` finds. A quotation mark is doubled: `search('it''s')`. In a connection that has the file attached,
say `USE chats` first: a macro looks for its tables in the database in use.

## A session's messages

`history('…')` is the messages of one session, in order. It finds them faster than a condition on `messages.session_id`.

## A moment of the past

`session_as_of('…', moment)` and `history_as_of('…', moment)` are one session's row and its messages as they were
([more](proof.md)). No row means that the session did not exist yet, or never did; a session without messages has a row
and no history. The row's columns are those of `sessions` with the same names, and `state`: `idle`, `waiting` (a turn is
accepted), `running` or `archived`. `turnlog sql --as-of TIME` asks all tables as of a time.

## What models cost

`TURNLOG_PRICES` names a CSV file. The materializer reads it when it starts; rows of the log stay as they are, and all
costs follow, old ones too. A model is named as in `turns.model`, exactly. A price is for 1,000,000 tokens, and holds
from `valid_from` (a day, UTC; empty: always did) until the model's next one. `currency` is a word of yours (`USD` if it
is left out).

```csv
model,input_per_million,output_per_million,currency,valid_from
anthropic:claude-sonnet-4-5,3.00,15.00,USD,
openai:gpt-5-mini,0.25,2.00,USD,2026-01-01
```
"""


def page() -> str:
    """The page's text."""
    questions = "".join(f"{title}:\n\n```sql\n{statement}\n```\n\n" for title, statement in QUESTIONS)
    return _HEAD.format(utc=UTC, questions=questions, tool_errors=TOOL_ERRORS) + "".join(map(_section, all_views()))


def _section(view: View) -> str:
    rows = "".join(
        f"| `{c.name}` | {c.meaning.replace(f': {UTC}', ' (time)').replace('|', '/')} | {c.source} |\n"
        for c in view.columns
    )
    return f"\n## `{view.name}`\n\n{view.about}\n\n| column | meaning | source |\n|---|---|---|\n{rows}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
