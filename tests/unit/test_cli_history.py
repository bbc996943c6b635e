"""``turnlog sessions history`` and ``compact``, and what other verbs tell of it, with an owner that is a function."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.scripted_owner import Owner
from turnlog.cli.app import app
from turnlog_schemas import commands as cmd
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import HistoryEntry, NewSession, Usage, text_content

SUMMARY = "## Goal\nA refund\x1b[2J."
DONE = fr.HistoryCompacted(
    summary=SUMMARY,
    from_seq=1,
    to_seq=40,
    changed=True,
    tokens_before=9000,
    tokens_after=2100,
    usage=Usage(input_tokens=900, output_tokens=80, model_calls=2),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sessions", *arguments])
    return result.exit_code, result.stdout, result.stderr


def answering(monkeypatch: pytest.MonkeyPatch, *frames: fr.Frame) -> Owner:
    return Owner(lambda _: frames).instead_of_kafka(monkeypatch)


# ---- compact


def test_the_summary_is_data_and_what_it_covers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = answering(monkeypatch, DONE)
    assert run("compact", "web-1", "--instructions", "Keep amounts.", "--request-id", "r1") == (
        0,
        "## Goal\nA refund\u241b[2J.\n",
        "this summary covers messages 1 to 40; about 9,000 tokens became 2,100\n",
    )
    ((header, command),) = owner.asked
    assert (header.session_id, header.request_id) == ("web-1", "r1")
    assert command == cmd.CompactHistory(instructions="Keep amounts.")


def test_a_summary_that_was_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.HistoryCompacted(summary="They met.", from_seq=1, to_seq=4))
    code, out, err = run("compact", "web-1")
    assert (code, out) == (0, "They met.\n")
    assert err == "this summary covers messages 1 to 4, and already existed: nothing to add\n"


def test_nothing_to_compact_is_0_and_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.HistoryCompacted(summary=""))
    code, out, err = run("compact", "web-1")
    assert (code, out) == (0, "")
    assert err.startswith("nothing to compact: ")


def test_as_json_it_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, DONE)
    code, out, err = run("compact", "web-1", "--request-id", "r1", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    document = json.loads(out)
    usage = document.pop("usage")
    assert document == {
        "session_id": "web-1",
        "request_id": "r1",
        "summary": SUMMARY,
        "from_seq": 1,
        "to_seq": 40,
        "changed": True,
        "tokens_before": 9000,
        "tokens_after": 2100,
    }
    assert (usage["input_tokens"], usage["output_tokens"], usage["model_calls"]) == (900, 80, 2)


@pytest.mark.parametrize(
    ("frame", "code", "words"),
    [
        (fr.HistoryCompactionFailed(code="empty_summary", reason="it wrote nothing"), 1, "empty_summary"),
        (fr.RequestRefused(code="busy", reason="10 wait"), 5, "busy"),
        (fr.RequestRefused(code="not_found", reason="nobody"), 4, "not_found"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, frame: fr.Frame, code: int, words: str
) -> None:
    answering(monkeypatch, frame)
    for options in ((), ("--json",)):
        found, out, err = run("compact", "web-1", *options)
        assert (found, out, err.count("\n")) == (code, "", 1)
        assert err.startswith("turnlog: ")
        assert words in err


def test_silence_is_6(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    code, out, err = run("compact", "web-1", "--timeout-s", "0.05")
    assert (code, out) == (6, "")
    assert "running turn" in err


# ---- history


def entry(seq: int, *, covered: bool = False) -> HistoryEntry:
    return HistoryEntry(message_seq=seq, turn_id="t", role="user", content=text_content(f"n{seq}"), covered=covered)


def owner_of(monkeypatch: pytest.MonkeyPatch, *, count: int, covered_to: int, page: int = 1000) -> Owner:
    """It has so many messages, and gives so many of them at a time."""

    def answers(command: cmd.GetHistory) -> Iterable[fr.Frame]:
        first = max(command.after, covered_to if command.skip_covered else 0) + 1
        last = min(first + min(command.limit, page) - 1, count)
        yield fr.HistoryPage(
            messages=tuple(entry(seq, covered=seq <= covered_to) for seq in range(first, last + 1)),
            next_after=last if last < count else None,
            covered_to=covered_to,
            summary="They met." if command.skip_covered and covered_to else None,
        )

    return Owner(answers).instead_of_kafka(monkeypatch)


def test_covered_messages_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    owner_of(monkeypatch, count=3, covered_to=2)
    assert run("history", "web-1") == (0, "\n1 user [covered]\n  n1\n\n2 user [covered]\n  n2\n\n3 user\n  n3\n", "")
    document = json.loads(run("history", "web-1", "--json")[1])
    assert [message["covered"] for message in document["messages"]] == [True, True, False]
    assert (document["covered_to"], document["summary"], document["next_after"]) == (2, None, None)


def test_the_summary_stands_in_the_place_of_what_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = owner_of(monkeypatch, count=4, covered_to=2)
    code, out, err = run("history", "web-1", "--skip-covered")
    assert (code, err) == (0, "")
    head, _, rest = out.partition("\n  They met.\n")
    assert head == "\nsummary of the messages up to 2: what models see of them"
    assert rest == "\n3 user\n  n3\n\n4 user\n  n4\n"
    assert all(command.skip_covered for command in owner.commands)
    assert run("history", "web-1", "--skip-covered", "--after", "3")[1] == "\n4 user\n  n4\n"
    document = json.loads(run("history", "web-1", "--skip-covered", "--json")[1])
    assert [message["message_seq"] for message in document["messages"]] == [3, 4]
    assert (document["covered_to"], document["summary"]) == (2, "They met.")


def test_without_a_summary_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    owner_of(monkeypatch, count=1, covered_to=0)
    assert run("history", "web-1", "--skip-covered") == (0, "\n1 user\n  n1\n", "")


def test_pages_are_put_together_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    owner_of(monkeypatch, count=9, covered_to=3, page=2)

    def numbers(*options: str) -> list[int]:
        document = json.loads(run("history", "web-1", "--json", *options)[1])
        return [message["message_seq"] for message in document["messages"]]

    assert numbers("--limit", "0") == list(range(1, 10))
    assert numbers("--limit", "5") == [1, 2, 3, 4, 5]
    assert numbers("--limit", "0", "--skip-covered") == [4, 5, 6, 7, 8, 9]
    assert numbers("--limit", "3", "--skip-covered") == [4, 5, 6]


def test_a_summary_that_comes_between_two_pages_leaves_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = iter(
        [
            fr.HistoryPage(messages=(entry(3), entry(4)), next_after=4, covered_to=2, summary="two"),
            fr.HistoryPage(messages=(entry(8), entry(9)), covered_to=7, summary="seven"),
        ]
    )
    Owner(lambda _: [next(pages)]).instead_of_kafka(monkeypatch)
    document = json.loads(run("history", "web-1", "--skip-covered", "--json")[1])
    assert (document["covered_to"], document["summary"]) == (7, "seven")
    assert [message["message_seq"] for message in document["messages"]] == [8, 9]


# ---- sessions


def test_a_session_says_how_large_its_history_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.SessionInfo(context_tokens=81_000, needs_compaction=True))
    assert {"context tokens: 81000", "needs compaction: yes"} <= set(run("get", "web-1")[1].splitlines())
    document = json.loads(run("get", "web-1", "--json")[1])
    assert (document["context_tokens"], document["needs_compaction"]) == (81_000, True)


@pytest.mark.parametrize("verb", ["create", "resolve", "rotate"])
def test_a_new_session_has_bounds_of_its_own(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    owner = answering(monkeypatch, fr.SessionInfo())
    assert run(verb, "web", "--history-max-tokens", "-1", "--history-keep-tail", "0")[0] == 0
    assert run(verb, "web")[0] == 0
    assert [command.new_session for command in owner.commands] == [
        NewSession(history_max_tokens=-1, history_keep_tail=0),
        None,
    ]
    assert run(verb, "web", "--history-keep-tail", "-1")[0] == 2
