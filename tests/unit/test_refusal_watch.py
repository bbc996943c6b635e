"""A broker that lets a running process in no more: the log says why, once, and when that is over."""

import logging
from unittest.mock import patch

import pytest

from tests.waiting import eventually
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka import refusal as refusals
from turnlog_workers.kafka.refusal import RefusalWatch

REFUSED = "the broker at kafka:9092 refuses user 'worker' or the password (PLAIN): set another."


async def test_the_reason_is_said_once_and_again_after_it_was_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, refusals.__name__)
    with patch.object(refusals, "_LOOK_AGAIN_S", 0.0), patch.object(refusals, "refusal", return_value=REFUSED) as look:
        watch = RefusalWatch(Settings(bootstrap_server="kafka:9092"))
        for looks in (1, 2):
            watch.failed()
            watch.failed()  # one look at a time
            await eventually(lambda looks=looks: look.call_count == looks and watch._look is None, "the look is over")
        assert caplog.messages == [
            f"{REFUSED} A running process keeps the secrets that it began with: start it again then."
        ]
        watch.worked()
        assert caplog.messages[1:] == ["the broker lets us in again"]
        watch.failed()
        await eventually(lambda: len(caplog.messages) == 3, "it is said again")


async def test_a_broker_that_is_away_is_not_called_one_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, refusals.__name__)
    with patch.object(refusals, "refusal", return_value=None) as look:
        watch = RefusalWatch(Settings(bootstrap_server="kafka:9092"))
        watch.failed()
        await eventually(lambda: look.call_count == 1 and watch._look is None, "the look is over")
        watch.failed()
        watch.worked()
        assert look.call_count == 1, "it is not looked for again at once"
    assert caplog.messages == []
