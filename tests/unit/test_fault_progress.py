"""A long fault run goes on where it was stopped: what is in its file is not done again."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import leaders, rounds, simulated
from tests.faults.defences import Tried
from tests.faults.leaders import LeaderFault, Moved
from tests.faults.progress import OtherRunError, Progress
from tests.faults.report import with_earlier
from tests.faults.rounds import Round
from tests.faults.seeds import FIRST, go_on
from tests.faults.simulated import Chunk, Simulated, Simulating, SimulationProcess

ROUND = Round(
    number=0,
    seed="7/0",
    seconds=90.0,
    kills=20,
    zombies=2,
    broker_restarts=1,
    materializer_kills=1,
    foreign_claims=6,
    turns=1000,
    requests=1200,
    events=9000,
    frames=20_000,
    points={"anywhere": 6},
    takeovers_s=[2.5],
)
CHUNK = Chunk(low=0, high=500, seeds=500, failing=0, seconds=20.0)
MOVED = Moved(number=0, seed="7/leaders 0", seconds=60.0, faults={"killed": 1, "paused": 1}, late_frames=3, bad=["x"])
TRIED = Tried(defence="the reader's rule", caught=True, seconds=20.0, found=["version gap"])


def test_what_is_done_is_known_to_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    first = Progress(file, "7")
    for one in (ROUND, CHUNK, TRIED, MOVED):
        first.add(one)
    second = Progress(file, "7")
    assert (second.of(Round), second.of(Chunk), second.of(Tried)) == ([ROUND], [CHUNK], [TRIED])
    assert second.of(Moved) == [MOVED]
    with pytest.raises(OtherRunError):
        Progress(file, "8")
    assert Progress(None, "8").of(Round) == []


def test_rounds_of_leaders_are_summed_up() -> None:
    found = leaders.summary([MOVED, MOVED])
    assert found["faults"] == {"killed": 2, "stopped": 0, "paused": 2}, "also what did not happen"
    assert found["late_frames"] == {"rounds": 2, "frames": 6, "copies": 0}
    assert found["bad"] == ["round 0 of leaders: x"] * 2
    assert set(leaders.summary([])["faults"]) == set(LeaderFault)


def test_rounds_of_before_late_frames_were_counted_do_not_count() -> None:
    later = replace(ROUND, late_frames=2, late_copies=1)
    assert rounds.summary([ROUND, later])["late_frames"] == {"rounds": 1, "frames": 2, "copies": 1}


def test_what_a_run_left_out_keeps_its_figures_and_their_date() -> None:
    row = {"what": "kills", "count": 100, "anomalies": 0, "seeds": "4", "seconds": 300.0}
    other = {"what": "simulated runs", "count": 500, "anomalies": 0, "seeds": "0-499", "seconds": 9.0}
    earlier = {"date": "2026-11-28", "runs": [row, other], "defences": {"a": ["b"]}, "simulation": {"seeds": 500}}
    nothing = {"leaders": leaders.summary([]), "defences": {}, "simulation": {"seeds": 0}}
    report = {"ok": True, "date": "2026-11-29", "runs": [row | {"count": 300}], "faults": {}, **nothing}
    both = with_earlier(report, earlier)
    assert [(each["what"], each["date"], each["count"]) for each in both["runs"]] == [
        ("kills", "2026-11-29", 300),
        ("simulated runs", "2026-11-28", 500),
    ]
    assert (both["defences"], both["simulation"]) == (earlier["defences"], earlier["simulation"])
    assert both["leaders"] == nothing["leaders"], "no earlier run has done them"
    again = with_earlier(report | {"defences": {"c": ["d"]}}, both)
    assert again["defences"] == {"c": ["d"]}
    assert again["runs"] == both["runs"], "a date stays"
    assert with_earlier(report, {})["runs"] == both["runs"][:1]


def test_seeds_that_are_done_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[tuple[int, int]] = []

    def run_chunk(process: SimulationProcess, low: int, high: int) -> Chunk:
        run.append((low, high))
        return Chunk(low=low, high=high, seeds=high - low, failing=0, seconds=1.0)

    monkeypatch.setattr(SimulationProcess, "run", run_chunk)
    done = [CHUNK]
    simulating = Simulating(0, 1200, list(done), deadline=time.monotonic() + 60, add=done.append)
    simulating.start()
    simulating.wait()
    assert sorted(run) == [(500, 1000), (1000, 1200)]
    whole = Simulated.of(done)
    assert (whole.seeds, whole.failing, whole.ranges) == (1200, 0, [(0, 1200)])


def test_no_seed_is_begun_when_the_time_is_over() -> None:
    done: list[Chunk] = []
    simulating = Simulating(0, 1200, [], deadline=time.monotonic() - 1, add=done.append)
    simulating.start()
    simulating.wait()
    assert done == []


def test_a_chunk_that_ends_without_a_word_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_NICE", ("false",))
    with SimulationProcess() as process:
        chunk = process.run(0, 10)
    assert (chunk.seeds, chunk.failing) == (0, 1)
    assert Simulated.of([chunk]).said


def test_one_process_runs_chunk_after_chunk() -> None:
    with SimulationProcess() as process:
        first, second = process.run(0, 3), process.run(3, 5)
        child = process._process
    assert [(chunk.low, chunk.high, chunk.seeds, chunk.failing, chunk.said) for chunk in (first, second)] == [
        (0, 3, 3, 0, ""),
        (3, 5, 2, 0, ""),
    ]
    assert child is not None
    assert child.returncode == 0


def test_a_process_that_dies_is_a_finding_and_replaced() -> None:
    with SimulationProcess() as process:
        process.run(0, 1)
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        died, again = process.run(1, 2), process.run(2, 3)
    assert (died.seeds, died.failing) == (0, 1)
    assert "-9" in died.said
    assert (again.seeds, again.failing) == (1, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_seeds_go_on_where_the_last_call_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    run: list[tuple[int, int]] = []

    def run_chunk(process: SimulationProcess, low: int, high: int) -> Chunk:
        run.append((low, high))
        failing = int(low == FIRST + 10)
        if failing:
            monkeypatch.setattr(time, "monotonic", lambda: 1e12)  # the time is over
        return Chunk(low=low, high=high, seeds=high - low, failing=failing, seconds=1.0, said="an anomaly" * failing)

    monkeypatch.setattr(SimulationProcess, "run", run_chunk)
    file = tmp_path / "results" / "seeds.json"
    first = go_on(file, deadline=1e11, wanted=25, chunk=10, processes=processes)
    assert (first["seeds"], first["failing"], first["next"]) == (20, 1, FIRST + 20)
    last = go_on(file, deadline=1e13, wanted=25, chunk=10, processes=processes)
    assert sorted(run) == [(FIRST, FIRST + 10), (FIRST + 10, FIRST + 20), (FIRST + 20, FIRST + 25)]
    assert (last["seeds"], last["failing"], last["seconds"]) == (25, 1, 3.0)
    assert len(last["said"]) == 1, "a finding stays found"
    assert go_on(file, deadline=1e13, wanted=25, chunk=10, processes=processes) == last
