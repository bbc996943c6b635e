"""What counts as grown in a long run, and whose turns it has."""

from collections import Counter
from itertools import pairwise

from benchmarks.soak import LIMITS, grown, session_of


def looks(**last: float) -> list[dict[str, float]]:
    """A first quarter that fills what has a bound, two that are alike, and the last one."""
    usual = {"rss_mb": 200.0, "descriptors": 40.0, "tasks": 100.0, "lag": 3.0}
    return [*[dict.fromkeys(LIMITS, 1.0)] * 10, *[usual] * 20, *[usual | last] * 10]


def test_what_stays_is_flat() -> None:
    assert all(figure["flat"] for figure in grown(looks()).values())
    assert grown(looks(rss_mb=209.0, descriptors=44.0))["rss_mb"] == {
        "second_quarter": 200.0,
        "last_quarter": 209.0,
        "flat": True,
    }


def test_each_figure_that_grows_is_noticed() -> None:
    for name, much in {"rss_mb": 220.0, "descriptors": 60.0, "tasks": 200.0, "lag": 500.0}.items():
        found = grown(looks(**{name: much}))
        assert [figure for figure, what in found.items() if not what["flat"]] == [name]


def test_sessions_take_turns_and_some_of_them_end_each_time() -> None:
    chats = [session_of(number) for number in range(60 * 2_000)]
    turns = [set(chats[begin : begin + 2_000]) for begin in range(0, len(chats), 2_000)]
    assert {len(turn) for turn in turns} == {2_000}
    assert {len(after - before) for before, after in pairwise(turns)} == {100}
    assert max(Counter(chats).values()) == 20
    assert not set.intersection(turns[0], turns[20])
