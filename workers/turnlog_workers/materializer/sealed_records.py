"""Opening the records of a sealed log for a reader that blocks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from turnlog_schemas.codec import Codec
from turnlog_schemas.errors import UnknownFingerprintError
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError
from turnlog_workers.base.ports import Headers, LogBrokenError, LogError
from turnlog_workers.kafka.session_keys import ErasureMarks, KeyMissingError, SessionKeys
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.topics_admin import sealed_partitions


@contextmanager
def _unreachable() -> Iterator[None]:
    """A topic of keys that cannot be read now is a broker that does not answer; one that is broken stays what it is."""
    try:
        yield
    except LogBrokenError:
        raise
    except LogError as error:
        raise BrokerUnreachableError(f"the keys of sealed texts cannot be read: {error}") from error


class SealedRecords:
    """The keys of all partitions. Use it from one thread."""

    def __init__(self, settings: Settings, partitions: int, codec: Codec, runner: asyncio.Runner) -> None:
        self._codec = codec
        self._runner = runner
        self._reader = TopicReader(settings)
        self._keys = SessionKeys(settings.topics.keys, partitions, self._reader)

    def refresh(self, partition: int) -> None:
        """Read its keys on. Raises :class:`BrokerUnreachableError` or :class:`LogBrokenError`."""
        with _unreachable():
            self._runner.run(self._keys.refresh(partition))

    def open(self, partition: int, value: bytes, headers: Headers) -> bytes:
        """The whole record; without its texts, where they are erased.

        Raises as :meth:`refresh`, or :class:`UnknownFingerprintError`: see :meth:`SessionKeys.opened`.
        """
        try:
            return self._keys.opened(self._codec, partition, value, headers)
        except (KeyMissingError, UnknownFingerprintError):
            self.refresh(partition)
            return self._keys.opened(self._codec, partition, value, headers)

    def close(self) -> None:
        """Give the connections free."""
        self._runner.run(self._reader.close())


@contextmanager
def sealed_records(settings: Settings, codec: Codec) -> Iterator[SealedRecords | None]:
    """What opens the records of a sealed prefix, its keys read to their end; ``None``: the prefix is none.

    Raises as :meth:`SealedRecords.refresh`, or :class:`TopicsError`.
    """
    partitions = sealed_partitions(settings)
    if partitions is None:
        yield None
        return
    with asyncio.Runner() as runner:
        records = SealedRecords(settings, partitions, codec, runner)
        try:
            for partition in range(partitions):
                records.refresh(partition)
            yield records
        finally:
            records.close()


def erasures_of(settings: Settings) -> str:
    """What tells whether something was erased since; empty: nothing ever was. Blocks.

    Raises as :meth:`SealedRecords.refresh`, or :class:`TopicsError`.
    """
    partitions = sealed_partitions(settings)
    if partitions is None:
        return ""
    reader = TopicReader(settings)
    marks = ErasureMarks(settings.topics.keys, reader)

    async def read() -> None:
        try:
            for partition in range(partitions):
                await marks.refresh(partition)
        finally:
            await reader.close()

    with _unreachable():
        asyncio.run(read())
    return " ".join(f"{partition}:{newest_ms}" for partition, newest_ms in sorted(marks.newest_ms.items()))
