"""Background tasks: one that dies is heard of, and started again or given up with a reason."""

import asyncio
import logging

import pytest

from tests.waiting import eventually
from turnlog_workers.base import tasks
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.tasks import MAX_DEATHS, all_within, describe, end, kept_running, watched


async def test_a_watched_task_that_dies_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    secret = "a password"

    async def dies() -> None:
        raise KeyError(secret)

    deaths: list[BaseException] = []
    await watched(dies(), "the sweeper", died=deaths.append)
    assert [type(error) for error in deaths] == [KeyError]
    assert "the sweeper died: KeyError at test_tasks.py:" in caplog.text
    assert secret not in caplog.text


async def test_a_cancellation_by_us_is_no_death_and_one_by_a_library_is() -> None:
    deaths: list[BaseException] = []
    forever = watched(asyncio.Event().wait(), "waits", died=deaths.append)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await end(forever)
    assert forever.cancelled()
    assert not deaths
    of_a_library: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    of_a_library.cancel()

    async def waits() -> None:
        await of_a_library

    await watched(waits(), "waits", died=deaths.append)
    assert [type(error) for error in deaths] == [asyncio.CancelledError]


async def test_a_task_that_is_to_run_for_ever_is_started_again_and_given_up_in_the_end() -> None:
    began = 0
    reasons: list[str] = []

    async def dies() -> None:
        nonlocal began
        began += 1
        if began % 2:
            raise OSError("no")

    await kept_running(dies, "the watch", gave_up=reasons.append, backoff=Backoff(0.0))
    assert began == MAX_DEATHS
    assert reasons == [f"the watch died {MAX_DEATHS} times in a row; the last time: it ended"]


async def test_a_death_now_and_then_is_no_row_of_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_STEADY_S", -1.0)
    began = 0

    async def dies() -> None:
        nonlocal began
        began += 1
        raise OSError("no")

    reasons: list[str] = []
    task = kept_running(dies, "the watch", gave_up=reasons.append, backoff=Backoff(0.0))
    await eventually(lambda: began > 3 * MAX_DEATHS, "started again and again")
    await end(task)
    assert not reasons


async def test_a_step_of_a_shutdown_that_fails_or_hangs_keeps_none_from_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    async def fails() -> None:
        raise RuntimeError("x")

    async def works() -> None:
        await asyncio.sleep(0)
        done.append("works")

    steps = [("one fails", fails()), ("one hangs", asyncio.Event().wait()), ("one works", works())]
    with caplog.at_level(logging.ERROR):
        await all_within(steps, 0.05)
    assert done == ["works"]
    assert any("one fails: RuntimeError at" in line for line in caplog.messages)
    assert any("one hangs: not within 0.05 s" in line for line in caplog.messages)


def test_an_error_is_described_without_its_text() -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        raise ValueError("a secret")
    assert describe(raised.value).startswith("ValueError at test_tasks.py:")
    assert "secret" not in describe(raised.value)
