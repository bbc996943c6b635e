"""The fault runs and the simulation recognise what a process logs as a defect, in the form in which it is logged."""

import codecs
import logging

import pytest

from tests.logged_defects import PLACE, logged_defects
from turnlog_workers.base.logs import HumanFormatter
from turnlog_workers.base.tasks import describe, frames


def of_ours() -> None:
    raise LookupError


def of_the_library() -> None:
    codecs.getincrementaldecoder("utf-8")().decode(b"\xff", final=True)


def of_a_text() -> None:
    exec("raise ValueError")


@pytest.mark.parametrize("broken", [of_ours, of_the_library, of_a_text])
def test_an_error_that_says_where_it_was_raised(broken: object) -> None:
    assert callable(broken)
    with pytest.raises((LookupError, ValueError)) as caught:
        broken()
    message = f"released: {describe(caught.value)}{frames(caught.value)}"
    assert PLACE.search(message)
    assert len(logged_defects(line(logging.ERROR, message))) == 1


def test_what_an_operator_is_woken_for_and_nothing_else() -> None:
    said = [
        line(logging.CRITICAL, "stopping: something"),
        line(logging.ERROR, "the store cannot be written: there is no room at 12:30"),
        line(logging.WARNING, "released: KeyError at serving.py:12"),
        line(logging.ERROR, "LookupError at x.py:3", of="aiokafka"),
        "Traceback (most recent call last):",
    ]
    assert logged_defects("\n".join(said)) == said[:1]


def line(level: int, message: str, *, of: str = "turnlog_workers.shard.partition") -> str:
    record = logging.LogRecord(of, level, __file__, 1, message, None, None)
    return HumanFormatter().format(record)
