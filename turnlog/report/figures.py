"""What the report asks the snapshot, and the answers. Every question has the days as its one parameter."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from turnlog.snapshot.charts import Chart, Kind, chart_of
from turnlog.snapshot.sql import open_snapshot, run

_RECENT = "{} > (SELECT max(last_active_at) FROM sessions) - to_days(CAST(? AS INTEGER))"
_WHOLE_S = "(epoch_ms(ended_at) - epoch_ms(accepted_at)) / 1000.0"
#: Each recorded conversation is a model of its own; together they say more.
_MODEL = "CASE WHEN model LIKE 'recorded:%' THEN 'recorded:' ELSE coalesce(model, 'none') END"
_MAX_ROWS = 60
_LEAST_OF_A_LINE = 3  #: points


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A section of the report."""

    title: str
    about: str
    sql: str
    chart: Kind | None = "bar"  #: ``None``: a table alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A question's answer: cells as text, ``None`` for NULL."""

    question: Question
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    chart: Chart | str  #: or a sentence why there is none


QUESTIONS = (
    Question(
        title="Activity",
        about="Turns that were accepted, and sessions that they belong to, a day (UTC).",
        sql=f"SELECT CAST(accepted_at AS DATE) AS day, count(*) AS turns, count(DISTINCT session_id) AS sessions "
        f"FROM turns WHERE {_RECENT.format('accepted_at')} GROUP BY day ORDER BY day",
        chart="line",
    ),
    Question(
        title="Latency by day",
        about="Seconds from a turn's acceptance to its end, takeovers and retries included: half of the turns were "
        "faster than p50, 95 of 100 faster than p95.",
        sql=f"SELECT CAST(accepted_at AS DATE) AS day, round(quantile_cont({_WHOLE_S}, 0.5), 3) AS p50_s, "
        f"round(quantile_cont({_WHOLE_S}, 0.95), 3) AS p95_s FROM turns WHERE ended_at IS NOT NULL "
        f"AND {_RECENT.format('accepted_at')} GROUP BY day ORDER BY day",
        chart="line",
    ),
    Question(
        title="First text by day",
        about="Seconds from a turn's acceptance to the first piece of its answer.",
        sql="SELECT CAST(accepted_at AS DATE) AS day, round(quantile_cont(first_delta_ms / 1000, 0.5), 3) AS p50_s, "
        "round(quantile_cont(first_delta_ms / 1000, 0.95), 3) AS p95_s FROM turns WHERE first_delta_ms IS NOT NULL "
        f"AND {_RECENT.format('accepted_at')} GROUP BY day ORDER BY day",
        chart="line",
    ),
    Question(
        title="Latency by model",
        about="The same for each model.",
        sql=f"SELECT {_MODEL} AS model, round(quantile_cont({_WHOLE_S}, 0.5), 3) AS p50_s, "
        f"round(quantile_cont({_WHOLE_S}, 0.95), 3) AS p95_s FROM turns WHERE ended_at IS NOT NULL "
        f"AND {_RECENT.format('accepted_at')} GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20",
    ),
    Question(
        title="Cost by day",
        about="Tokens that models reported, history compactions included.",
        sql=f"SELECT CAST(recorded_at AS DATE) AS day, CAST(sum(input_tokens) AS BIGINT) AS input_tokens, "
        f"CAST(sum(output_tokens) AS BIGINT) AS output_tokens FROM usage WHERE {_RECENT.format('recorded_at')} "
        "GROUP BY day ORDER BY day",
        chart="line",
    ),
    Question(
        title="Money by day",
        about="What that cost by the prices that the materializer was given, in the currency of most of them.",
        sql="SELECT day, CAST(sum(cost) AS DOUBLE) AS cost, any_value(currency) AS currency FROM costs "
        "WHERE cost IS NOT NULL AND currency = (SELECT mode(currency) FROM costs) "
        f"AND {_RECENT.format('day')} GROUP BY day ORDER BY day",
    ),
    Question(
        title="Cost by model",
        about="The same for each model.",
        sql=f"SELECT {_MODEL} AS model, CAST(sum(input_tokens) AS BIGINT) AS input_tokens, "
        f"CAST(sum(output_tokens) AS BIGINT) AS output_tokens FROM usage WHERE {_RECENT.format('recorded_at')} "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20",
    ),
    Question(
        title="Tools",
        about="Calls, and those of them that ended in an error, were stopped, or of which nobody knows the outcome.",
        sql="SELECT name AS tool, count(*) AS calls, count(*) FILTER (outcome <> 'ok') AS failed "
        f"FROM tool_calls WHERE {_RECENT.format('recorded_at')} GROUP BY 1 ORDER BY calls DESC, 1 LIMIT 20",
    ),
    Question(
        title="History compaction",
        about="Histories that were compacted a day, and the tokens that models are spared at each later call.",
        sql=f"SELECT CAST(recorded_at AS DATE) AS day, count(*) FILTER (status = 'compacted') AS compacted, "
        "CAST(coalesce(sum(tokens_before - tokens_after) FILTER (status = 'compacted'), 0) AS BIGINT) AS tokens_saved "
        f"FROM history_compactions WHERE {_RECENT.format('recorded_at')} GROUP BY day ORDER BY day",
    ),
    Question(
        title="Failures",
        about="Turns that failed or were cancelled, by reason.",
        sql="SELECT coalesce(code, status) AS code, count(*) AS turns FROM turns "
        f"WHERE status IN ('failed', 'cancelled') AND {_RECENT.format('accepted_at')} "
        "GROUP BY 1 ORDER BY turns DESC, 1 LIMIT 20",
    ),
    Question(
        title="Newest failures",
        about="The last 20 of them.",
        sql="SELECT accepted_at, session_id, turn_id, model, code, reason FROM turns WHERE status = 'failed' "
        f"AND {_RECENT.format('accepted_at')} ORDER BY accepted_at DESC LIMIT 20",
        chart=None,
    ),
)
_TOTALS = (
    "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM turns), (SELECT count(*) FROM messages), "
    "(SELECT count(*) FROM turns WHERE status = 'failed'), (SELECT max(last_active_at) FROM sessions)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that a page shows."""

    totals: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]


def figures_of(snapshot: Path, days: int) -> Figures:
    """Ask everything, of one state of the snapshot. Blocks. Raises :class:`turnlog.errors.TurnlogError`."""
    names = ("sessions", "turns", "messages", "failed turns", "newest event")
    with open_snapshot(snapshot) as connection:
        (totals,) = run(connection, _TOTALS).rows
        figures = []
        for question in QUESTIONS:
            answer = run(connection, question.sql, [days], max_rows=_MAX_ROWS + days)
            rows = tuple(tuple(map(_cell, row)) for row in answer.rows)
            numeric = [_is_numeric(answer.rows, index) for index in range(len(answer.columns))]
            chart: Chart | str = ""
            if question.chart is not None:
                kind: Kind = question.chart if len(rows) >= _LEAST_OF_A_LINE else "bar"
                chart = chart_of(answer.columns, numeric, rows, kind=kind)
            figures.append(Figure(question=question, columns=answer.columns, rows=rows, chart=chart))
    shown = tuple((name, _cell(value) or "none") for name, value in zip(names, totals, strict=True))
    return Figures(totals=shown, figures=tuple(figures))


def _cell(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return value.isoformat() if isinstance(value, date) else str(value)


def _is_numeric(rows: list[tuple[object, ...]], index: int) -> bool:
    found = [row[index] for row in rows if row[index] is not None]
    return bool(found) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
