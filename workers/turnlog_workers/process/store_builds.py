"""The store of a partition with a long log, made by processes of their own: Python folds on one core at a time.

The worker's event loop is free meanwhile. One partition is made after the other: each has all the cores, and what it
takes in memory has a bound. Whatever goes wrong, the worker makes the store by itself, as it does with a short log.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import at
from turnlog_workers.base.part_process import command_line, environment, order_line
from turnlog_workers.process.store_part_process import MODULE, StoreOrder
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import PartitionStore

log = logging.getLogger(__name__)


class BuildError(Exception):
    """The processes could not make it; the text says why."""


class ProcessBuilds:
    """:class:`StoreBuilds` in processes, for one worker."""

    def __init__(self, settings: Settings, stores: StoreDirectory, *, sealed: int | None) -> None:
        """``sealed``: partitions of the topic with the keys; ``None``: texts are not sealed."""
        self._settings = settings
        self._stores = stores
        self._sealed = sealed
        self._processes = min(settings.store_build_processes, os.cpu_count() or 1)
        self._turn = asyncio.Lock()
        self._told: set[Callable[[int], None]] = set()  #: of all who wait

    def pay(self, events: int) -> bool:
        """On one core nothing is won."""
        return self._processes > 1 and events >= self._settings.store_build_events

    async def build(
        self, partition: int, end: int, *, tolerant: bool, told: Callable[[int], None]
    ) -> Callable[[], Coroutine[None, None, PartitionStore]] | None:
        self._told.add(told)
        try:
            async with self._turn:
                return await self._build(partition, end, tolerant=tolerant)
        except (BuildError, OSError) as error:
            place = at(topic=self._settings.topics.events, partition=partition)
            log.warning("the store is not made by processes of its own: %s", error, extra=place)
            return None
        finally:
            self._told.discard(told)

    async def _build(
        self, partition: int, end: int, *, tolerant: bool
    ) -> Callable[[], Coroutine[None, None, PartitionStore]]:
        folder = self._stores.scratch.path / f"build-{partition}"
        await asyncio.to_thread(_empty, folder)
        order = StoreOrder(
            folder=str(folder),
            deployment=self._stores.deployment,
            partition=partition,
            end=end,
            sealed_partitions=self._sealed,
            tolerant=tolerant,
            count=self._processes,
        )
        began = time.monotonic()
        try:
            renew = await self._made(order)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        place = at(topic=self._settings.topics.events, partition=partition)
        took_s = time.monotonic() - began
        log.info("its store up to %d is made by %d processes, in %.1f s", end, order.count, took_s, extra=place)
        return partial(self._stores.open_built, partition, order.path(0), renew=renew, tolerant=tolerant)

    async def _made(self, order: StoreOrder) -> bool:
        """Is the file to be written anew?"""
        first, *others = parts = [_Part(order.of(number), self._tell) for number in range(order.count)]
        left = set(others)

        async def make_another(part: _Part) -> None:
            await part.made()
            left.discard(part)
            if not left:
                first.go_on()

        try:
            for part in parts:
                await part.start(self._settings)
            renew = (await asyncio.gather(first.made(), *map(make_another, others)))[0]
        finally:
            for part in parts:
                await part.end()
        return bool(renew)

    def _tell(self, events: int) -> None:
        for told in tuple(self._told):
            told(events)


class _Part:
    """A process that makes a part."""

    def __init__(self, order: Mapping[str, Any], tell: Callable[[int], None]) -> None:
        """``tell`` how many more records are read."""
        self._order = order
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, settings: Settings) -> None:
        """Raises ``OSError``."""
        self._process = await asyncio.create_subprocess_exec(
            *command_line(MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(settings),
            start_new_session=True,  # Ctrl-C is for us
        )
        self._write(order_line(self._order))

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())

    async def made(self) -> bool:
        """Until it is. Is its file to be written anew? Raises :class:`BuildError`."""
        assert self._process is not None
        assert self._process.stdout is not None
        read = 0
        async for line in self._process.stdout:
            said = json.loads(line)
            if "read" in said:
                self._tell(said["read"] - read)
                read = said["read"]
            elif said["error"] is not None:
                raise BuildError(said["error"])
            else:
                return bool(said["renew"])
        raise BuildError("a process of it ended before it was done")

    def go_on(self) -> None:
        """The others are made."""
        self._write("\n")

    async def end(self) -> None:
        """Also if it is not done, or was never started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
