"""A session's title, model, instructions and metadata can be changed after it was made: events like all else."""

from dataclasses import replace

import pytest

from tests.given import Scenario, archive, chat, complete, given, running
from turnlog_schemas import events as ev
from turnlog_schemas.commands import RequestHeader, UpdateSession
from turnlog_schemas.errors import InvalidCommandError
from turnlog_schemas.frames import SessionInfo
from turnlog_schemas.limits import MAX_METADATA_ENTRIES
from turnlog_schemas.parts import NewSession, ReplyAddress
from turnlog_schemas.request_checks import check_command
from turnlog_streams.history.tokens import PromptMeasure
from turnlog_streams.policy import Policy
from turnlog_streams.records import changed
from turnlog_streams.reply_frames import replies_to, reply_again
from turnlog_streams.session.commands import Update

CHANGED = (ev.SessionUpdated, ev.RequestDecided)


def made() -> Scenario:
    new = NewSession(title="A", instructions="Be brief.", model="echo:loud", metadata={"tenant": "7", "page": "1"})
    return given().when(chat(new_session=new)).when(complete())


def to(name: str = "u", **said: object) -> Update:
    update = UpdateSession(**said)  # type: ignore[arg-type]
    return Update(request_id=f"r{name}", command_hash=f"h{name}", update=update, reply=ReplyAddress())


def test_what_is_named_changes_and_the_rest_stays() -> None:
    scenario = made().when(to(title="B", set_metadata={"page": "2"}, remove_metadata=("tenant", "never")))
    updated = ev.SessionUpdated(title="B", instructions="Be brief.", model="echo:loud", metadata={"page": "2"})
    scenario.then_types(*CHANGED)
    assert scenario.facts[0].event == updated
    assert (scenario.session.title, dict(scenario.session.metadata)) == ("B", {"page": "2"})


def test_an_empty_text_takes_it_back_and_the_next_message_titles_it() -> None:
    scenario = made().when(to(title="", model="", instructions="")).then_types(*CHANGED)
    session = scenario.session
    assert (session.title, session.model, session.instructions) == ("", None, None)
    scenario.when(chat("2", text="What is a log?"))
    assert scenario.session.title == "What is a log?"


def test_its_later_turns_follow_and_the_running_one_goes_on() -> None:
    scenario = running().when(to(model="echo:other")).then_types(*CHANGED)
    before = scenario.session.turns["t1"].model
    scenario.when(chat("2")).when(complete())
    assert scenario.session.turns["t2"].model == "echo:other" != before


def test_the_sender_hears_of_it_and_the_same_request_again_changes_nothing() -> None:
    scenario = made().when(to(title="B"))
    (told,) = [reply for fact in scenario.facts for reply in replies_to(scenario.session, fact, [])]
    assert isinstance(told.frame, SessionInfo)
    assert (told.frame.title, told.frame.archived, told.request_id) == ("B", False, "ru")
    scenario.when(to("v", title="C")).when(to(title="B")).then_nothing()
    assert scenario.session.title == "C"
    again = reply_again(scenario.session, scenario.session.answers.known["ru"], "ru", ReplyAddress(), [])
    assert again is not None
    assert isinstance(again.frame, SessionInfo)


def test_what_changes_nothing_is_answered_without_an_event_of_its_own() -> None:
    made().when(to(title="A", remove_metadata=("never",))).then_types(ev.RequestDecided)


def test_what_cannot_be_is_refused() -> None:
    given().when(to(title="B")).then_refused("not_found")
    made().when(archive()).when(to(title="B")).then_refused("archived")
    made().under(Policy(allow_models=("echo:*",))).when(to(model="other:")).then_refused("model_not_allowed")
    made().when(replace(to(title="B"), request_id="r1")).then_refused("conflict")
    many = {f"name{number}": "" for number in range(MAX_METADATA_ENTRIES - 1)}
    made().when(to(set_metadata=many)).then_refused("too_long")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({}, "invalid_command"),
        ({"set_metadata": {"a": "1"}, "remove_metadata": ("a",)}, "invalid_command"),
        ({"title": "t" * 1025}, "too_long"),
        ({"model": "m" * 1025}, "too_long"),
        ({"instructions": "i" * (256 * 1024 + 1)}, "too_long"),
        ({"set_metadata": {"a": "x" * 65536}}, "too_long"),
        ({"remove_metadata": tuple(map(str, range(257)))}, "too_long"),
    ],
)
def test_a_request_has_the_bounds_of_one_that_makes_a_session(said: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidCommandError) as refused:
        check_command(RequestHeader(session_id="s"), UpdateSession(**said))  # type: ignore[arg-type]
    assert refused.value.code == code


def test_other_instructions_make_the_measured_prompt_worthless() -> None:
    scenario = made()
    scenario.session = changed(scenario.session, measure=PromptMeasure(input_tokens=9, through_seq=1))
    assert scenario.when(to(title="B")).session.measure is not None
    assert scenario.when(to("v", instructions="Be long.")).session.measure is None
