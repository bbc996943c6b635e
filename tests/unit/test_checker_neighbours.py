"""The checker sees that a turn was disturbed by what runs beside it, and blames nobody where something else failed."""

from dataclasses import replace

import pytest

from tests.checker.drafts import USAGE, Draft, found, good
from turnlog_schemas import events as ev

DISTURBED = {"partition released", "neighbour disturbed"}


def seen(draft: Draft) -> set[str]:
    return found(draft) & DISTURBED


def released(generation: int) -> Draft:
    """The owner claims once more, and a turn that ran begins again."""
    draft = good()
    draft.accept("t9", "three", "r9", offset=5)
    draft.claim(generation)
    draft.event(ev.TurnStarted(model="m", cause="takeover"), "t9", 2)
    return draft


def last_generation(draft: Draft) -> int:
    claims = [event.payload for event in draft.log if isinstance(event.payload, ev.PartitionClaimed)]
    return int(claims[-1].generation)


def test_an_owner_that_claims_again_without_a_reason() -> None:
    draft = released(last_generation(good()))
    draft.quiet = True
    assert seen(draft) == DISTURBED


def test_a_claim_in_a_new_generation_has_a_reason() -> None:
    draft = released(last_generation(good()) + 1)
    draft.quiet = True
    assert "neighbour disturbed" not in seen(draft)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_turn_that_is_given_up_as_poison(quiet: bool) -> None:
    draft = good()
    draft.accept("t9", "three", "r9", offset=5)
    draft.event(ev.TurnFailed(code="suspected_poison", reason="x", usage=USAGE), "t9", 1)
    draft.quiet = quiet
    assert ("neighbour disturbed" in seen(draft)) is quiet


def test_where_the_broker_failed_nobody_is_blamed() -> None:
    draft = released(last_generation(good()))
    assert seen(draft) == set()
    assert replace(draft.history(), quiet=True).quiet
