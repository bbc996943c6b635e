"""The pages' endpoints: read what a page needs, and make it. They change nothing."""

import re
import uuid
from urllib.parse import urlencode

from starlette.responses import Response

from turnlog.errors import NotFoundError, TurnlogError
from turnlog.serve.console import pages
from turnlog.serve.console.answers import error_envelope, html, only_everywhere, reading, static, who
from turnlog.serve.console.filters import PAGE, read_filters
from turnlog.serve.console.log_view import read_dead_letters, read_events, read_topology
from turnlog.serve.console.saved_queries import saved
from turnlog.serve.console.shared import Console, published
from turnlog.serve.console.sql_answer import MAX_STATEMENT_CHARS, Answer, channels, tables
from turnlog.serve.console.transcripts import Transcript, read_transcript
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import not_found
from turnlog.snapshot.listing import SessionList, list_sessions

_NOTHING = SessionList(sessions=(), total=0, next_after=None, snapshot_age_s=0.0)
_NO_SNAPSHOT = "There is no snapshot yet. It comes within seconds of the first event, while the materializer runs."
_DONE = {
    "sent": "Sent. The answer appears below as it is generated.",
    "cancelled": "The turn is cancelled.",
    "compacted": "The history is compacted.",
    "compacting": "The history is being compacted: the summary appears here when it is there.",
    "unchanged": "There is nothing to summarise that the newest summary does not say.",
    "archived": "The session is archived.",
    "saved": "The query is saved.",
    "deleted": "The saved query is deleted.",
}
_CATCH_UP_MS = 15_000  #: what is told again from before the snapshot's time: clocks and publication take some


def new_request_id() -> str:
    """Of a form: sent twice, it is one request."""
    return f"console-{uuid.uuid4().hex}"


async def sessions(call: Call, *, problems: tuple[str, ...] = (), status: int = 200) -> Response:
    """The list of sessions."""
    filters = read_filters(call.request.query_params.multi_items())
    path, prefix = call.gateway.settings.snapshot, call.caller.namespace
    seen = published(path)  # before it is read: a newer one is told of
    names: list[str] = []
    try:
        found = await reading(list_sessions, path, filters.which(prefix), after=filters.after or None, limit=PAGE)
        names = await reading(channels, path, prefix)
    except NotFoundError:
        found, problems = _NOTHING, (*problems, _NO_SNAPSHOT)
    page = pages.sessions_page(
        who(call),
        filters,
        found,
        channels=names,
        live=f"/console/live/sessions?seen={seen}",
        request_id=new_request_id(),
        new_id=f"{prefix}console-{uuid.uuid4().hex[:8]}",
        fragment="fragment" in call.request.query_params,
        problems=problems,
    )
    return html(page, status=status)


async def session(call: Call, *, problems: tuple[str, ...] = (), status: int = 200) -> Response:
    """A transcript."""
    session_id = call.session()
    path = call.gateway.settings.snapshot
    before = _number(call, "before", 0, 2**62)
    try:
        transcript = await reading(read_transcript, path, session_id, before=before)
    except NotFoundError:
        transcript = await _unmaterialized(call, session_id)
    place = urlencode({"since": _since(transcript), "seen": transcript.session["last_offset"]})
    live = f"/console/live{pages.address_of(session_id).removeprefix('/console')}?{place}"
    page = pages.session_page(
        who(call),
        transcript,
        live=live if before is None else "",
        request_id=new_request_id(),
        done=_DONE.get(call.request.query_params.get("done", ""), ""),
        fragment="fragment" in call.request.query_params,
        problems=problems,
    )
    return html(page, status=status)


async def _unmaterialized(call: Call, session_id: str) -> Transcript:
    """A session that the snapshot does not have yet, as its owner knows it. Raises :class:`SessionNotFoundError`."""
    info = await call.gateway.client.get(session_id, timeout_s=10.0)
    return Console.of(call.gateway).unmaterialized(info)


