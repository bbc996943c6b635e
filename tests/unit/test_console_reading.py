"""What the console reads of a snapshot: sessions by filters, a transcript, events, partitions, dead letters."""

from pathlib import Path

import pytest

from tests.console_snapshot import make_snapshot
from turnlog.errors import NotFoundError
from turnlog.serve.console import log_view, transcripts
from turnlog.serve.console.filters import Filters, read_filters
from turnlog.serve.console.log_view import read_dead_letters, read_events, read_topology
from turnlog.serve.console.transcripts import read_transcript
from turnlog.snapshot.listing import list_sessions


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("console") / "snapshot.duckdb")


def found(snapshot: Path, query: list[tuple[str, str]], prefix: str = "") -> list[str]:
    filters = read_filters(query)
    assert filters.problems == ()
    return [each.session_id for each in list_sessions(snapshot, filters.which(prefix)).sessions]


def test_an_address_s_filters_find_sessions_newest_first(snapshot: Path) -> None:
    shop = [f"shop-{number}" for number in range(5)]
    assert found(snapshot, []) == ["web-1", "mail-2", "mail-4", *shop, "odd-1"]
    assert found(snapshot, [("channel", "mail")]) == ["mail-2", "mail-4"]
    assert found(snapshot, [("state", "running")]) == ["web-1"]
    assert found(snapshot, [("state", "waiting")]) == ["mail-4"]
    assert found(snapshot, [("state", "idle")]) == ["mail-2", *shop, "odd-1"]
    assert found(snapshot, [("state", "failed")]) == ["web-1"]
    assert found(snapshot, [("state", "archived")]) == ["mail-3"]
    assert found(snapshot, [("metadata", "customer=17")]) == ["web-1"]
    assert found(snapshot, [("text", "ON ITS WAY")]) == ["web-1"], "of a message, whatever the case"
    assert found(snapshot, [("text", "quiet")]) == ["mail-2"], "of a title"
    assert found(snapshot, [("text", "mail-4")]) == ["mail-4"], "of an id"
    assert found(snapshot, [("text", "o'clock % _")]) == []
    assert found(snapshot, [], prefix="mail-") == ["mail-2", "mail-4"]


def test_filters_survive_their_address() -> None:
    from urllib.parse import parse_qsl

    filters = Filters(channel="web", state="idle", metadata={"a": "1", "b": "x y&z"}, text="ä=1")
    assert read_filters(parse_qsl(filters.query(after="k"))) == Filters(
        channel="web", state="idle", metadata={"a": "1", "b": "x y&z"}, text="ä=1", after="k"
    )
    wrong = read_filters([("state", "nonsense"), ("metadata", "novalue, a=1"), ("more", "x")])
    assert wrong.metadata == {"a": "1"}
    assert len(wrong.problems) == 2


def test_a_transcript_folds_calls_and_puts_summaries_where_they_stand(snapshot: Path) -> None:
    page = read_transcript(snapshot, "web-1")
    assert [turn.turn_id for turn in page.turns] == ["t-0-3", "t-0-8", "t-0-9"]
    first, failed, running = page.turns
    assert [message.message_seq for message in first.messages] == [1, 2, 4], "the result is with its call"
    (call,) = first.messages[1].calls
    assert (call.name, call.outcome, call.result and call.result.text) == ("lookup", "ok", "on its way")
    assert [summary.to_seq for summary in first.summaries] == [3]
    assert (first.waited_ms, first.duration_ms, first.input_tokens, first.model_calls) == (120, 1880, 1200, 2)
    assert (failed.code, failed.open) == ("turn_timeout", False)
    assert running.open
    assert running.question.text == "And now?"
    with pytest.raises(NotFoundError):
        read_transcript(snapshot, "nowhere")


def test_a_transcript_has_pages(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "TURNS_PER_PAGE", 2)
    newest = read_transcript(snapshot, "web-1")
    assert [turn.turn_id for turn in newest.turns] == ["t-0-8", "t-0-9"]
    assert [summary.to_seq for summary in newest.first_summaries] == [3], "it stands for what is not shown"
    older = read_transcript(snapshot, "web-1", before=newest.before)
    assert [turn.turn_id for turn in older.turns] == ["t-0-3"]
    assert older.before is None
    assert [summary.to_seq for summary in older.turns[0].summaries] == [3]
    assert older.first_summaries == ()


def test_a_long_text_is_cut_and_says_so(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "MAX_SHOWN_CHARS", 5)
    message = read_transcript(snapshot, "web-1").turns[0].messages[0]
    assert (message.content.text, message.content.chars, message.content.cut) == ("Where", 14, True)


def test_events_of_a_session(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_view, "EVENTS_PER_PAGE", 2)
    page = read_events(snapshot, "web-1")
    assert [(event.log_offset, event.type) for event in page.events] == [(2, "SessionCreated"), (3, "TurnAccepted")]
    assert (page.total, page.next_after) == (3, 3)
    assert '"request_id": "r2"' in page.events[0].body
    rest = read_events(snapshot, "web-1", after=3)
    assert [event.type for event in rest.events] == ["MessageStored"]
    assert rest.next_after is None
    assert [event.log_offset for event in read_events(snapshot, "web-1", kind="TurnAccepted").events] == [3]


def test_topology_tells_owners_epochs_and_lags(snapshot: Path) -> None:
    topology = read_topology(snapshot, log_ends={0: 104, 1: 100, 2: 100}, request_ends={0: 41, 1: 50, 2: 10})
    first = topology.partitions[0]
    assert (first.owner, first.epoch, first.generation, first.sessions) == ("worker-0", 1, 3, 10)
    assert [row.behind for row in topology.partitions] == [4, 0, 0]
    assert [row.undecided for row in topology.partitions] == [0, 9, 0]
    unknown = read_topology(snapshot, log_ends=None, request_ends=None).partitions[0]
    assert (unknown.behind, unknown.undecided) == (None, None)


def test_dead_letters(snapshot: Path) -> None:
    page = read_dead_letters(snapshot, code="undecodable")
    (letter,) = page.letters
    assert (letter.partition, letter.request_offset, letter.value, letter.size) == (1, 7, "\\xff<b>", 4)
    assert page.total == 1
    assert read_dead_letters(snapshot).total > 20
