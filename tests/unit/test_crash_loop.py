"""What the benchmark of a worker that keeps dying makes of what it has seen."""

from benchmarks.crash_loop import DYING, STEADY, Claimed, Played, owner_at, verdict

CLAIMS = [
    Claimed(partition=0, at=90.0, owner=STEADY),
    Claimed(partition=1, at=90.0, owner=STEADY),
    Claimed(partition=1, at=95.0, owner=DYING),
]


def played(waits: dict[str, tuple[int, float | None]], *, turns: dict[str, int] | None = None) -> Played:
    """Chats that were due at 100.0, by id: their partition, and how long they waited."""
    return Played(
        due={name: (100.0, partition) for name, (partition, _) in waits.items()},
        ended={name: 100.0 + wait_s for name, (_, wait_s) in waits.items() if wait_s is not None},
        kills=3,
        claims=CLAIMS,
        turns_ended=dict.fromkeys(waits, 1) if turns is None else turns,
    )


def test_the_owner_is_who_claimed_last_before() -> None:
    assert [owner_at(CLAIMS, 1, at) for at in (80.0, 92.0, 99.0)] == [None, STEADY, DYING]


def test_waits_are_told_apart_by_the_owner() -> None:
    found = verdict(played({"a": (0, 0.05), "b": (0, 0.08), "c": (1, 3.0)}), opened=0)
    assert found["problems"] == []
    assert found["chats"] == {"all": 3, STEADY: 2}
    assert found[STEADY]["max_s"] == 0.08
    assert found["all"]["max_s"] == 3.0
    assert found["longest"][0] == {"waited_s": 3.0, "due_at_s": 0.0, "partition": 1, "owner": DYING}


def test_a_limit_that_is_passed_is_a_problem() -> None:
    found = verdict(played({"a": (0, 0.6), "b": (1, 9.0)}), opened=0)
    assert len(found["problems"]) == 4  # half, 90 %, the last of all, and the steady one's


def test_what_is_lost_or_doubled_is_a_problem() -> None:
    unanswered = verdict(played({"a": (0, 0.01), "b": (0, None)}, turns={"a": 1}), opened=0)
    assert unanswered["problems"] == ["1 chats were not answered", "1 turns ended in the log, not 2"]
    assert verdict(played({"a": (0, 0.01)}, turns={"a": 2}), opened=0)["problems"] == ["a turn ended twice in the log"]
    assert verdict(played({"a": (0, 0.01)}, turns={"a": 1, "opening": 1}), opened=1)["problems"] == []
