"""A plug-in's task or callback that would end the event loop does not end the worker."""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
import uvloop

from turnlog_workers.process.faust_app import run_to_its_end


def exits() -> None:
    raise SystemExit(3)


def interrupts() -> None:
    raise KeyboardInterrupt


async def exits_in_a_task() -> None:
    exits()


def stops() -> None:
    asyncio.get_running_loop().stop()


def starts_a_task() -> None:
    starts_a_task.task = asyncio.get_running_loop().create_task(exits_in_a_task())  # type: ignore[attr-defined]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("act", [exits, interrupts, stops, starts_a_task])
def test_the_work_comes_to_its_own_end(
    loop: asyncio.AbstractEventLoop, act: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> int:
        for _ in range(2):
            asyncio.get_running_loop().call_soon(act)
            for _ in range(3):
                await asyncio.sleep(0)
        return 7

    with caplog.at_level(logging.ERROR, "turnlog_workers.process.faust_app"):
        assert run_to_its_end(loop, work()) == 7
    assert caplog.text.count("the worker goes on") == 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, RuntimeError, ValueError])
def test_what_the_work_itself_raises_is_its_end(loop: asyncio.AbstractEventLoop, error: type[BaseException]) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(error):
        run_to_its_end(loop, work())
