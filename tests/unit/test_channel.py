"""What a channel decides, and how its requests are answered."""

from dataclasses import replace
from functools import partial

import pytest

from tests.given_channel import ChannelScenario, archive, create, from_session, lifecycle, resolve, rotate
from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import NewSession, ReplyAddress
from turnlog_streams.channel.commands import ChangeChannel
from turnlog_streams.channel.decide import channel_answer_needs, channel_needs
from turnlog_streams.channel.frames import active_reply, channel_replies_to, channel_reply_again
from turnlog_streams.channel.state import Channel, evolve_channel
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ReceiveReceipt, due
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.reply import Reply

REPLY = ReplyAddress(reply_to="chat.replies.me", framing="json", traceparent="00-1-2-01", tracestate="a=b")
NEW = NewSession(title="Refund", instructions="Be brief.", model="echo:loud", metadata={"tenant": "7"})
OPENED = (ev.ChannelSessionOpened, ev.CommandForwarded)


def two() -> ChannelScenario:
    """Sessions web-1 and web-2, the second is active, everybody has heard."""
    return ChannelScenario().when(create("1")).when(create("2")).delivered()


# ---- create, resolve, rotate


def test_create_opens_a_session_that_is_active_and_tells_it_all() -> None:
    scenario = ChannelScenario().when(create("1", new=NEW)).then_types(*OPENED, ev.RequestDecided)
    scenario.then_told(("web-1", "created")).then_decided("web-1", created=True)
    opened, forwarded, decided = (fact.event for fact in scenario.facts)
    assert opened == ev.ChannelSessionOpened(session_id="web-1", by="request", new_session=NEW)
    assert isinstance(forwarded, ev.CommandForwarded)
    assert (forwarded.seq, forwarded.new_session, forwarded.request_id_of_origin) == (1, NEW, "r1")
    assert isinstance(decided, ev.RequestDecided)
    assert decided.waits_for == (1,)
    assert scenario.channel.active == "web-1"


def test_the_id_may_be_given() -> None:
    scenario = ChannelScenario().when(create("1", "my own")).then_decided("my own", created=True)
    scenario.when(create("2", "my own")).then_refused("exists")


def test_a_made_up_id_is_free() -> None:
    ChannelScenario().when(create("1", "web-2")).when(create("2")).then_decided("web-2b", created=True)


def test_the_one_that_was_active_is_told() -> None:
    scenario = ChannelScenario().when(create("1")).when(create("2"))
    scenario.then_told(("web-2", "created"), ("web-1", "deactivated"))
    assert scenario.channel.active == "web-2"


def test_resolve_finds_the_active_session_or_opens_one() -> None:
    scenario = ChannelScenario().when(resolve("1")).then_decided("web-1", created=True).delivered()
    scenario.when(resolve("2")).then_types(ev.RequestDecided).then_decided("web-1", created=False)


def test_fifty_resolves_of_a_new_channel_give_one_session_and_each_waits_until_it_is_there() -> None:
    scenario = ChannelScenario()
    for number in range(50):
        scenario.when(resolve(str(number))).then_decided("web-0", created=number == 0)
    assert scenario.channel.session_count == 1
    assert len(scenario.channel.waits) == 50
    replies = channel_replies_to(scenario.channel, Fact(event=ev.ForwardDelivered(seq=1)))
    assert {reply.request_id for reply in replies} == {f"r{number}" for number in range(50)}
    assert not scenario.delivered().channel.waits


def test_rotate_archives_the_active_session_and_opens_another() -> None:
    scenario = ChannelScenario().when(create("1")).delivered().when(rotate("2"))
    scenario.then_types(ev.ChannelSessionArchived, ev.CommandForwarded, *OPENED, ev.RequestDecided)
    scenario.then_told(("web-1", "archived"), ("web-2", "created")).then_decided("web-2", created=True)
    assert scenario.rows.sessions["web-1"].archived
    assert scenario.channel.active == "web-2"


def test_rotate_of_an_empty_channel_opens_a_session() -> None:
    ChannelScenario().when(rotate("1")).then_told(("web-1", "created")).then_decided("web-1", created=True)


def test_rotate_leaves_the_others_alone() -> None:
    scenario = two().when(rotate("3")).then_told(("web-2", "archived"), ("web-3", "created"))
    assert not scenario.rows.sessions["web-1"].archived


