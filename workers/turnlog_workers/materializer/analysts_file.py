"""The analysts' DuckDB file: all partitions, written by the materializer alone."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from turnlog_streams.projection.rows import PROJECTION_VERSION, TABLES
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.materializer.analysts_tables import PLAIN, ForReaders, bring_up_to_date, table_statements
from turnlog_workers.materializer.batch_writer import BatchWriter
from turnlog_workers.materializer.copies import forget_copies
from turnlog_workers.materializer.publication_state import Publications
from turnlog_workers.materializer.snapshot import Mark, SnapshotError, is_untouched, publish
from turnlog_workers.materializer.swapping import swapping
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind
from turnlog_workers.store.duckdb_errors import store_error
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.renewal import Outworn
from turnlog_workers.store.tables import arrow_columns, quoted, transaction, with_batch
from turnlog_workers.store.temp_directory import ScratchFolder

log = logging.getLogger(__name__)

_ALIAS = "analytics"
_MAX_CACHED_SESSIONS = 20_000
_SLOW_COPY_S = 120.0
_BLOCK_BYTES = 256 * 1024
RequestPlace = tuple[int, int]  #: partition and offset of a request


def analysts_kind(deployment: str, partitions: tuple[int, ...], *, until: str = "") -> FileKind:
    """The analysts' file of a deployment; ``until``: one that ends at a moment of the past."""
    return FileKind(
        deployment=deployment,
        until=until,
        rows=str(PROJECTION_VERSION),
        tables=TABLES,
        partitions=partitions,
        block_bytes=_BLOCK_BYTES,
        then=tuple(table_statements()),
    )


