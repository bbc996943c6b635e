"""What sentences say of numbers, times, states and ends."""

from typing import Any

import pytest

from turnlog.terminal.sessions_table import session_state
from turnlog_workers.base.counted import counted, duration
from turnlog_workers.devstack import supervisor


def test_one_thing_is_no_things() -> None:
    assert [counted(count, "session") for count in (0, 1, 2000)] == ["0 sessions", "1 session", "2,000 sessions"]
    assert [counted(count, "process", "processes") for count in (1, 2)] == ["1 process", "2 processes"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (4 * 86400, "4 days")],
)
def test_a_time_has_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({}, "idle"),
        ({"turns": 3, "completed_turns": 1, "failed_turns": 2}, "idle (2 failed turns)"),
        ({"turns": 2, "failed_turns": 1, "cancelled_turns": 1}, "idle (1 failed turn, 1 cancelled turn)"),
        ({"turns": 1}, "waiting"),
        ({"turns": 2, "failed_turns": 1, "running_turn_id": "t"}, "running (1 failed turn)"),
        ({"archived": True, "turns": 1, "cancelled_turns": 1}, "archived (1 cancelled turn)"),
    ],
)
def test_a_state_is_what_a_session_does(what: dict[str, Any], said: str) -> None:
    nothing = {"turns": 0, "completed_turns": 0, "failed_turns": 0, "cancelled_turns": 0}
    assert session_state({**nothing, "archived": False, "erased_at": None, "running_turn_id": None, **what}) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "ended by itself (no error, exit code 0)"),
        (3, "died (exit code 3)"),
        (-9, "died (SIGKILL)"),
    ],
)
def test_a_process_that_ends_without_an_error_has_not_died(code: int, said: str) -> None:
    how = supervisor._describe(code)
    assert f"{supervisor._verb(how)} ({how})" == said
