"""A session's side of its lifecycle: how it begins, what its channel tells it, what it tells its channel."""

import pytest

from tests.files import FILE, TAKES_FILES
from tests.given import Scenario, archive, chat, complete, given, receipt, running, told
from turnlog_schemas import events as ev
from turnlog_schemas.frames import SessionInfo
from turnlog_schemas.parts import NewSession, text_content
from turnlog_streams.facts import Fact
from turnlog_streams.reply_frames import replies_to
from turnlog_streams.session.membership import refuses

STARTED = (ev.TurnStarted, ev.MessageStored)
HEARD = ev.ForwardReceived


def created(title: str | None = None) -> Scenario:
    """A session that its channel opened."""
    new = NewSession(title=title, instructions="Be brief.", model="echo:loud", metadata={"tenant": "7"})
    return given().when(told("created", 1, new=new, origin="r-create"))


def inactive() -> Scenario:
    """A session that heard that another one is active."""
    return created("A").when(told("deactivated", 2)).then_types(HEARD, ev.SessionDeactivated)


def test_the_channel_opens_it() -> None:
    scenario = created("Refund")
    scenario.then(
        Fact(
            event=ev.SessionCreated(
                new_session=NewSession(
                    channel="web",
                    title="Refund",
                    instructions="Be brief.",
                    model="echo:loud",
                    metadata={"tenant": "7"},
                ),
                request_id="r-create",
            )
        ),
        Fact(event=HEARD(source_kind="channel", source_id="web", seq=1)),
    )
    assert scenario.session.active
    assert dict(scenario.session.marks.known) == {"channel:web": 1}
    assert not scenario.session.outbox


def test_a_chat_to_it_starts_at_once_by_its_settings_and_tells_nobody() -> None:
    scenario = created("Refund").when(chat()).then_types(ev.TurnAccepted, *STARTED)
    assert scenario.session.turns["t1"].model == "echo:loud"


def test_its_first_message_gives_it_a_title_if_it_has_none() -> None:
    scenario = created().when(chat(text="What is a log?"))
    scenario.then_types(ev.SessionTitled, ev.TurnAccepted, *STARTED)
    assert scenario.session.title == "What is a log?"
    scenario.when(complete()).when(chat("2", text="And now?")).then_types(ev.TurnAccepted, *STARTED)


def test_a_message_without_text_gives_no_title() -> None:
    scenario = created().under(TAKES_FILES).when(chat(content=(FILE,)))
    scenario.then_types(ev.TurnAccepted, *STARTED)
    scenario.when(chat("2", text="Look")).then_types(ev.SessionTitled, ev.TurnAccepted)


def test_a_chat_came_first_and_the_channel_opens_it_too() -> None:
    scenario = running().when(told("created", 1, new=NewSession(title="Other"))).then_types(HEARD)
    assert scenario.session.title == "Hi"


@pytest.mark.parametrize("what", ["created", "archived", "activated", "deactivated"])
def test_what_was_heard_before_adds_nothing(what: str) -> None:
    scenario = created("A").when(told("deactivated", 4)).when(told(what, 4)).then_nothing()
    scenario.when(told(what, 3)).then_nothing()


@pytest.mark.parametrize("what", ["archived", "activated", "deactivated", "something newer"])
def test_a_session_that_is_not_there_hears_nothing(what: str) -> None:
    given().when(told(what, 1)).then_nothing()


def test_what_a_newer_channel_tells_is_only_marked() -> None:
    created("A").when(told("something newer", 2)).then_types(HEARD)


@pytest.mark.parametrize("what", ["archived", "activated", "deactivated"])
def test_only_its_own_channel_decides(what: str) -> None:
    new = NewSession(channel="support")
    scenario = given().when(chat(new_session=new)).when(told("created", 1)).then_types(HEARD)
    assert refuses(scenario.session, told("created", 1))
    assert not refuses(created().session, told("created", 1))
    scenario.when(told(what, 2)).then_types(HEARD)
    assert (scenario.session.channel, scenario.session.active, scenario.session.archived) == ("support", True, False)


def test_a_chat_to_a_session_that_is_not_the_active_one_is_as_any_other() -> None:
    inactive().when(chat()).then_types(ev.TurnAccepted, *STARTED)


def test_active_again() -> None:
    scenario = inactive().when(told("activated", 3)).then_types(HEARD, ev.SessionActivated)
    scenario.when(chat()).then_types(ev.TurnAccepted, *STARTED)
    scenario.when(told("activated", 4)).then_types(HEARD)


def test_a_receipt_of_nothing_adds_nothing() -> None:
    given().when(receipt(1)).then_nothing()
    running().when(receipt(2)).then_nothing()


def test_nothing_un_archives_it() -> None:
    scenario = created("A").when(told("archived", 2)).then_types(HEARD, ev.SessionArchived)
    for seq, what in enumerate(("archived", "activated", "created", "deactivated"), 3):
        scenario.when(told(what, seq))
        assert scenario.session.archived
    scenario.when(chat(content=text_content("Hi"))).then_refused("archived")


# ---- archived by its id


def test_a_session_of_no_channel_archives_itself_and_is_answered_at_once() -> None:
    scenario = given().when(chat()).when(chat("2")).when(archive())
    scenario.then_types(ev.SessionArchived, ev.TurnCancelled, ev.RequestDecided)
    assert (scenario.session.channel, scenario.session.archived, scenario.session.outbox) == (None, True, ())
    assert not scenario.session.waits
    scenario.when(archive()).then_nothing().when(archive("b")).then_types(ev.RequestDecided)
    scenario.when(chat("3")).then_refused("archived")


def test_a_session_of_a_channel_tells_it_and_is_answered_when_it_has_heard() -> None:
    scenario = created("A").when(archive()).then_types(ev.SessionArchived, ev.CommandForwarded, ev.RequestDecided)
    (forward,) = scenario.session.outbox
    assert (forward.target_kind, forward.target_id, forward.what) == ("channel", "web", "archived")
    scenario.when(archive("b")).then_types(ev.RequestDecided)
    assert set(scenario.session.waits) == {"ra", "rb"}
    before = scenario.session
    scenario.when(receipt(1)).then_types(ev.ForwardDelivered)
    assert not scenario.session.waits
    replies = replies_to(before, scenario.facts[0], [])
    assert [(reply.request_id, reply.channel) for reply in replies] == [("ra", "web"), ("rb", "web")]
    assert all(isinstance(reply.frame, SessionInfo) and reply.frame.archived for reply in replies)
    scenario.when(told("archived", 7)).then_types(HEARD)


def test_a_session_that_its_channel_archived_is_not_archived_again() -> None:
    scenario = created("A").when(told("archived", 2)).when(archive()).then_types(ev.RequestDecided)
    assert not scenario.session.waits


def test_a_session_that_is_not_there_is_not_archived() -> None:
    given().when(archive()).then_refused("not_found")


def test_an_id_that_was_used_for_something_else_archives_nothing() -> None:
    scenario = given().when(chat("a", command_hash="h-other")).when(archive()).then_refused("conflict")
    assert not scenario.session.archived
