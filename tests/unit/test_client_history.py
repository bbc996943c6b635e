"""History compaction from the caller's side: the verb, its errors, and what the other verbs tell of it."""

import inspect
from collections.abc import Iterable

import pytest

from tests.scripted_owner import Owner
from tests.waiting import sends
from turnlog import (
    Client,
    HistoryCompaction,
    HistoryCompactionFailedError,
    HistoryPage,
    RequestRefusedError,
    RequestTimedOutError,
    SessionArchivedError,
    SessionBusyError,
    SessionNotFoundError,
    Settings,
    SyncClient,
    UsageError,
)
from turnlog_schemas import commands as cmd
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import HistoryEntry, NewSession, Usage, text_content

USAGE = Usage(input_tokens=900, output_tokens=80, model_calls=2, last_input_tokens=500)
DONE = fr.HistoryCompacted(
    summary="## Goal\nA refund.",
    from_seq=1,
    to_seq=40,
    changed=True,
    tokens_before=9000,
    tokens_after=2100,
    usage=USAGE,
)


def answering(monkeypatch: pytest.MonkeyPatch, *frames: fr.Frame) -> Owner:
    return Owner(lambda _: frames).instead_of_kafka(monkeypatch)


async def test_a_history_is_compacted_and_the_summary_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = answering(monkeypatch, DONE)
    done = await Client(Settings()).compact("web-1", instructions="Keep all amounts.", request_id="r1")
    assert done == HistoryCompaction(
        session_id="web-1",
        request_id="r1",
        summary="## Goal\nA refund.",
        from_seq=1,
        to_seq=40,
        changed=True,
        tokens_before=9000,
        tokens_after=2100,
        usage=USAGE,
    )
    ((header, command),) = owner.asked
    assert (header.session_id, header.channel, header.request_id) == ("web-1", None, "r1")
    assert command == cmd.CompactHistory(instructions="Keep all amounts.")
    with SyncClient(Settings()) as client:
        assert client.compact("web-1", request_id="r1") == done
    assert owner.commands[-1] == cmd.CompactHistory()


async def test_nothing_to_compact_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.HistoryCompacted(summary=""))
    done = await Client(Settings()).compact("web-1")
    assert (done.summary, done.from_seq, done.to_seq, done.changed) == ("", 0, 0, False)
    assert (done.tokens_before, done.tokens_after, done.usage) == (None, None, None)


async def test_a_run_that_fails_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.HistoryCompactionFailed(code="empty_summary", reason="the summary model wrote nothing"))
    with pytest.raises(HistoryCompactionFailedError, match=r"session web-1 .*as it was.*wrote nothing") as caught:
        await Client(Settings()).compact("web-1")
    assert (caught.value.code, caught.value.reason) == ("empty_summary", "the summary model wrote nothing")
    assert caught.value.exit_code == 1
    assert not isinstance(caught.value, RequestRefusedError)


@pytest.mark.parametrize(
    ("code", "error"),
    [("not_found", SessionNotFoundError), ("archived", SessionArchivedError), ("busy", SessionBusyError)],
)
async def test_a_refusal_is_an_error_of_its_code(
    monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception]
) -> None:
    answering(monkeypatch, fr.RequestRefused(code=code, reason="no"))
    with pytest.raises(error):
        await Client(Settings()).compact("web-1")


async def test_it_waits_longer_than_other_verbs_and_asks_again_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(verb: object, name: str) -> float:
        found: float = inspect.signature(verb).parameters[name].default  # type: ignore[arg-type]
        return found

    assert default(Client.compact, "timeout_s") >= default(Client.chat, "timeout_s") > default(Client.get, "timeout_s")
    assert default(Client.compact, "resend_after_s") == default(Client.chat, "resend_after_s")

    owner = answering(monkeypatch)
    client = Client(Settings(), resend_after_s=0.01)
    with pytest.raises(RequestTimedOutError, match=r"session web-1.*running turn.*model.*turnlog doctor"):
        await client.compact("web-1", timeout_s=0.2)
    assert len(owner.asked) == 1
    await sends(client.compact("web-1", timeout_s=60.0, resend_after_s=0.01), owner.asked, len(owner.asked) + 3)
    assert len(owner.asked) >= 4
    with pytest.raises(RequestTimedOutError) as caught:
        await client.get("web-1", timeout_s=0.05)
    assert "running turn" not in str(caught.value)


async def test_what_answers_something_else_is_not_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.SessionInfo(title="x"), fr.HistoryPage(messages=()), DONE)
    assert (await Client(Settings()).compact("web-1")).to_seq == 40


async def test_a_page_says_what_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(
        HistoryEntry(message_seq=seq, turn_id="t", role="user", content=text_content("Hi"), covered=seq <= 2)
        for seq in (1, 2, 3)
    )

    def answers(command: cmd.GetHistory) -> Iterable[fr.Frame]:
        shown = entries[2:] if command.skip_covered else entries
        yield fr.HistoryPage(messages=shown, covered_to=2, summary="They met." if command.skip_covered else None)

    owner = Owner(answers).instead_of_kafka(monkeypatch)
    client = Client(Settings())
    whole = await client.history("web-1")
    assert whole == HistoryPage(session_id="web-1", messages=entries, covered_to=2)
    assert [message.covered for message in whole.messages] == [True, True, False]
    short = await client.history("web-1", limit=7, skip_covered=True)
    assert short == HistoryPage(session_id="web-1", messages=entries[2:], covered_to=2, summary="They met.")
    assert owner.commands == [cmd.GetHistory(), cmd.GetHistory(limit=7, skip_covered=True)]
    assert [message async for message in client.messages("web-1")] == list(entries)


async def test_a_session_says_how_large_its_history_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, fr.SessionInfo(title="T", context_tokens=81_000, needs_compaction=True))
    info = await Client(Settings()).get("web-1")
    assert (info.title, info.context_tokens, info.needs_compaction) == ("T", 81_000, True)
    answering(monkeypatch, fr.SessionInfo())
    info = await Client(Settings()).active("web")
    assert (info.context_tokens, info.needs_compaction) == (None, None)


@pytest.mark.parametrize("verb", ["create", "resolve", "rotate"])
async def test_a_new_session_has_bounds_of_its_own(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    owner = answering(monkeypatch, fr.SessionInfo())
    ask = getattr(Client(Settings()), verb)
    await ask("web", title="T", history_max_tokens=-1, history_keep_tail=4)
    await ask("web", history_keep_tail=0)
    await ask("web", history_max_tokens=0)
    await ask("web", metadata={})
    assert [command.new_session for command in owner.commands] == [
        NewSession(title="T", history_max_tokens=-1, history_keep_tail=4),
        NewSession(history_keep_tail=0),
        NewSession(history_max_tokens=0),
        None,
    ]


async def test_a_number_that_no_record_holds_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = answering(monkeypatch, fr.SessionInfo())
    with pytest.raises(UsageError, match=r"channel web .*64 bits"):
        await Client(Settings()).create("web", history_max_tokens=2**63)
    assert owner.asked == []
