"""docs/reference.md is complete: every command, event, frame, verb, setting and error has its place."""

import re

from typer.main import get_command

import turnlog
from tests.reference_table import cells, names, operations, refusals, section
from turnlog import errors
from turnlog.cli.app import app
from turnlog.client.session_verbs import SessionVerbs
from turnlog.errors import TurnlogError
from turnlog_schemas import commands, events, frames
from turnlog_streams.runtime_settings import KNOWN

#: What no operation leads to: of the partition, of failing turns, of refusals (which have their own table).
OTHER_EVENTS = {"PartitionClaimed", "RequestDeadLettered", "RequestsLost", "TurnFailed", "RequestRefused"}


def test_every_command_has_a_row_and_its_refusals() -> None:
    public = {command.__name__ for command in (*commands.SESSION_COMMANDS, *commands.CHANNEL_COMMANDS)}
    assert {row.command for row in operations()} == public
    assert {command for command, _ in refusals()} == public
    assert len(set(refusals())) == len(refusals())


def test_every_event_and_frame_is_somewhere() -> None:
    rows = operations()
    known = {event.__name__ for event in events.EVENTS}
    told = frozenset().union(*(row.session_events | row.channel_events for row in rows))
    assert told == known - OTHER_EVENTS
    terminal = {frame.__name__ for frame in frames.TERMINAL_FRAMES} - {"TurnFailed", "RequestRefused"}
    assert {row.frame for row in rows} == terminal


def test_every_verb_of_the_client_is_told() -> None:
    public = {name for name in dir(turnlog.Client) if not name.startswith("_")}
    verbs = public - {"aclose", "failure", "partition_count"}
    told = {row.client for row in operations()}
    assert {name for name in vars(SessionVerbs) if not name.startswith("_")} - {"messages"} <= told
    prose = set(re.findall(r"`Client\.(\w+)`", section("Operations")))
    assert told | prose == verbs


def test_every_verb_of_the_command_line_is_told() -> None:
    sessions = get_command(app).commands["sessions"]  # type: ignore[attr-defined]
    found = set(re.findall(r"`turnlog sessions (\w+)", section("Operations")))
    assert found == set(sessions.commands)


def test_every_setting_is_told() -> None:
    assert {name.strip("`") for name, _ in cells("Settings while everything runs")} == {known.name for known in KNOWN}


def test_every_error_is_told_with_its_exit_code() -> None:
    told = {name.strip("`"): int(code) for name, _, code in cells("Errors of the client")}
    public = {name for name in turnlog.__all__ if isinstance(getattr(errors, name, None), type)} - {"TurnlogError"}
    assert set(told) == public
    for name, code in told.items():
        error = getattr(turnlog, name)
        assert issubclass(error, TurnlogError)
        assert error.exit_code == code
    assert names("`a`, `b c`") == {"a", "b c"}
