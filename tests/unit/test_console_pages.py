"""The console's pages: what they say, and that nothing of what strangers wrote becomes a part of them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.console_snapshot import make_snapshot, markers
from turnlog.client.replies import ReplyFrame
from turnlog.serve.console import pages
from turnlog.serve.console.filters import Filters, read_filters
from turnlog.serve.console.log_view import read_dead_letters, read_events, read_topology
from turnlog.serve.console.markdown import MAX_CHARS, to_html
from turnlog.serve.console.pages import Who
from turnlog.serve.console.records import LogRecord
from turnlog.serve.console.sql_answer import Answer
from turnlog.serve.console.transcripts import read_transcript
from turnlog.serve.console.turn_events import TurnEvents
from turnlog.snapshot import charts
from turnlog.snapshot.listing import list_sessions
from turnlog_schemas.frames import (
    FrameHeader,
    MessageStored,
    RequestRefused,
    TextDelta,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import NO_USAGE, ToolCall, text_content

EVERYTHING = Who(token="t", may_chat=True, may_admin=True, may_sql=True)
SCRIPT = "/console/static/console.js"
#: Nothing else may come into a page; forms, fields and buttons are the templates' own.
TAGS = set(
    re.findall(
        r"\w+",
        """html head meta title link script body header a span nav form button main p dialog h1 h2 dl dt dd kbd div
        table thead tbody tr th td label input datalist option select details summary textarea code pre time article br
        em strong s blockquote ul ol li hr h3 h4 h5 h6 aside figure svg line text rect polyline circle""",
    )
)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def assert_harmless(text: str) -> None:
    for tag, attributes in Page(text).tags:
        assert tag in TAGS | {"title"}, tag
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc", "formaction")]
        for name in ("href", "src", "action"):
            address = attributes.get(name)
            assert address is None or re.match(r"/|https?://|mailto:|[^:]*$", address), address
        if tag == "script":
            assert attributes == {"src": SCRIPT, "defer": None}
        if tag in ("meta", "link"):
            assert "http-equiv" not in attributes


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("console") / "snapshot.duckdb")


def session_page(snapshot: Path, session_id: str, who: Who = EVERYTHING, *, fragment: bool = False) -> str:
    return pages.session_page(
        who, read_transcript(snapshot, session_id), live="/console/live/sessions/x", fragment=fragment
    )


def test_a_session_s_page_tells_it_all(snapshot: Path) -> None:
    text = session_page(snapshot, "web-1")
    for part in (
        "Where is order 17?",
        "customer=17",
        "<strong>on its way</strong>",
        "lookup",
        "&#34;order&#34;: 17",
        "<em>order 17</em>",
        "Summary of the messages 1 to 3",
        "1,200 in, 80 out",
        "waited 120 ms",
        "took 1.9 s",
        "turn_timeout",
        "And now?",
        'action="/console/sessions/web-1/cancel"',
        'action="/console/sessions/web-1/archive"',
    ):
        assert part in text, part
    assert text.index("lookup") < text.index("Summary of the messages 1 to 3") < text.index("<strong>on its way")
    fragment = session_page(snapshot, "web-1", fragment=True)
    assert "<html" not in fragment
    assert 'data-turn="t-0-9" data-open="yes"' in fragment


def test_nobody_is_offered_what_a_key_may_not(snapshot: Path) -> None:
    text = session_page(snapshot, "web-1", Who())
    assert "<textarea" not in text
    assert 'method="post"' not in text
    assert "/console/sql" not in text
    bound = session_page(snapshot, "web-1", Who(everywhere=False))
    assert "/console/topology" not in bound


def every_page(snapshot: Path) -> dict[str, str]:
    hostile = tuple(markers())
    everything = " ".join(hostile)
    filters = read_filters(
        [
            ("text", hostile[6]),
            ("channel", hostile[0]),
            ("metadata", f"{hostile[1]}={hostile[6]}"),
            ("state", hostile[0]),
            ("after", hostile[6]),
        ]
    )
    answer = Answer(
        columns=(everything, everything),
        numeric=(False, True),
        rows=tuple((each, "1") for each in hostile),
        more=True,
        notes=hostile,
        took_ms=1,
    )
    record = LogRecord(
        topic="t",
        partition=0,
        offset=1,
        key=everything,
        size=1,
        headers=((everything, everything),),
        type=everything,
        event_header=everything,
        body=everything,
        problem=everything,
    )
    return {
        "sessions": pages.sessions_page(
            EVERYTHING, Filters(), list_sessions(snapshot, Filters().which()), channels=hostile
        ),
        "filtered": pages.sessions_page(
            EVERYTHING, filters, list_sessions(snapshot, Filters().which()), problems=hostile
        ),
        "session": session_page(snapshot, "odd-1"),
        "events": pages.events_page(EVERYTHING, read_events(snapshot, "odd-1"), kind=everything),
        "record": pages.record_page(EVERYTHING, "odd-1", record),
        "topology": pages.topology_page(
            EVERYTHING, read_topology(snapshot, log_ends=None, request_ends=None), ends_known=False
        ),
        "dead letters": pages.dead_letters_page(EVERYTHING, read_dead_letters(snapshot), code=everything),
        "sql": pages.sql_page(
            EVERYTHING,
            statement=everything,
            chart_kind="auto",
            answer=answer,
            saved=dict.fromkeys(hostile, everything),
            tables=hostile,
            saved_problem=everything,
            problems=hostile,
        ),
        "error": pages.error_page(EVERYTHING, everything, everything),
    }


def test_what_strangers_wrote_is_text_on_every_page(snapshot: Path) -> None:
    made = every_page(snapshot)
    for text in made.values():
        assert_harmless(text)
    assert "&lt;script&gt;window.ran0=1&lt;/script&gt;" in made["session"]
    assert "49" not in re.findall(r"\{\{ (.*?) \}\}", made["session"]), "a template in a text is text"
    with pytest.raises(AssertionError):
        assert_harmless("<p><img src=x onerror=x></p>")


def test_what_a_following_page_is_told_is_harmless() -> None:
    events = TurnEvents()
    for number, marker in enumerate(markers()):
        header = FrameHeader(session_id="s", request_id=f"r{number}", turn_id=marker, attempt=1, epoch=1)

        def told(frame: object, seq: int, header: FrameHeader = header) -> dict[str, object]:
            with_seq = FrameHeader(
                session_id="s", request_id=header.request_id, turn_id=header.turn_id, attempt=1, epoch=1, frame_seq=seq
            )
            found = events.of(ReplyFrame(header=with_seq, frame=frame, partition=0, offset=seq))  # type: ignore[arg-type]
            assert found is not None
            return found[1]

        told(TurnStarted(model=marker), 0)
        assert told(TextDelta(text=marker), 1)["text"] == marker, "the page puts it in as text"
        call = ToolCall(call_id=marker, name=marker, arguments=marker)
        stored = told(
            MessageStored(message_seq=1, role=marker, content=text_content(marker), tool_calls=(call,), name=marker), 2
        )
        assert_harmless(str(stored["html"]))
        ended = told(TurnFailed(code=marker, reason=marker, usage=NO_USAGE), 3)
        assert_harmless(str(ended["html"]))


def test_frames_count_once_in_what_a_following_page_is_told() -> None:
    events = TurnEvents()

    def told(frame: object, seq: int, attempt: int = 1) -> str | None:
        header = FrameHeader(session_id="s", request_id="r", turn_id="t", attempt=attempt, epoch=1, frame_seq=seq)
        found = events.of(ReplyFrame(header=header, frame=frame, partition=0, offset=seq))  # type: ignore[arg-type]
        return found and found[0]

    assert told(TurnStarted(model="m"), 0) == "started"
    assert told(TextDelta(text="a"), 1) == "delta"
    assert told(TextDelta(text="a"), 1) is None, "a duplicate"
    assert told(TurnStarted(model="m"), 0, attempt=2) == "started"
    assert told(TextDelta(text="b"), 2) is None, "of an attempt that is over"
    assert told(TurnCompleted(text="c", usage=NO_USAGE), 1, attempt=2) == "ended"
    assert told(TextDelta(text="d"), 9, attempt=2) is None
    refused = ReplyFrame(
        header=FrameHeader(session_id="s", request_id="r2"),
        frame=RequestRefused(code="busy", reason="x"),
        partition=0,
        offset=1,
    )
    assert events.of(refused) == ("refused", {"request": "r2", "code": "busy", "reason": "x"})


def test_markdown_is_laid_out_and_cleaned() -> None:
    assert to_html("**a** `b`\n\n- c") == "<p><strong>a</strong> <code>b</code></p>\n<ul>\n<li>c</li>\n</ul>\n"
    assert (
        to_html("[a](https://example.org)")
        == '<p><a href="https://example.org" rel="noopener noreferrer nofollow">a</a></p>\n'
    )
    assert "<th>a</th>" in to_html("| a |\n|---|\n| b |")
    assert to_html("<b>raw</b>") == "<p>&lt;b&gt;raw&lt;/b&gt;</p>\n"
    assert "<img" not in to_html("![x](https://example.org/a.png)")
    long = to_html("<" * (MAX_CHARS + 1))
    assert long.startswith("<pre>&lt;")
    for marker in markers():
        assert_harmless(to_html(marker))


def rows_of(values: list[tuple[str | None, str | None]]) -> charts.Chart | str:
    return charts.chart_of(("x", "y"), (False, True), values)


def test_a_chart_suits_its_first_column() -> None:
    named = rows_of([("a", "1"), ("b", None), ("c", "-3")])
    assert isinstance(named, charts.Chart)
    assert named.kind == "bar"
    assert named.series[0].values == (1.0, None, -3.0)
    timed = rows_of(
        [("2026-01-01T00:00:00+00:00", "1"), ("2026-01-01T03:00:00+00:00", "2"), ("2026-01-02T00:00:00+00:00", "2")]
    )
    assert isinstance(timed, charts.Chart)
    assert (timed.kind, timed.places) == ("line", (0.0, 0.125, 1.0))
    svg = charts.to_svg(timed)
    assert svg.count("<circle") == 3
    assert_harmless(svg)
    assert charts.to_svg(named).count("<title>") == 2


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "0")],
        [("a", "1e308"), ("b", "-1e308")],
        [("a", "1e-300")],
        [("a", "5"), ("b", "5")],
        [("a", "NaN"), ("b", "1")],
        [(None, "1")],
        [("x" * 500, "123456789012345678901234567890")],
    ],
)
def test_odd_numbers_are_drawn_within_the_picture(rows: list[tuple[str | None, str | None]]) -> None:
    chart = rows_of(rows)
    assert isinstance(chart, charts.Chart) or "hold none" in chart
    if isinstance(chart, charts.Chart):
        svg = charts.to_svg(chart)
        assert "nan" not in svg
        assert "inf" not in svg
        heights = [float(found) for found in re.findall(r' (?:y|height|y1)="([-\d.]+)"', svg)]
        assert all(-1 <= height <= charts.HEIGHT + 1 for height in heights)


def test_what_cannot_be_drawn_is_said() -> None:
    assert "first column" in str(charts.chart_of(("a",), (True,), [("1",)]))
    assert "no rows" in str(rows_of([]))
    assert "60 are the most" in str(rows_of([(str(n) + "x", "1") for n in range(61)]))
