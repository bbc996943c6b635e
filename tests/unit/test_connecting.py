"""The first connections of a worker: which failures are worth another try, and for how long."""

from collections.abc import Callable

import pytest
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerRefusesError, BrokerUnreachableError
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka import connecting
from turnlog_workers.kafka.connecting import unless_it_breaks
from turnlog_workers.kafka.unreachable import broke, unreachable


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


BROKEN = caused(BrokerUnreachableError("no broker answers"), KafkaConnectionError())
REFUSED = caused(BrokerRefusesError("wrong password"), KafkaConnectionError())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaConnectionError("reset"), True),
        (BROKEN, True),
        (caused(LogError("events[0]"), KafkaConnectionError()), True),
        (REFUSED, False),
        (unreachable(Settings(), TopicAuthorizationFailedError()), False),
        (LogError("events[0]@3 is not there any more"), False),
        (ValueError(), False),
    ],
)
def test_only_a_connection_that_broke_is_worth_another_try(error: Exception, expected: bool) -> None:
    assert broke(error) is expected


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_AGAIN", Backoff(0.0))


def failing(*errors: Exception) -> tuple[Callable[[], object], list[int]]:
    tries: list[int] = []

    async def step() -> str:
        tries.append(len(tries))
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]
        return "topics"

    return step, tries


async def test_a_connection_that_breaks_is_made_again() -> None:
    step, tries = failing(BROKEN, KafkaConnectionError())
    assert await unless_it_breaks(step, 60.0) == "topics"  # type: ignore[arg-type]
    assert len(tries) == 3


@pytest.mark.parametrize(("error", "limit_s"), [(REFUSED, 60.0), (ValueError(), 60.0), (BROKEN, 0.0)])
async def test_what_will_not_pass_and_what_lasts_too_long_is_raised(error: Exception, limit_s: float) -> None:
    step, tries = failing(error, error)
    with pytest.raises(type(error)) as caught:
        await unless_it_breaks(step, limit_s)  # type: ignore[arg-type]
    assert caught.value is error
    assert len(tries) == 1
