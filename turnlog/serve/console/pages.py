"""Pages as functions of data: what was read goes in, HTML comes out. Everything is escaped unless it was cleaned."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from turnlog.serve.console.filters import Filters
from turnlog.serve.console.log_view import DeadLetterPage, EventPage, Topology
from turnlog.serve.console.markdown import to_html
from turnlog.serve.console.records import LogRecord
from turnlog.serve.console.sql_answer import BOUNDS, Answer
from turnlog.serve.console.transcripts import MAX_SHOWN_CHARS, ShownMessage, ShownTurn, Transcript
from turnlog.snapshot import charts
from turnlog.snapshot.listing import STATES, ListedSession, SessionList

FOLDER = Path(__file__).parent
_ROLES = ("user", "assistant", "tool", "system")
_PLACES = (
    {"name": "sessions", "href": "/", "label": "Sessions"},
    {"name": "topology", "href": "/console/topology", "label": "Topology"},
    {"name": "dead-letters", "href": "/console/dead-letters", "label": "Dead letters"},
    {"name": "sql", "href": "/console/sql", "label": "SQL"},
)
_CHARTS = (("none", "none"), ("auto", "as it suits"), ("bar", "bars"), ("line", "lines"))
EXAMPLES = (
    (
        "turns by hour",
        "SELECT date_trunc('hour', accepted_at) AS hour, count(*) AS turns FROM turns GROUP BY 1 ORDER BY 1",
    ),
    (
        "tokens by model",
        "SELECT model, sum(input_tokens) AS tokens_in, sum(output_tokens) AS tokens_out FROM usage GROUP BY 1",
    ),
    (
        "slowest turns",
        "SELECT turn_id, duration_ms FROM turns WHERE duration_ms IS NOT NULL ORDER BY 2 DESC LIMIT 30",
    ),
    ("tools", "SELECT name, count(*) AS calls FROM tool_calls GROUP BY 1 ORDER BY 2 DESC"),
    ("failures", "SELECT code, count(*) AS turns FROM turns WHERE status = 'failed' GROUP BY 1 ORDER BY 2 DESC"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who looks at the page, as far as pages depend on it. ``token`` goes back with every form."""

    token: str = ""
    may_chat: bool = False
    may_admin: bool = False
    may_sql: bool = False
    everywhere: bool = True  #: not bound to a namespace of sessions


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "markdown": lambda text: Markup(to_html(text)),
        "pretty": _pretty,
        "role": lambda role: role if role in _ROLES else "other",
        "states": states,
        "row_states": row_states,
    }
    return made


def _pretty(text: str | None) -> str:
    """JSON indented, anything else as it is."""
    if text is None or len(text) >= MAX_SHOWN_CHARS:
        return text or ""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def states(session: ListedSession) -> list[str]:
    """The words that say where a session stands."""
    ended = session.completed_turns + session.failed_turns + session.cancelled_turns
    word = "running" if session.running_turn_id else "waiting" if session.turns > ended else "idle"
    return [word, *(["failed turns"] if session.failed_turns else []), *(["archived"] if session.archived else [])]


def row_states(row: Mapping[str, Any]) -> list[str]:
    """The same, of a row of the table."""
    ended = row["completed_turns"] + row["failed_turns"] + row["cancelled_turns"]
    word = "running" if row["running_turn_id"] else "waiting" if row["turns"] > ended else "idle"
    return [word, *(["archived"] if row["archived"] else [])]


def address_of(session_id: str) -> str:
    """Where the console shows a session."""
    return f"/console/sessions/{quote(session_id, safe='')}"


def _render(template: str, who: Who, *, title: str, here: str = "", **values: Any) -> str:
    places = [place for place in _PLACES if _allowed(place["name"], who)]
    field = Markup('<input type="hidden" name="token" value="{}">').format(who.token)
    context: dict[str, Any] = {
        "title": title,
        "here": here,
        "places": places,
        "who": who,
        "token_field": lambda: field,
        "snapshot_age_s": None,
        "problems": (),
        "done": "",
        **values,
    }
    return _environment().get_template(template).render(context)


def _allowed(place: str, who: Who) -> bool:
    if place == "sql":
        return who.may_sql
    return who.everywhere or place == "sessions"


