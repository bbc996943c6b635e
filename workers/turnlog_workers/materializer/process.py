"""The materializer: the whole event log into the analysts' DuckDB file, and a snapshot of it for readers.

Kill it anywhere: the file's checkpoints say where to go on, and a snapshot appears whole or not at all.
"""

import logging
import math
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FrameType

from kafka import KafkaConsumer, TopicPartition

from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import EVENTS, packaged
from turnlog_streams.projection.state import ProjectionError
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base import logs
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.base.ports import LogBrokenError, LogError
from turnlog_workers.base.readiness_file import mark_ready, mark_unready
from turnlog_workers.base.settings_check import unknown_variables
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.schema_topic import read_schemas
from turnlog_workers.kafka.topics_admin import TopicFound, TopicsError, list_topics
from turnlog_workers.kafka.unreachable import broke
from turnlog_workers.materializer.analysts_file import AnalystsFile, RequestPlace, analysts_kind
from turnlog_workers.materializer.analysts_tables import for_readers
from turnlog_workers.materializer.log_follower import OPTIONS, LogFollower, OtherLogError, UnreadableBatchError
from turnlog_workers.materializer.observation import Observation
from turnlog_workers.materializer.rebuild_places import rebuilt_of
from turnlog_workers.materializer.rebuilt_file import open_live, published_positions
from turnlog_workers.materializer.sealed_records import sealed_records
from turnlog_workers.store.database_files import FileLockedError
from turnlog_workers.store.port import NoRoomError, StoreError, UnreadableStoreError

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
FILE_NAME = "analytics.duckdb"
_POLL_S = 0.25
_CONNECT_AGAIN = Backoff(0.25, 5.0)
_ROOM_AGAIN = Backoff(1.0, 30.0)
_LOCKED_TRIES = 20  #: about a minute and a half, with the pauses of connecting
_ANEW_AGAIN = Backoff(1.0, 60.0)
_ANEW_IN_A_ROW_S = 600.0
_HEALTH_CHECK_S = 5.0
_MAX_WAITING_LETTERS = 1_000


