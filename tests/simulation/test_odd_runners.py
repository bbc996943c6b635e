"""Whatever runners do, nobody beside them notices: the real shard, decisions and actors on the simulated log."""

from typing import Any
from unittest.mock import patch

import pytest

from tests.checker import LogView
from tests.odd_runners import COMPLETED, ODD, PREFIX
from tests.simulation.odd import beside_innocents, disturbed, fuzz
from tests.simulation.run import Outcome
from turnlog_schemas import events as ev
from turnlog_workers.base.ports import AppendUncertainError
from turnlog_workers.shard.served_outcomes import ServedOutcomes

#: Here a turn has 1.2 s.
BEYOND_THE_TIME = {"messages without end", "steps without end", "hangs while a turn is closed"}
pytestmark = pytest.mark.timeout(600)


def ends(outcome: Outcome) -> dict[str, str]:
    """How the turns of odd runners ended, by the name of their kind."""
    found = {}
    for turn in LogView(outcome.history).turns.values():
        model = turn.starts[0].payload.model
        if model.startswith(PREFIX):
            end = turn.ends[0].payload
            found[model.removeprefix(PREFIX)] = end.code if isinstance(end, ev.TurnFailed) else COMPLETED
    return found


def test_every_kind_beside_a_hundred_innocent_turns_of_its_partition() -> None:
    assert len(ODD) >= 50
    outcome = beside_innocents([PREFIX + name for name in ODD], innocents=100)
    assert disturbed(outcome) == []
    others = {name: code for name, code in ends(outcome).items() if code != ODD[name].code}
    assert set(others.values()) == {"turn_timeout"}, others
    assert set(others) <= BEYOND_THE_TIME
    assert set(ends(outcome)) == set(ODD)


def test_a_fuzz_of_outputs_releases_no_partition() -> None:
    outputs, _, found = fuzz(600)
    assert found == []
    assert outputs >= 600


def test_a_disturbance_is_seen() -> None:
    """As it was: an outcome that cannot be recorded gives the partition up."""

    def gives_up(self: ServedOutcomes, live: Any, done: Any, error: Exception) -> None:
        raise AppendUncertainError("planted")

    with (
        patch("turnlog_workers.sessions.turn_attempt.checked", lambda output: output),
        patch.object(ServedOutcomes, "_fail", gives_up),
    ):
        outcome = beside_innocents([f"{PREFIX}name int", f"{PREFIX}call id None"], innocents=20)
    kinds = {anomaly.kind for anomaly in outcome.anomalies}
    assert {"partition released", "neighbour disturbed"} <= kinds
