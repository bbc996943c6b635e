"""A process that makes a part of a partition's store; the first one puts the parts together when all are made.

``python -m turnlog_workers.process.store_part_process`` is such a process.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from turnlog_streams.folding.fold import FoldError
from turnlog_workers.base.config import Settings
from turnlog_workers.base.part_process import begin, say
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka.log_to_read import log_to_read
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.store_parts import StorePart

MODULE = "turnlog_workers.process.store_part_process"
_SAY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOrder:
    """Which store, and which part of it."""

    folder: str  #: of the parts, and of what DuckDB moves out of memory
    deployment: str
    partition: int
    end: int  #: the first offset that is not read
    sealed_partitions: int | None
    tolerant: bool
    count: int
    number: int = 0

    def path(self, number: int) -> Path:
        """Of a part's file."""
        return Path(self.folder) / f"{number}.duckdb"

    def of(self, number: int) -> "dict[str, Any]":
        """The order of another part."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "number": number}


def make(settings: Settings, order: StoreOrder, others_are_made: Callable[[], object]) -> bool:
    """The part; the first one, then, is the whole. Is it to be written anew?

    ``others_are_made`` waits for them. Raises :class:`LogError`, :class:`StoreError` or :class:`FoldError`.
    """
    part = StorePart(
        order.path(order.number),
        deployment=order.deployment,
        partition=order.partition,
        number=order.number,
        count=order.count,
        temp=Path(order.folder) / f"temp-{order.number}",
        tolerant=order.tolerant,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_read(settings, order, part))
    part.finish()
    if order.number == 0 and order.count > 1:
        others_are_made()
        for number in range(1, order.count):
            part.take_from(order.path(number))
    part.close()
    return part.erasures


async def _read(settings: Settings, order: StoreOrder, part: StorePart) -> None:
    reader = TopicReader(settings)
    log = log_to_read(settings, reader, sealed_partitions=order.sealed_partitions)
    said_at = time.monotonic()
    try:
        async for batch in log.read_part(order.partition, order.end, part):
            part.take(batch)
            if (now := time.monotonic()) >= said_at + _SAY_S:
                said_at = now
                say(read=part.position.next_offset)
    finally:
        await reader.close()


def _main() -> None:
    order, told = begin()
    try:
        renew = make(Settings(), StoreOrder(**order), told.wait)
    except (LogError, StoreError, FoldError) as error:
        say(error=str(error) or type(error).__name__)
    else:
        say(error=None, renew=renew)


if __name__ == "__main__":
    _main()