def sessions_page(
    who: Who,
    filters: Filters,
    found: SessionList,
    *,
    channels: Sequence[str] = (),
    live: str = "",
    request_id: str = "",
    new_id: str = "",
    fragment: bool = False,
    problems: Sequence[str] = (),
) -> str:
    """The list of sessions; with ``fragment`` only what changes while somebody looks."""
    return _render(
        "_sessions.html" if fragment else "sessions.html",
        who,
        title="Sessions",
        here="sessions",
        filters=filters,
        found=found,
        channels=channels,
        live=live,
        states=STATES,
        request_id=request_id,
        new_id=new_id,
        snapshot_age_s=found.snapshot_age_s,
        problems=[*filters.problems, *problems],
    )


def session_page(
    who: Who,
    transcript: Transcript,
    *,
    live: str,
    request_id: str = "",
    done: str = "",
    fragment: bool = False,
    problems: Sequence[str] = (),
) -> str:
    """A transcript. ``live``: the address of its stream of events."""
    session = transcript.session
    return _render(
        "_session.html" if fragment else "session.html",
        who,
        title=session["title"] or session["session_id"],
        here="sessions",
        session=session,
        transcript=transcript,
        address=address_of(session["session_id"]),
        live=live,
        request_id=request_id,
        snapshot_age_s=transcript.snapshot_age_s,
        done=done,
        problems=problems,
    )


def events_page(who: Who, page: EventPage, *, kind: str | None = None) -> str:
    """The events of a session."""
    return _render(
        "events.html",
        who,
        title=f"Events of {page.session_id}",
        here="sessions",
        page=page,
        kind=kind,
        address=address_of(page.session_id),
    )


def record_page(who: Who, session_id: str, record: LogRecord) -> str:
    """One record of the event log."""
    return _render(
        "record.html",
        who,
        title=f"Event {record.partition}@{record.offset}",
        here="sessions",
        record=record,
        address=address_of(session_id),
    )


def topology_page(who: Who, topology: Topology, *, ends_known: bool) -> str:
    """Partitions and owners."""
    return _render(
        "topology.html",
        who,
        title="Topology",
        here="topology",
        topology=topology,
        ends_known=ends_known,
        snapshot_age_s=topology.snapshot_age_s,
    )


def dead_letters_page(who: Who, page: DeadLetterPage, *, code: str | None) -> str:
    """Dead letters."""
    return _render("dead_letters.html", who, title="Dead letters", here="dead-letters", page=page, code=code)


def sql_page(
    who: Who,
    *,
    statement: str,
    chart_kind: str,
    answer: Answer | None,
    saved: Mapping[str, str],
    tables: Sequence[str],
    saved_problem: str = "",
    problems: Sequence[str] = (),
    done: str = "",
) -> str:
    """A statement, its answer, and a chart of it."""
    chart, note = "", ""
    if answer is not None and chart_kind != "none":
        kind: charts.Kind | None = "bar" if chart_kind == "bar" else "line" if chart_kind == "line" else None
        made = charts.chart_of(answer.columns, answer.numeric, answer.rows, kind=kind)
        chart, note = ("", made) if isinstance(made, str) else (Markup(charts.to_svg(made)), "")
    return _render(
        "sql.html",
        who,
        title="SQL",
        here="sql",
        statement=statement,
        kinds=_CHARTS,
        chart_kind=chart_kind,
        chart=chart,
        chart_note=note,
        answer=answer,
        saved=saved,
        saved_problem=saved_problem,
        tables=tables,
        examples=EXAMPLES,
        bounds=BOUNDS,
        problems=problems,
        done=done,
    )


def error_page(who: Who, title: str, sentence: str) -> str:
    """What went wrong."""
    return _render("error.html", who, title=title, sentence=sentence)


def message_html(message: ShownMessage) -> str:
    """A message, for a page that follows a turn."""
    module = _environment().get_template("_parts.html").module
    return str(module.message(message))  # type: ignore[attr-defined]


def cost_html(turn: ShownTurn) -> str:
    """What a turn cost and how it ended, for a page that follows it."""
    module = _environment().get_template("_parts.html").module
    return str(module.cost(turn))  # type: ignore[attr-defined]
