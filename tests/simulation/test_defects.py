"""What a worker logs as a defect is found, although it goes on: the simulation listens to its log."""

import pytest

from tests.simulation.run import Plan, simulate
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.serving import Serving

TEXT = "what a user said"


def _broken(*_: object) -> None:
    raise LookupError(TEXT)


@pytest.mark.parametrize(
    ("where", "name", "said"),
    [
        pytest.param(Serving, "upkeep", "LookupError at", id="a task that is started again"),
        pytest.param(SessionActor, "_title_if_due", "died: LookupError at", id="the end of a turn"),
        pytest.param(Resident, "use", "released: LookupError at", id="a release"),
    ],
)
def test_a_planted_defect_is_found(where: type, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, _broken)
    found = [str(each) for each in simulate(1, Plan(min_faults=0, max_faults=0)).anomalies if each.kind == "defect"]
    assert any(said in each for each in found), found
    assert not any(TEXT in each for each in found), "its text may hold anything"
