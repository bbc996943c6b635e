"""Simulated processes: what is paused waits, what is killed does nothing more, not even in the middle of its work."""

import random

from tests.simulation.loop import Lane, SimLoop


def two_ready(loop: SimLoop, lane: Lane, done: list[str], first_does: str) -> None:
    """A lane with two callbacks that are ready in one moment; the first of them does something to its lane."""

    def first() -> None:
        done.append("first")
        setattr(lane, first_does, True)

    lane.context.copy().run(loop.call_soon, first)
    lane.context.copy().run(loop.call_soon, done.append, "second")


def test_a_process_that_kills_itself_does_not_come_to_what_was_ready() -> None:
    loop = SimLoop(random.Random(1))
    done: list[str] = []
    two_ready(loop, loop.new_lane("w"), done, "dead")
    loop.in_world(1.0, done.append, "later")
    loop.run_until(lambda: "later" in done)
    assert done == ["first", "later"]


def test_a_paused_process_goes_on_where_it_stood() -> None:
    loop = SimLoop(random.Random(1))
    lane, done = loop.new_lane("w"), list[str]()
    two_ready(loop, lane, done, "paused")
    loop.in_world(1.0, done.append, "later")
    loop.run_until(lambda: "later" in done)
    assert done == ["first", "later"]
    lane.paused = False
    loop.run_until(lambda: "second" in done)