@pytest.mark.parametrize(
    "command", [create("9", new=NewSession(model="gpt:9")), rotate("9", new=NewSession(model="x"))]
)
def test_a_model_that_is_not_allowed(command: ChangeChannel) -> None:
    scenario = two().when(command).then_refused("model_not_allowed")
    assert scenario.channel.active == "web-2"


# ---- archive


def test_archiving_the_active_session_makes_the_one_before_it_active() -> None:
    scenario = two().when(archive("web-2")).then_told(("web-2", "archived"), ("web-1", "activated"))
    scenario.then_decided("web-2", created=False)
    assert scenario.channel.active == "web-1"
    scenario.when(archive("web-1", "b")).then_told(("web-1", "archived"))
    assert scenario.channel.active is None
    scenario.when(resolve("3")).then_decided("web-3", created=True)


def test_archiving_another_one_changes_nothing_else() -> None:
    scenario = two().when(archive("web-1")).then_told(("web-1", "archived"))
    assert scenario.channel.active == "web-2"


def test_archiving_twice_is_answered_once_the_session_has_heard() -> None:
    scenario = two().when(archive("web-1", "a")).when(archive("web-1", "b")).then_types(ev.RequestDecided)
    assert set(scenario.channel.waits) == {"ra", "rb"}
    scenario.delivered().when(archive("web-1", "c"))
    assert "rc" not in scenario.channel.waits


def test_a_session_that_the_channel_does_not_know_is_not_archived() -> None:
    two().when(archive("web-9")).then_refused("not_found")
    two().when(lifecycle(cmd.ArchiveSession(), "a")).then_refused("not_found")


def test_a_session_of_another_channel_is_refused_and_the_one_before_it_stays_active() -> None:
    scenario = ChannelScenario().when(create("1")).delivered().when(create("2", "theirs")).when(resolve("3"))
    scenario.then_decided("theirs", created=False).when(ReceiveReceipt(seq=2, refused=True))
    scenario.then_types(ev.ForwardDelivered, ev.ChannelSessionArchived, ev.CommandForwarded)
    scenario.then_told(("web-1", "activated"))
    assert scenario.channel.active == "web-1"
    scenario.when(ReceiveReceipt(seq=2, refused=True)).then_nothing().delivered()
    for request_id in ("r2", "r3"):
        answer = scenario.channel.answers.known[request_id]
        assert (answer.kind, answer.code) == ("refused", "exists")
        again = channel_reply_again(scenario.channel, answer, request_id, REPLY)
        assert again is not None
        assert again.frame == fr.RequestRefused(
            code="exists", reason="session theirs is there already, and does not belong to this channel"
        )
    assert sorted(answers(scenario)) == [("r1", "web-1"), ("r2", ""), ("r3", "")]
    scenario.when(create("2", "theirs")).then_nothing().when(create("4", "theirs")).then_refused("exists")


def test_a_refused_session_that_is_not_active_any_more_changes_nothing_else() -> None:
    scenario = ChannelScenario().when(create("1", "theirs")).when(create("2")).when(ReceiveReceipt(seq=1, refused=True))
    scenario.then_types(ev.ForwardDelivered, ev.ChannelSessionArchived)
    assert scenario.channel.active == "web-2"


# ---- what sessions tell


def test_a_chat_opened_a_session() -> None:
    scenario = two().when(from_session("opened", "web-3", new=NEW))
    scenario.then_types(ev.ForwardReceived, ev.ChannelSessionOpened, ev.CommandForwarded)
    scenario.then_told(("web-2", "deactivated"))
    opened = scenario.facts[1].event
    assert isinstance(opened, ev.ChannelSessionOpened)
    assert (opened.by, opened.new_session) == ("chat", NEW)
    assert scenario.channel.active == "web-3"


@pytest.mark.parametrize("what", ["opened", "something newer"])
def test_a_session_that_is_known_is_not_opened_again(what: str) -> None:
    scenario = two().when(from_session(what, "web-1")).then_types(ev.ForwardReceived)
    assert scenario.channel.active == "web-2"


@pytest.mark.parametrize("what", ["opened", "archived"])
def test_an_archived_one_stays_archived(what: str) -> None:
    two().when(archive("web-1")).when(from_session(what, "web-1")).then_types(ev.ForwardReceived)


