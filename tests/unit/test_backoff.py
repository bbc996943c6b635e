"""The pauses between tries."""

from turnlog_workers.base.backoff import Backoff


def test_pauses_double_up_to_the_bound() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_delay(attempt) for attempt in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_thousands_of_failures_are_no_overflow() -> None:
    assert Backoff(0.5, 30.0).next_delay(100_000) == 30.0
