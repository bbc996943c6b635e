"""A broker that lets a running process in no more: the log says why, once, and when that is over."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.waiting import eventually
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka import refusal as refusals
from turnlog_workers.kafka.event_log import LogProducer
from turnlog_workers.kafka.prompt_producer import PromptProducer
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


async def test_a_token_that_is_put_into_its_file_needs_no_restart(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    watch = RefusalWatch(
        Settings(
            bootstrap_server="kafka:9092",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            sasl_token_file=file,
        )
    )
    watch.failed()
    await eventually(lambda: caplog.messages and watch._look is None, "the look is over")
    file.write_text("a token")
    watch.worked()
    with patch.object(refusals, "refusal", return_value="the broker at kafka:9092 refuses the token."):
        watch.failed()
        await eventually(lambda: len(caplog.messages) == 2, "the look is over")
    assert caplog.messages == [
        f"TURNLOG_SASL_TOKEN_FILE: {file} cannot be read: No such file or directory.",
        "the broker at kafka:9092 refuses the token.",
    ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda producer: producer.send("t", 0, [(b"k", b"v", [])]),
        lambda producer: producer.partition_count("t"),
        lambda producer: producer.partition_counts(["t"]),
    ],
)
async def test_a_login_that_is_never_answered_is_looked_into_too(ask: Callable[[LogProducer], Awaitable[Any]]) -> None:
    """As aiokafka's with a token that is refused."""

    async def hangs(self: PromptProducer) -> None:
        await asyncio.Event().wait()

    producer = LogProducer(Settings(bootstrap_server="kafka:9092", append_timeout_s=1.0))
    with (
        patch.object(PromptProducer, "start", hangs),
        patch.object(RefusalWatch, "failed") as failed,
        pytest.raises(LogError),
    ):
        await ask(producer)
    failed.assert_called()
    await producer.close()


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