def test_a_session_that_was_archived_by_its_id_is_active_no_more() -> None:
    scenario = two().when(from_session("archived", "web-2"))
    scenario.then_types(ev.ForwardReceived, ev.ChannelSessionArchived, ev.CommandForwarded)
    scenario.then_told(("web-1", "activated"))
    assert (scenario.channel.active, scenario.rows.sessions["web-2"].archived) == ("web-1", True)
    scenario.when(from_session("archived", "web-1")).then_types(ev.ForwardReceived, ev.ChannelSessionArchived)
    assert scenario.channel.active is None


def test_news_of_a_session_that_the_channel_does_not_know_change_nothing() -> None:
    two().when(from_session("archived", "web-9")).then_types(ev.ForwardReceived)


def test_what_was_heard_before_adds_nothing() -> None:
    scenario = two().when(from_session("opened", "web-3", 3)).when(from_session("opened", "web-3", 3)).then_nothing()
    scenario.when(from_session("archived", "web-3", 2)).then_nothing()
    scenario.when(from_session("archived", "web-2", 1)).then_types(ev.ForwardReceived, ev.ChannelSessionArchived)


# ---- of any size


def test_the_state_is_of_bounded_size_and_the_rest_is_looked_up() -> None:
    """Many sessions, requests and sources: the state holds the newest, the oldest are found all the same."""
    scenario = ChannelScenario()
    for number in range(200):
        scenario.when(create(str(number))).when(from_session("opened", f"chat-{number}")).delivered()
    channel = scenario.channel
    assert channel.session_count == 400
    assert (len(channel.answers.known), channel.answers.older) == (50, 150)
    assert (len(channel.marks.known), channel.marks.older) == (50, 150)
    scenario.when(create("0")).then_nothing().when(from_session("opened", "chat-0")).then_nothing()
    assert scenario.found.marks == {"session:chat-0": 1}
    scenario.when(replace(create("0"), command_hash="other")).then_refused("conflict")
    scenario.when(create("new", "web-0")).then_refused("exists")
    answer = scenario.rows.answers["r0"]
    needs = partial(channel_answer_needs, scenario.channel, "r0", "h0")
    reply = channel_reply_again(scenario.channel, answer, "r0", REPLY, scenario.rows.find(needs))
    assert reply is not None
    assert reply.session_id == "web-0"


def test_who_follows_the_active_session_is_looked_up() -> None:
    """A resolve then tells what only its row knows, and nothing that the session may have changed since."""
    scenario = ChannelScenario().when(create("old", new=NEW)).delivered()
    answer = scenario.channel.answers.known["rold"]
    told = channel_reply_again(scenario.channel, answer, "rold", REPLY)
    assert told is not None
    assert isinstance(told.frame, fr.SessionInfo)
    assert (told.frame.title, told.frame.created) == ("Refund", True), "who makes it is told what it was made of"
    for number in range(100):
        scenario.when(create(str(number))).when(archive(f"web-{number}", f"a{number}")).delivered()
        assert scenario.channel.active == "web-old"
    command = resolve("again")
    found = scenario.rows.find(partial(channel_needs, scenario.channel, command))
    assert set(found.sessions) == {"web-old"}
    scenario.when(command).then_decided("web-old", created=False)
    (reply,) = channel_replies_to(scenario.channel, scenario.facts[0], found)
    assert isinstance(reply.frame, fr.SessionInfo)
    assert (reply.frame.title, reply.frame.active, reply.frame.created) == (None, True, False)


def test_a_new_request_of_a_small_channel_looks_nothing_up() -> None:
    scenario = ChannelScenario()
    for command in (create("1"), resolve("2"), rotate("3"), resolve("4")):
        assert channel_needs(scenario.channel, command) is None or scenario.channel.session_count > 1
        scenario.when(command)
    assert channel_needs(ChannelScenario().when(create("1")).channel, resolve("2")) is None


# ---- the same request twice


@pytest.mark.parametrize("twice", [create("1"), create("1", "x"), resolve("1"), rotate("1"), archive("web-1", "1")])
def test_the_same_request_twice_adds_nothing(twice: ChangeChannel) -> None:
    ChannelScenario().when(twice).when(twice).then_nothing().delivered().when(twice).then_nothing()


