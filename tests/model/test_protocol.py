"""The ownership protocol, searched: with its rules nothing is lost, told falsely or done twice; each rule is needed.

The short form. ``make model`` searches larger cases.
"""

import pytest

from tests.model.explore import explore, walk
from tests.model.protocol import Protocol
from tests.model.setups import ENDLESS, SOUND, WEAKENED, WIDE

MOST_STATES = 30_000


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_wrong_in_any_order_of_events(name: str) -> None:
    found = explore(SOUND[name], most_states=MOST_STATES)
    assert found.broken is None, found.trace
    assert found.complete


def test_nothing_is_wrong_on_random_ways_through_what_is_too_large_to_search() -> None:
    found = walk(WIDE, walks=60, seed=11)
    assert found.broken is None, found.trace
    assert found.states > 60 * 20


@pytest.mark.parametrize("name", WEAKENED)
def test_without_one_of_the_rules_something_is_wrong(name: str) -> None:
    found = explore(WEAKENED[name], most_states=MOST_STATES, deep=name in ENDLESS)
    assert found.broken is not None
    if name in ENDLESS:
        assert found.broken == "claims go on for ever"


def test_a_process_whose_name_was_taken_neither_serves_nor_claims_in_the_end() -> None:
    protocol = Protocol(SOUND["a name taken"])
    state = protocol.first()
    while following := [after for name, after in protocol.steps(state) if not name.endswith("gives up")]:
        taking = [after for after in following if after.holders != state.holders]
        state = (taking or following)[0]
    assert state.holders == (1,)
    assert [process.fenced for process in state.processes] == [state.processes[0].generation >= 0, False]