def _since(transcript: Transcript) -> int:
    """From when on the replies may tell what this page does not show, milliseconds since 1970."""
    now_ms = Console.now_ms()
    open_since = [turn.accepted_at.timestamp() * 1000 for turn in transcript.turns if turn.open]
    return int(min(open_since, default=now_ms - transcript.snapshot_age_s * 1000)) - _CATCH_UP_MS


def _number(call: Call, name: str, low: int, high: int) -> int | None:
    text = call.request.query_params.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) and low <= int(text) <= high else None


async def events(call: Call) -> Response:
    """The events of a session."""
    session_id = call.session()
    after = _number(call, "after", 0, 2**62)
    kind = call.request.query_params.get("type", "")[:100] or None
    page = await reading(
        read_events, call.gateway.settings.snapshot, session_id, after=-1 if after is None else after, kind=kind
    )
    return html(pages.events_page(who(call), page, kind=kind))


async def record(call: Call) -> Response:
    """One record of the event log, from the topic."""
    session_id, offset = call.session(), call.request.path_params["offset"]
    if not re.fullmatch(r"[0-9]{1,18}", offset):
        raise not_found("this event")
    found = await Console.of(call.gateway).record(session_id, int(offset))
    return html(pages.record_page(who(call), session_id, found))


async def topology(call: Call) -> Response:
    """Partitions and owners."""
    only_everywhere(call)
    log_ends, request_ends = await Console.of(call.gateway).ends()
    found = await reading(read_topology, call.gateway.settings.snapshot, log_ends=log_ends, request_ends=request_ends)
    return html(pages.topology_page(who(call), found, ends_known=log_ends is not None))


async def dead_letters(call: Call) -> Response:
    """Requests that nobody can read."""
    only_everywhere(call)
    code = call.request.query_params.get("code", "")[:100] or None
    page = _number(call, "page", 0, 10_000) or 0
    found = await reading(read_dead_letters, call.gateway.settings.snapshot, page=page, code=code)
    return html(pages.dead_letters_page(who(call), found, code=code))


async def sql(call: Call, *, problems: tuple[str, ...] = (), status: int = 200) -> Response:
    """A statement and its answer."""
    only_everywhere(call)
    query = call.request.query_params
    statement = query.get("q", "").strip()[:MAX_STATEMENT_CHARS]
    kind = query.get("chart", "none")
    answer: Answer | None = None
    foreign = call.request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if statement and foreign:  # a link on somebody else's page must not make us work
        problems = (*problems, "A link of another site led here: press Run if you want to.")
    elif statement and not problems:
        try:
            answer = await Console.of(call.gateway).ask(statement)
        except TurnlogError as error:
            problems, status = (*problems, str(error)), 400
    queries, saved_problem = await saved(call.gateway)
    page = pages.sql_page(
        who(call),
        statement=statement,
        chart_kind=kind if kind in ("auto", "bar", "line") else "none",
        answer=answer,
        saved=queries,
        saved_problem=saved_problem,
        tables=await _tables(call),
        problems=problems,
        done=_DONE.get(query.get("done", ""), ""),
    )
    return html(page, status=status)


async def _tables(call: Call) -> list[str]:
    try:
        return await reading(tables, call.gateway.settings.snapshot)
    except NotFoundError:
        return []


ENDPOINTS = (
    Endpoint(path="/console/static/{name}", handler=static, public=True),
    Endpoint(path="/", handler=sessions, scopes=("read",), envelope=error_envelope),
    Endpoint(path="/console/sessions/{session_id}", handler=session, scopes=("read",), envelope=error_envelope),
    Endpoint(path="/console/sessions/{session_id}/events", handler=events, scopes=("read",), envelope=error_envelope),
    Endpoint(
        path="/console/sessions/{session_id}/events/{offset}",
        handler=record,
        scopes=("read",),
        envelope=error_envelope,
    ),
    Endpoint(path="/console/topology", handler=topology, scopes=("read",), envelope=error_envelope),
    Endpoint(path="/console/dead-letters", handler=dead_letters, scopes=("read",), envelope=error_envelope),
    Endpoint(path="/console/sql", handler=sql, scopes=("sql",), envelope=error_envelope),
)