def test_a_request_id_that_is_used_again_for_another_command_conflicts() -> None:
    scenario = ChannelScenario().when(create("1"))
    other = replace(rotate("1"), command_hash="other")
    scenario.when(other).then_refused("conflict").when(other).then_nothing()
    scenario.when(create("1")).then_nothing()
    assert scenario.channel.answers.known["r1"].session_id == "web-1"


def test_a_wrong_request_is_refused_once() -> None:
    wrong = Refuse(request_id="r1", command_hash="h", code="unknown_command", reason="what?", reply=REPLY)
    scenario = ChannelScenario().when(wrong).then_refused("unknown_command").when(wrong).then_nothing()
    (reply,) = channel_replies_to(Channel(channel="web"), scenario.all[0])
    assert reply == Reply(
        frame=fr.RequestRefused(code="unknown_command", reason="what?"),
        address=REPLY,
        request_id="r1",
        session_id="",
        channel="web",
    )


# ---- answers


def answers(scenario: ChannelScenario) -> list[tuple[str, str | None]]:
    """Every frame that the facts so far lead to: request id and session id."""
    channel, found = Channel(channel="web"), []
    for fact in scenario.all:
        found += [(reply.request_id, reply.session_id) for reply in channel_replies_to(channel, fact)]
        channel = evolve_channel(channel, fact)
    return found


def test_an_answer_waits_for_the_last_of_its_forwards() -> None:
    scenario = ChannelScenario().when(create("1")).delivered().when(create("2"))
    assert answers(scenario) == [("r1", "web-1")]
    assert [(forward.target_id, forward.what) for forward in due(scenario.channel.outbox)] == [
        ("web-2", "created"),
        ("web-1", "deactivated"),
    ]
    scenario.when(ReceiveReceipt(seq=3))
    assert answers(scenario) == [("r1", "web-1")]
    scenario.when(ReceiveReceipt(seq=3)).then_nothing().when(ReceiveReceipt(seq=2))
    assert answers(scenario) == [("r1", "web-1"), ("r2", "web-2")]


def test_what_an_answer_says() -> None:
    scenario = ChannelScenario().when(replace(create("1", new=NEW), reply=REPLY))
    answer = scenario.channel.answers.known["r1"]
    assert channel_reply_again(scenario.channel, answer, "r1", REPLY) is None
    (reply,) = channel_replies_to(scenario.channel, Fact(event=ev.ForwardDelivered(seq=1)))
    assert reply == channel_reply_again(scenario.delivered().channel, answer, "r1", answer.reply)
    assert reply == Reply(
        frame=fr.SessionInfo(
            title="Refund",
            instructions="Be brief.",
            model="echo:loud",
            metadata={"tenant": "7"},
            active=True,
            created=True,
        ),
        address=REPLY,
        request_id="r1",
        session_id="web-1",
        channel="web",
    )


def test_a_refusal_is_told_again() -> None:
    scenario = ChannelScenario().when(archive("web-9"))
    answer = scenario.channel.answers.known["ra"]
    reply = channel_reply_again(scenario.channel, answer, "ra", REPLY)
    assert reply is not None
    assert isinstance(reply.frame, fr.RequestRefused)
    assert reply.frame.code == "not_found"


def test_the_active_session_is_told_or_that_there_is_none() -> None:
    none = active_reply(Channel(channel="web"), "r", REPLY)
    assert none.frame == fr.RequestRefused(code="not_found", reason="channel web has no active session")
    reply = active_reply(two().channel, "r", REPLY)
    assert (reply.session_id, reply.terminal) == ("web-2", True)
    two().when(lifecycle(cmd.ActiveSession(), "q")).then_nothing()


def test_facts_of_another_kind_are_never_refused() -> None:
    odd = Fact(event=ev.TurnStarted(model="echo:", cause="first"), turn_id="t")
    assert evolve_channel(Channel(channel="web"), odd) == Channel(channel="web", version=1)
    assert channel_replies_to(Channel(channel="web"), odd) == []


def test_the_policy_of_then_decides() -> None:
    scenario = ChannelScenario(policy=Policy(allow_models=("gpt:*",)))
    scenario.when(create("1", new=NewSession(model="gpt:9"))).then_decided("web-1", created=True)