def run_materializer(settings: Settings) -> int:
    """Materialize until SIGTERM or SIGINT; the exit code (0; 1: cannot go on; 3: no broker at the start)."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for sentence in unknown_variables(settings):
        log.warning("%s", sentence)
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return Materializer(settings, stop).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _FileRebuiltError(Exception):
    """A rebuilt file waits to take the place of ours."""


class Materializer:
    """One run of the process. ``stop`` ends it after the batch at hand, with a last snapshot."""

    def __init__(
        self, settings: Settings, stop: threading.Event, refresh_schemas: Callable[[], None] | None = None
    ) -> None:
        self._settings = settings
        self._stop = stop
        registry = packaged()
        self._codec = Codec(EVENTS, registry)
        self._refresh_schemas = refresh_schemas or (lambda: _read_schemas(settings))
        self._file: AnalystsFile | None = None
        self._readers = for_readers(settings)
        self._ready = False
        self._began = False  #: had the file open once, so a broker that is away is waited for
        self._published: Mapping[int, int] = {}  #: of the snapshot that our file has to reach before it is published
        self._dead_letters = True  #: are their bytes followed?
        self._told_healthy = True
        self._waiting: OrderedDict[RequestPlace, bytes] = OrderedDict()  #: bytes whose event is not read yet
        self._pending: list[LoggedEvent] = []
        self._made_anew, self._made_anew_at = 0, -math.inf  #: how often in a row, and when last
        self._observation = Observation(settings)

    def run(self) -> int:
        """Materialize until told to stop; the exit code."""
        self._observation.start(self._not_ready)
        try:
            return self._run()
        except FileLockedError as error:
            log.error("%s: another materializer is running on this data directory; stop it first", error)
        except (StoreError, LogError, NotFoundError) as error:
            log.error("%s", error)
        finally:
            self._observation.stop()
            if self._file is not None:
                self._file.close()
        return EXIT_FAILED

    def _not_ready(self) -> str:
        file = self._file
        if self._stop.is_set():
            return "it is stopping"
        if not self._ready or file is None:
            return "it has not caught up with the log yet"
        return "" if file.publications.healthy else "publishing the snapshot has been failing"

    def _run(self) -> int:
        failures = 0
        settings = self._settings
        first_until = time.monotonic() + settings.startup_timeout_s
        log.info("connecting to Kafka at %s, for %g s at most", settings.bootstrap_server, settings.startup_timeout_s)
        while not self._stop.is_set():
            try:
                self._connect_and_follow()
            except BrokerUnreachableError as error:
                if not self._began and not (broke(error) and time.monotonic() < first_until):
                    log.error("%s", error)
                    return EXIT_UNREACHABLE
                failures += 1
                self._pause(error, failures)
            except FileLockedError as error:
                # A rebuild that has just put its file in the place of ours publishes it, and then it is ours again.
                failures += 1
                if not self._began or failures > _LOCKED_TRIES:
                    raise
                self._pause(error, failures)
            except NoRoomError as error:
                failures += 1
                delay_s = _ROOM_AGAIN.next_delay(failures)
                log.error("%s. It is tried again in %g s", error, delay_s)
                self._until_there_is_room(delay_s)
            else:
                failures = 0
        if self._file is not None:
            self._publish(self._file, now=True)
        return 0

    def _pause(self, error: Exception, failures: int) -> None:
        delay_s = _CONNECT_AGAIN.next_delay(failures)
        log.warning("%s; trying again in %g s", error, delay_s)
        self._stop.wait(delay_s)

    def _until_there_is_room(self, delay_s: float) -> None:
        """The file is opened anew after that: DuckDB may have given it up. Its checkpoint is what was committed."""
        self._began = True  # the broker was there, whatever becomes of it meanwhile
        self._ready = False
        try:
            mark_unready()
        except OSError as error:
            log.warning("the readiness file cannot be changed: %s", error)
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._stop.wait(delay_s)

    def _connect_and_follow(self) -> None:
        settings = self._settings
        topics = {topic.name: topic for topic in list_topics(settings)}
        events = topics.get(settings.topics.events)
        if events is None:
            raise TopicsError(f"topic {settings.topics.events} does not exist; run: turnlog topics init")
        options = {**OPTIONS, "max_poll_records": settings.store_batch_events}
        with (
            sealed_records(settings, self._codec) as sealed,
            connected(
                KafkaConsumer, settings, "turnlog-materializer", settings.startup_timeout_s, **options
            ) as consumer,
        ):
            # What is sealed is kept nowhere in the clear for longer than its topic: of a dead letter, not in the file.
            follows = self._dead_letters and sealed is None
            parked = topics.get(settings.topics.dead_letters) if follows else None
            follower = LogFollower(
                consumer,
                events=events.name,
                partitions=events.partitions,
                dead_letters=[TopicPartition(parked.name, p) for p in range(parked.partitions)] if parked else [],
                codec=self._codec,
                refresh_schemas=self._refresh_schemas,
                timeout_s=settings.append_timeout_s,
                sealed=sealed,
            )
            file = self._open_file(events)
            self._pending.clear()
            try:
                follower.start(file.positions)
                with self._observation.following():
                    self._follow(follower, file)
            except _FileRebuiltError:
                file.close()  # whoever opens it next takes the rebuilt one: connect again
                self._file = None
            except OtherLogError as error:
                self._start_anew(file, str(error))  # and connect again
            except UnreadableBatchError as error:
                self._without_dead_letters(events.name, error)  # and connect again
            except UnreadableStoreError as error:
                self._start_anew(file, str(error))  # it was damaged, where nobody looked when it was opened
            except ProjectionError as error:
                # Ours may have lost rows. If the log itself is odd, only the stream that is so is left out.
                self._start_anew(file, str(error), tolerant=True)

    def _start_anew(self, file: AnalystsFile, reason: str, *, tolerant: bool = False) -> None:
        """The file is made anew. If that happens again and again it is the disk, or the log, and not the file."""
        now = time.monotonic()
        self._made_anew = self._made_anew + 1 if now < self._made_anew_at + _ANEW_IN_A_ROW_S else 0
        if self._made_anew:
            delay_s = _ANEW_AGAIN.next_delay(self._made_anew)
            log.warning("%s was made anew not long ago; it is made anew again in %g s", file.path, delay_s)
            self._stop.wait(delay_s)
        self._made_anew_at = time.monotonic()
        file.start_anew(reason, tolerant=tolerant)

    def _without_dead_letters(self, events: str, error: UnreadableBatchError) -> None:
        """A foreign record among the dead letters must not keep anybody from the events."""
        if not self._dead_letters:
            raise LogBrokenError(f"a batch of {events} cannot be read: {error}") from error
        log.error(
            "a batch cannot be read (%s): if the log itself can, %s has a record that is not Turnlog's. The bytes of "
            "dead letters are not copied any more; it is tried again at the next start",
            error,
            self._settings.topics.dead_letters,
        )
        self._dead_letters = False

    def _open_file(self, events: TopicFound) -> AnalystsFile:
        """The file; one of another topic of this name is moved aside."""
        kind = analysts_kind(f"{events.name} {events.topic_id}", tuple(range(events.partitions)))
        if self._file is not None and self._file.kind != kind:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = open_live(self._settings.data_dir / FILE_NAME, kind, self._readers)
            self._began = True
        return self._file

    def _publish(self, file: AnalystsFile, *, now: bool = False) -> None:
        """A snapshot, unless the published one says more: a file that is being made anew is behind it."""
        if any(file.positions[p].next_offset < offset for p, offset in self._published.items() if p in file.positions):
            return
        self._published = {}
        if now:
            file.publish_now(self._settings.snapshot)
        else:
            file.publish(self._settings.snapshot)

    def _follow(self, follower: LogFollower, file: AnalystsFile) -> None:
        settings = self._settings
        ends = follower.ends()
        self._observation.follows(file, ends)
        behind = True
        self._published = published_positions(settings.snapshot, file.kind.deployment)
        self._publish(file, now=True)  # at once, so that there is something to query
        commit_interval_s = min(settings.store_commit_interval_s, settings.publish_interval_s)
        committed_at = published_at = checked_at = time.monotonic()
        while not self._stop.is_set():
            self._observation.turns()
            events, parked = follower.poll(_POLL_S, settings.store_batch_events)
            self._pending += events
            for partition, offset, value in parked:
                self._waiting[partition, offset] = value
            now = time.monotonic()
            if len(self._pending) >= settings.store_batch_events or now >= committed_at + commit_interval_s:
                self._commit(follower, file)
                committed_at = now
            if now >= published_at + settings.publish_interval_s:
                self._publish(file)
                published_at = now
                self._tell_health(file)
                if rebuilt_of(file.path).exists():
                    raise _FileRebuiltError
            if behind and follower.has_reached(ends):
                behind = False
                self._caught_up(follower, file)
            if now >= checked_at + _HEALTH_CHECK_S:
                self._observation.follows(
                    file, follower.ends()
                )  # raises when the broker is away, or the log is another one
                checked_at = now
        self._commit(follower, file)

    def _caught_up(self, follower: LogFollower, file: AnalystsFile) -> None:
        self._commit(follower, file)
        follower.follow_dead_letters()
        self._published = {}
        if not self._ready:
            self._observation.rests()
            self._publish(file, now=True)
            self._ready = True
            mark_ready()
            log.info("caught up; the snapshot is %s", self._settings.snapshot)

    def _tell_health(self, file: AnalystsFile) -> None:
        """Ready is: caught up once, and snapshots do not fail for long."""
        if not self._ready or file.publications.healthy == self._told_healthy:
            return
        self._told_healthy = file.publications.healthy
        try:
            if self._told_healthy:
                mark_ready()
            else:
                mark_unready()
        except OSError as error:
            log.warning("the readiness file cannot be changed: %s", error)

    def _commit(self, follower: LogFollower, file: AnalystsFile) -> None:
        events, self._pending = self._pending, []
        file.write(events, follower.positions)
        for place in file.fill_dead_letters(self._waiting):
            self._waiting.pop(place)
        while len(self._waiting) > _MAX_WAITING_LETTERS:  # parked by an owner whose event did not count
            self._waiting.popitem(last=False)


def _read_schemas(settings: Settings) -> None:
    read_schemas(settings, packaged())


if __name__ == "__main__":
    settings = Settings()
    logs.set_up(settings)
    sys.exit(run_materializer(settings))