class AnalystsFile:
    """The file, open. One thread uses it; only the copying of a snapshot happens in another."""

    def __init__(
        self,
        path: Path,
        kind: FileKind,
        *,
        memory_limit_mb: int = 2048,
        threads: int = 2,
        temp: Path | None = None,
        away: database_files.Away = database_files.move_aside,
        readers: ForReaders = PLAIN,
        logged: bool = True,
    ) -> None:
        """Open the file where it stands, or make it. Raises :class:`StoreError`.

        ``temp``: of this process alone, for what does not fit into memory; absent: one is made, and removed. ``away``:
        what becomes of a file that cannot be used. Not ``logged``: what is written is kept from the next
        :meth:`checkpoint` on, which takes far less time.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = None if temp is not None else ScratchFolder(path.parent / "temp")
        except OSError as error:
            raise StoreError(f"the folder {path.parent} cannot be made: {error}") from error
        self.path = path
        self.kind = kind
        self._readers = readers
        self._away = away
        self._logged = logged
        self._instance = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": f"{memory_limit_mb}MB",
                "temp_directory": str(temp if self._scratch is None else self._scratch.path),
                # Only publishing checkpoints: a snapshot is a copy of a file that must not change meanwhile.
                "wal_autocheckpoint": "100GB",
            },
        )
        self.publications = Publications(path.parent)
        self._copying = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turnlog-snapshot")
        self._copy: Future[Mark] | None = None
        self._copy_target = path
        self._copy_began = 0.0
        self._published: Mapping[int, LogPosition] | None = None
        self._mark: Mark | None = None  #: of the file that was published last
        self._bytes_changed = False
        self._outworn = Outworn(path)
        self._attached = False
        try:
            self._open()
        except BaseException:
            self._end()
            raise

    def _open(self) -> None:
        database_files.attach(self._instance, self.path, _ALIAS, self.kind, away=self._away, logged=self._logged)
        self._attached = True
        # Closed only when the database is detached: see turnlog_workers.materializer.snapshot.
        self._source = self.path.open("rb", buffering=0)
        self._cursor = self._instance.cursor()
        self._cursor.execute(f"USE {_ALIAS}")
        try:
            bring_up_to_date(self._cursor, self._readers)
        except duckdb.Error as error:
            raise self._failed(error) from error
        self._writer = self._new_writer()

    def _new_writer(self) -> BatchWriter:
        return BatchWriter(self._cursor, max_cached_sessions=_MAX_CACHED_SESSIONS, each_batch=self._logged)

    @property
    def positions(self) -> Mapping[int, LogPosition]:
        """Of every partition: behind what is written; in a file that is not ``logged``, kept from a checkpoint on."""
        return self._writer.positions

    @property
    def written_events(self) -> int:
        """Since the file was opened."""
        return self._writer.events

    @property
    def written_rows(self) -> int:
        """New and changed, since the file was opened."""
        return self._writer.rows

    def write(self, events: Sequence[LoggedEvent], positions: Mapping[int, LogPosition]) -> None:
        """Commit rows and checkpoints of all partitions of a batch in one transaction. Raises :class:`StoreError`."""
        self._outworn.note(events)
        try:
            self._writer.commit(events, positions)
        except duckdb.Error as error:
            raise self._failed(error) from error

    def renew(self) -> None:
        """Write the file anew, if something was erased from it. Raises :class:`StoreError`."""
        if not self._outworn.yes:
            return
        tolerant = self._writer.tolerant
        self.checkpoint()
        with swapping(self.path):
            self._written_anew()
        self._writer = self._new_writer()  # the one that `_open` made knows nothing of the rows that came since
        self._writer.tolerant = tolerant
        log.info("%s is written anew: what was erased is gone from it", self.path)

    def _written_anew(self) -> None:
        self._detach()
        try:
            self._outworn.set_old()
            self._open()
            self._outworn.fill(self._cursor, self.kind)
            forget_copies(self.path)
            self._outworn.finish()
        except duckdb.Error as error:
            raise self._failed(error) from error
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written anew: {error}. Check the disk") from error

    def take_from(self, part: Path) -> None:
        """Add the rows of a file that has other partitions only, all or none. Raises :class:`StoreError`."""
        try:
            self._cursor.execute(f"ATTACH '{quoted(part)}' AS part (READ_ONLY)")
            with transaction(self._cursor):
                self._cursor.execute(
                    "DELETE FROM partitions WHERE partition IN (SELECT partition FROM part.partitions)"
                )
                for table in self.kind.tables:
                    self._cursor.execute(f"INSERT INTO {table.place} FROM part.{table.place}")
            self._cursor.execute("DETACH part")
        except duckdb.Error as error:
            raise self._failed(error) from error

    def checkpoint(self) -> None:
        """Put what is committed into the file itself. Not while it is being published. Raises :class:`StoreError`."""
        try:
            self._writer.flush()
            self._cursor.execute(f"CHECKPOINT {_ALIAS}")
        except duckdb.Error as error:
            raise self._failed(error) from error

    def fill_dead_letters(self, found: Mapping[RequestPlace, bytes]) -> set[RequestPlace]:
        """Put bytes beside the dead letters that are known; tells which are. Raises :class:`StoreError`."""
        if not found:
            return set()
        partitions, offsets = zip(*found, strict=True)
        batch = arrow_columns(
            [
                ("partition", "BIGINT", partitions),
                ("request_offset", "BIGINT", offsets),
                ("bytes", "BLOB", found.values()),
            ]
        )
        try:
            known, changed = _fill(self._cursor, batch)
        except duckdb.Error as error:
            raise self._failed(error) from error
        self._bytes_changed = self._bytes_changed or changed
        return known

    def _failed(self, error: duckdb.Error) -> StoreError:
        return store_error(self.path, error)

    def start_anew(self, reason: str, *, tolerant: bool = False) -> None:
        """Put the file away and begin at the log's beginning. Raises :class:`StoreError`."""
        log.warning("%s is %s and rebuilt from the log: %s", self.path, database_files.what_is_done(self._away), reason)
        self._wait_for_copy()
        self._detach()
        self._away(self.path)
        self._open()
        self._writer.tolerant = tolerant

    def publish(self, target: Path) -> bool:
        """Begin to publish a snapshot, if there is something new and none is being copied; whether it did.

        After a failure not at once. Raises :class:`StoreError`.
        """
        if self._copy is not None and not self._copy.done():
            took_s = time.monotonic() - self._copy_began
            if took_s > _SLOW_COPY_S and self.publications.may_try:
                self.publications.failed(target, f"the snapshot {target} is still being copied: does its disk answer?")
            return False
        self._wait_for_copy()
        return self.publications.may_try and self._begin(target)

    def _begin(self, target: Path) -> bool:
        current = self._published == self.positions and not self._bytes_changed and not self._outworn.due
        if current and is_untouched(target, self._mark):
            self.publications.current()
            return False
        if self._outworn.due:
            self.renew()
        self.checkpoint()
        self._published, self._bytes_changed = self.positions, False
        self._copy_target, self._copy_began = target, time.monotonic()
        self._copy = self._copying.submit(publish, self._source, target, self.positions)
        return True

    def _wait_for_copy(self) -> None:
        """A copy that failed is tried again with the next."""
        copy, self._copy = self._copy, None
        if copy is None:
            return
        try:
            self._mark = copy.result()
        except SnapshotError as error:
            self._published = self._mark = None
            self.publications.failed(self._copy_target, str(error))
        else:
            self.publications.succeeded(self._copy_target, took_s=time.monotonic() - self._copy_began)

    def publish_now(self, target: Path) -> None:
        """Publish what is committed, and wait for it. A failure is told by :attr:`publications`."""
        self._wait_for_copy()
        if self._begin(target):
            self._wait_for_copy()

    def _detach(self) -> None:
        if not self._attached:
            return
        self._attached = False
        self._cursor.close()
        try:
            database_files.detach(self._instance, _ALIAS)
        except duckdb.Error as error:  # detached, and not checkpointed
            log.warning("%s is closed with its write-ahead log: %s", self.path, store_error(self.path, error))
        finally:
            self._source.close()
            database_files.forget(self.path)

    def close(self) -> None:
        """Give the file free. What is committed is in it, also when its disk is too full to put all into one file."""
        self._wait_for_copy()
        self._copying.shutdown()
        try:
            self._detach()
        finally:
            self._end()

    def _end(self) -> None:
        self._instance.close()
        if self._scratch is not None:
            self._scratch.remove()


def _fill(cursor: duckdb.DuckDBPyConnection, batch: Any) -> tuple[set[RequestPlace], bool]:
    known = with_batch(
        cursor,
        batch,
        "SELECT partition, request_offset FROM internal.dead_letters SEMI JOIN batch USING (partition, request_offset)",
    )
    places = {(partition, offset) for partition, offset in known.fetchall()}
    if not places:
        return places, False
    changed = with_batch(
        cursor,
        batch,
        "UPDATE internal.dead_letters AS known SET bytes = batch.bytes FROM batch "
        "WHERE known.partition = batch.partition AND known.request_offset = batch.request_offset "
        "AND known.bytes IS NULL",
    ).fetchone()
    return places, bool(changed and changed[0])
