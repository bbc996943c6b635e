"""Making an analysts' file, or some partitions of one, from the log alone: in this process, in one go or in several.

The same rule and the same writer as the materializer's, so there is one way from the log to rows. Killed anywhere, it
goes on from the file's checkpoints when it is called again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnlog_streams.projection.state import ProjectionError
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.config import Settings
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.ports import LogBrokenError
from turnlog_workers.kafka.topics_admin import TopicFound, TopicsError, list_topics
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.analysts_tables import for_readers
from turnlog_workers.materializer.bulk_reader import Bound, BulkReader, bulk_reader
from turnlog_workers.materializer.log_follower import OtherLogError
from turnlog_workers.materializer.rebuild_places import temp_of
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind

_BATCHES = 8  #: of the materializer's at once: rows of a session that goes on in one are written once
_MEMORY_MB = 1024
# What a process that comes back may have to read again: a fifth of what it had read, and between these. A checkpoint
# costs more the larger the file is.
_MIN_CHECKPOINT_EVENTS, _MAX_CHECKPOINT_EVENTS = 250_000, 2_000_000
_CHECKPOINT_OF_FILE = 1 / 4
_REPORT_S = 2.0
_MAX_OTHER_LOGS = 3

ChooseBound = Callable[[BulkReader, Sequence[int]], Bound]  #: of these partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a rebuild is. Records count, accepted or not."""

    done: int
    total: int
    read: int  #: by this process
    seconds: float  #: of this process

    def describe(self) -> str:
        """A line for people."""
        rate = self.read / self.seconds if self.seconds > 0 else 0.0
        part = 100 * self.done / self.total if self.total else 100.0
        left = f", about {_duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        return f"{self.done:,} of {self.total:,} records ({part:.0f} %), {rate:,.0f} a second{left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What came of it."""

    positions: Mapping[int, LogPosition]
    progress: Progress
    final: bool  #: whatever is appended later, what is before the bound's moments is in it


def event_topic(settings: Settings) -> TopicFound:
    """The event log's topic. Raises :class:`TopicsError`, :class:`BrokerUnreachableError`."""
    for topic in list_topics(settings):
        if topic.name == settings.topics.events:
            return topic
    raise TopicsError(f"topic {settings.topics.events} does not exist; run: turnlog topics init")


def kind_of(events: TopicFound, until: str = "") -> FileKind:
    """The analysts' file of a log; ``until``: one that ends at a moment of the past."""
    return analysts_kind(f"{events.name} {events.topic_id}", tuple(range(events.partitions)), until=until)


def whole_log(reader: BulkReader, partitions: Sequence[int]) -> Bound:
    """All that is in it now."""
    return Bound(ends=reader.log_ends(partitions))


def up_to(positions: Mapping[int, int]) -> ChooseBound:
    """Up to these offsets, by partition."""

    def choose(_: BulkReader, partitions: Sequence[int]) -> Bound:
        return Bound(ends={partition: positions.get(partition, 0) for partition in partitions})

    return choose


def rebuild_partitions(
    settings: Settings,
    path: Path,
    kind: FileKind,
    bound: Bound,
    report: Callable[[Progress], None],
    *,
    threads: int = 2,
) -> Rebuilt:
    """The file of a kind's partitions, in this process; ``threads`` are DuckDB's."""
    with bulk_reader(settings) as reader:
        file = AnalystsFile(
            path,
            kind,
            memory_limit_mb=_MEMORY_MB,
            threads=threads,
            temp=temp_of(path),
            away=database_files.delete,
            readers=for_readers(settings),
            logged=False,
        )
        try:
            return _Run(reader, file, bound, _BATCHES * settings.store_batch_events, report).run()
        finally:
            file.close()


def next_checkpoint(done: int) -> int:
    """After how many records a file is checkpointed that was checkpointed after ``done``."""
    return done + max(_MIN_CHECKPOINT_EVENTS, min(int(done * _CHECKPOINT_OF_FILE), _MAX_CHECKPOINT_EVENTS))


class _Run:
    """One rebuild, from the file's checkpoints to the bound."""

    def __init__(
        self,
        reader: BulkReader,
        file: AnalystsFile,
        bound: Bound,
        batch: int,
        report: Callable[[Progress], None],
    ) -> None:
        self._reader = reader
        self._file = file
        self._bound = bound
        self._batch = batch
        self._report = report
        self._began = self._reported = time.monotonic()
        self._from = 0
        self._total = sum(bound.ends.values()) if bound.records is None else bound.records

    def run(self) -> Rebuilt:
        """To the end."""
        tolerant, others = False, 0
        while True:
            try:
                self._from = self._done()
                self._reader.start(self._file.positions, self._bound)
                self._follow()
                break
            except OtherLogError as error:  # what stands there is of another log
                others += 1
                if others > _MAX_OTHER_LOGS:
                    raise LogBrokenError(
                        f"the log became another one {others} times while it was read: {error}"
                    ) from error
                self._file.start_anew(str(error), tolerant=tolerant)
            except ProjectionError as error:
                if tolerant:
                    raise
                tolerant = True  # as the materializer does: only the stream that is odd is left out
                self._file.start_anew(str(error), tolerant=True)
        self._file.renew()
        self._file.checkpoint()
        final = self._reader.stopped >= self._bound.moments.keys()
        return Rebuilt(positions=self._file.positions, progress=self._progress(), final=final)

    def _done(self) -> int:
        return sum(self._file.positions[partition].next_offset for partition in self._bound.ends)

    def _follow(self) -> None:
        due = next_checkpoint(self._done())
        while not self._reader.is_done:
            events = self._reader.read(self._batch)
            self._file.write(events, self._reader.positions)
            crash_point("rebuild.after_batch")
            if self._done() >= due:
                self._file.checkpoint()
                due = next_checkpoint(self._done())
            if (now := time.monotonic()) >= self._reported + _REPORT_S:
                self._reported = now
                self._report(self._progress())

    def _progress(self) -> Progress:
        done = self._done()
        return Progress(
            done=done,
            total=max(done, self._total),
            read=done - self._from,
            seconds=time.monotonic() - self._began,
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
