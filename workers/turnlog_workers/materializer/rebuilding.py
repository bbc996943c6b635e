"""Making an analysts' file from the log alone: the whole of it or up to a moment, in one go or in several.

The same follower and the same writer as the materializer's, so there is one way from the log to rows. Killed anywhere,
it goes on from the file's checkpoints when it is called again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaConsumer

from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import EVENTS, packaged
from turnlog_streams.projection.state import ProjectionError
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.config import Settings
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.schema_topic import read_schemas
from turnlog_workers.kafka.topics_admin import TopicFound, TopicsError, list_topics
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.log_follower import OPTIONS, Bound, LogFollower, OtherLogError
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind

_POLL_S = 0.25
_BATCHES = 4  #: of the materializer's in one commit: rows of a session that goes on in one are written once
_MEMORY_MB = 1024
_CHECKPOINT_EVENTS = 1_000_000  #: what a process that comes back may have to replay
_REPORT_S = 2.0

ChooseBound = Callable[[LogFollower], Bound]


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


def whole_log(follower: LogFollower) -> Bound:
    """All that is in it now."""
    return Bound(ends=follower.log_ends())


def up_to(positions: Mapping[int, int]) -> ChooseBound:
    """Up to these offsets, by partition."""

    def choose(follower: LogFollower) -> Bound:
        return Bound(ends={partition: positions.get(partition, 0) for partition in follower.log_ends()})

    return choose


def rebuild(
    settings: Settings,
    path: Path,
    *,
    bound: ChooseBound = whole_log,
    until: str = "",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Rebuilt:
    """Make the file at ``path``, or go on with it where it stands; it is closed and whole when this returns.

    ``until`` marks the file, so that one with another end is never gone on with. Raises :class:`StoreError`,
    :class:`LogError`, :class:`NotFoundError` or :class:`BrokerUnreachableError`; the file stays, for the next call.
    """
    events = event_topic(settings)
    batch = _BATCHES * settings.store_batch_events
    options = {**OPTIONS, "max_poll_records": batch}
    with connected(KafkaConsumer, settings, "turnlog-rebuild", settings.startup_timeout_s, **options) as consumer:
        follower = LogFollower(
            consumer,
            events=events.name,
            partitions=events.partitions,
            dead_letters=[],
            codec=Codec(EVENTS, packaged()),
            refresh_schemas=lambda: _read_schemas(settings),
            timeout_s=settings.append_timeout_s,
        )
        file = AnalystsFile(
            path,
            kind_of(events, until),
            memory_limit_mb=_MEMORY_MB,
            temp=path.with_name(f".{path.name}.temp"),
            away=database_files.delete,
        )
        try:
            chosen = bound(follower)
            return _Run(follower, file, chosen, batch, report).run()
        finally:
            file.close()


class _Run:
    """One rebuild, from the file's checkpoints to the bound."""

    def __init__(
        self,
        follower: LogFollower,
        file: AnalystsFile,
        bound: Bound,
        batch: int,
        report: Callable[[Progress], None],
    ) -> None:
        self._follower = follower
        self._file = file
        self._bound = bound
        self._batch = batch
        self._report = report
        self._began = self._reported = time.monotonic()
        self._from = 0
        self._total = sum(bound.ends.values()) if bound.records is None else bound.records

    def run(self) -> Rebuilt:
        """To the end."""
        tolerant = False
        while True:
            try:
                self._from = self._done()
                self._follower.start(self._file.positions, self._bound)
                self._follow()
                break
            except OtherLogError as error:  # what stands there is of another log
                self._file.start_anew(str(error), tolerant=tolerant)
            except ProjectionError as error:
                if tolerant:
                    raise
                tolerant = True  # as the materializer does: only the stream that is odd is left out
                self._file.start_anew(str(error), tolerant=True)
        self._file.checkpoint()
        final = self._follower.stopped >= self._bound.moments.keys()
        return Rebuilt(positions=self._file.positions, progress=self._progress(), final=final)

    def _done(self) -> int:
        return sum(self._file.positions[partition].next_offset for partition in self._bound.ends)

    def _follow(self) -> None:
        checkpointed = self._done()
        while not self._follower.is_done:
            events, _ = self._follower.poll(_POLL_S, self._batch)
            self._file.write(events, self._follower.positions)
            crash_point("rebuild.after_commit")
            if self._done() >= checkpointed + _CHECKPOINT_EVENTS:
                self._file.checkpoint()
                checkpointed = self._done()
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


def _read_schemas(settings: Settings) -> None:
    read_schemas(settings, packaged())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
