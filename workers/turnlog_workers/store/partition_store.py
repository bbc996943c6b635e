"""The worker's store: one DuckDB file per partition, all attached to one DuckDB instance.

Every DuckDB call runs in one thread of its own, so the event loop never waits for a disk. Memory, not the store, is
the authority for live sessions: the store is written every second or so, and loads sessions that are not live.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import duckdb

from turnlog_streams.folding.fold import StreamName
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind, FileLockedError
from turnlog_workers.store.duckdb_errors import store_error
from turnlog_workers.store.port import (
    FoundRows,
    LoadedStream,
    NoRoomError,
    Saved,
    StoreError,
    UnreadableStoreError,
    WantedRows,
)
from turnlog_workers.store.renewal import Outworn, recover
from turnlog_workers.store.store_files import alias_of, delete_left_over, file_name, store_kind, take_place
from turnlog_workers.store.stream_rows import StreamWriter, load_whole, look_up, unanswered, unfinished
from turnlog_workers.store.temp_directory import ScratchFolder

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_HAND_OVER_POLL_S = 0.05
_MAX_OWN_FILES = 16  #: of one partition in one process, while others hold the usual one
_MAX_CACHED_STREAMS = 2_000  #: of one partition
_MEMORY_AT_REST_MB = 16


class StoreDirectory:
    """The stores of one worker, in one folder."""

    def __init__(
        self, path: Path, *, deployment: str, threads: int = 1, memory_limit_mb: int = 256, hand_over_s: float = 2.0
    ) -> None:
        """``deployment`` names cluster and topics: files of another one are moved aside.

        ``hand_over_s`` is how long the file of a partition is waited for while another process holds it.
        Raises :class:`StoreError` when the folder cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.scratch = ScratchFolder(path / "temp")
        except OSError as error:
            raise StoreError(f"the folder {path} cannot be made: {error}. Set TURNLOG_DATA_DIR to another") from error
        self.path = path
        self.deployment = deployment
        self._hand_over_s = hand_over_s
        self._memory_limit_mb = memory_limit_mb
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turnlog-store")
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": f"{memory_limit_mb}MB",
                "allocator_flush_threshold": "16MB",  # the default keeps 128 MB of freed memory, beside the limit
                "temp_directory": str(self.scratch.path),
                "wal_autocheckpoint": "1GB",  # a commit must stay short: checkpoints come from here, on purpose
            },
        )
        self._open: dict[int, DuckPartitionStore] = {}
        self._opening: set[int] = set()
        self._closed = False

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the store's thread. DuckDB's errors come back as :class:`StoreError`."""
        if self._closed:
            raise StoreError(f"the stores in {self.path} are closed")

        def call() -> T:
            try:
                return function(*args, **kwargs)
            except duckdb.Error as error:
                raise store_error(f"DuckDB in {self.path}", error) from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def open(self, partition: int) -> "DuckPartitionStore":
        """The partition's store, where it stands. If another process does not let go of its file: one of our own.

        An owner that loses the partition closes the file at about the same moment as we ask for it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hand_over_s
        while loop.time() < deadline:
            try:
                return await self._opened(partition, lambda: self._attach_usual(partition))
            except FileLockedError:
                await asyncio.sleep(_HAND_OVER_POLL_S)
        return await self._opened(partition, lambda: self._attach(partition))

    async def open_fresh(self, partition: int, reason: str) -> "DuckPartitionStore":
        """Move the partition's file aside and start from the log's beginning."""

        def attach() -> DuckPartitionStore:
            store = self._attach(partition)
            if store.position != LogPosition():
                log.warning("%s is moved aside and rebuilt from the log: %s", store.file, reason)
                store.detach()
                database_files.move_aside(store.file)
                store = self._attach(partition)
            store.tolerate()
            return store

        return await self._opened(partition, attach)

    async def open_built(self, partition: int, file: Path, *, renew: bool, tolerant: bool) -> "DuckPartitionStore":
        """The store, made elsewhere: its file takes the place of ours. ``renew``: it holds what was erased."""

        def attach() -> DuckPartitionStore:
            store = self._attach(partition)
            store.detach()
            take_place(file, store.file, renew=renew)
            store = self._attach(partition)
            if tolerant:
                store.tolerate()
            return store

        return await self._opened(partition, attach)

    async def _opened(self, partition: int, attach: "Callable[[], DuckPartitionStore]") -> "DuckPartitionStore":
        if partition in self._open or partition in self._opening:
            raise ValueError(f"the store of partition {partition} is open already: close it first")
        self._opening.add(partition)
        try:
            store = self._open[partition] = await self.run(attach)
        finally:
            self._opening.discard(partition)
        return store

    def _attach_usual(self, partition: int) -> "DuckPartitionStore":
        file = self.path / file_name(partition)
        store = self._attach_file(partition, file)
        delete_left_over(self.path, partition)
        return store

    def _attach_file(self, partition: int, file: Path) -> "DuckPartitionStore":
        alias = alias_of(partition)
        kind = store_kind(self.deployment, partition)
        recover(file)
        database_files.attach(self._connection, file, alias, kind)
        return DuckPartitionStore(self, partition, file, kind, self._connection)

    def _attach(self, partition: int) -> "DuckPartitionStore":
        try:
            return self._attach_usual(partition)
        except FileLockedError as error:
            log.warning("%s; another file is used meanwhile", error)
        for number in range(1, _MAX_OWN_FILES):
            with contextlib.suppress(FileLockedError):
                return self._attach_file(partition, self.path / file_name(partition, f".{os.getpid()}-{number}"))
        raise StoreError(f"every file for partition {partition} in {self.path} is open elsewhere: stop old workers")

    def give_memory_back(self) -> None:
        """Empty DuckDB's memory, if every store rests (in the store's thread).

        Only a new limit does that (DuckDB 1.5, ``BufferPool::SetLimit``).
        """
        stores = tuple(self._open.values())
        if not all(store.resting for store in stores):
            return
        for store in stores:
            store.attach_anew()
        with contextlib.suppress(duckdb.OutOfMemoryException):  # what is left is in use; the rest is gone
            self._connection.execute(f"SET memory_limit = '{_MEMORY_AT_REST_MB}MB'")
        self._connection.execute(f"SET memory_limit = '{self._memory_limit_mb}MB'")

    def closed(self, partition: int) -> None:
        """A store tells that it is closed."""
        self._open.pop(partition, None)

    async def close(self) -> None:
        """Close every store and the instance. May be called again."""
        if self._closed:
            return
        for store in list(self._open.values()):
            try:
                await store.close()
            except Exception as error:  # the log has everything; the others are to be closed all the same
                log.error("%s is not closed in order: %s", store.file, error)
        await self.run(self._connection.close)
        self._closed = True
        self._executor.shutdown(wait=False)
        self.scratch.remove()


class DuckPartitionStore:
    """One partition's DuckDB file, open."""

    def __init__(
        self, directory: StoreDirectory, partition: int, file: Path, kind: FileKind, instance: duckdb.DuckDBPyConnection
    ) -> None:
        self.file = file
        self.resting = False
        self._directory = directory
        self._partition = partition
        self._kind = kind
        self._alias = alias_of(partition)
        self._instance = instance
        self._outworn = Outworn(file, f"{self._alias}.*.duckdb")
        self._attached = True
        self._invalidated = False  #: DuckDB takes nothing more until it is attached again
        self.tolerant = False  #: it was made anew of the whole log
        self._use_file()
        self._closed = False

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint."""
        return self._writer.position

    @property
    def outworn(self) -> bool:
        """Does it hold what was erased, and is it time to write it anew?"""
        return self._outworn.due

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        """Rows and checkpoint in one transaction."""
        return await self._run(self._write, events, position)

    async def load(self, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        """Whole streams."""
        return await self._read(load_whole, names)

    async def look_up(self, wanted: Sequence[WantedRows]) -> list[FoundRows]:
        """Rows of streams, many in one query."""
        return await self._read(look_up, wanted)

    async def unfinished(self) -> list[StreamName]:
        """Streams with open turns, owed work or pending forwards."""
        return await self._read(unfinished)

    async def unanswered(self) -> list[Unanswered]:
        """Requests whose answers may not have been sent."""
        return await self._read(unanswered)

    async def forget(self, streams: Collection[StreamName]) -> None:
        """Drop what the next batch of these would have saved reading back."""
        await self._run(lambda: self._writer.forget(streams))

    async def rest(self) -> None:
        """Fold the write-ahead log into the file; the last store that comes to rest empties DuckDB's memory."""
        await self._run(self._rest)

    async def close(self) -> None:
        """Checkpoint and give the file free."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._directory.run(self._close)
        finally:
            self._directory.closed(self._partition)

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise StoreError(f"the store of partition {self._partition} is closed")
        return await self._directory.run(self._use, function, *args, **kwargs)

    async def _read(
        self, function: Callable[Concatenate[duckdb.DuckDBPyConnection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await self._run(lambda: function(self._cursor, *args, **kwargs))
        except (NoRoomError, UnreadableStoreError):
            raise
        except StoreError as error:
            if isinstance(error.__cause__, duckdb.Error):
                raise UnreadableStoreError(str(error)) from error
            raise

    # ---- in the store's thread

    def tolerate(self) -> None:
        """It is made of the whole log: what is odd in it is the log's, not ours to mend."""
        self.tolerant = self._writer.tolerant = True

    def _use(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.resting = False
        if self._invalidated or not self._attached:
            self._attach_again()
        try:
            return function(*args, **kwargs)
        except duckdb.Error as error:
            # After a failed checkpoint (a full disk), also when there is space again (DuckDB 1.5).
            self._invalidated = self._invalidated or "has been invalidated" in str(error)
            raise

    def _use_file(self) -> None:
        self._cursor = self._instance.cursor()
        self._cursor.execute(f"USE {self._alias}")
        self._writer = StreamWriter(self._cursor, self._partition, max_cached_streams=_MAX_CACHED_STREAMS)
        self._writer.tolerant = self.tolerant

    def _attach_again(self) -> None:
        """The same file, with what was committed; nothing of it is moved aside while its owner goes on from there."""
        before = self.position
        self.attach_anew()
        if self.position != before:
            found = self.position.next_offset
            self._writer.position = before  # nobody must go on from there
            raise StoreError(
                f"{self.file} holds events up to {found}, and held them up to {before.next_offset}: restart the worker"
            )
        self._invalidated = False
        log.warning("%s is attached again: DuckDB had given it up after a failed write", self.file)

    def _write(self, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        self._outworn.note(events)
        saved = self._writer.commit(events, position)
        if self._outworn.due:
            self._renew()
        if database_files.checkpoint_pays(self.file):
            self._checkpoint()
        return saved

    def _renew(self) -> None:
        """Write the file anew, without what was erased from it. Where that fails, it stays, and is tried again."""
        try:
            self._checkpoint()
            self._let_go()
            self._outworn.set_old()
            self._attach_as_it_is()
            self._outworn.fill(self._cursor, self._kind)
            self._outworn.finish()
        except (duckdb.Error, OSError, StoreError) as error:
            log.error("%s cannot be written anew, so it still holds what was erased: %s", self.file, error)
            self._let_go()
            self._outworn.go_back()
            self._attach_as_it_is()
        else:
            self._cursor.close()
            self._use_file()

    def _checkpoint(self) -> None:
        self._cursor.execute(f"CHECKPOINT {self._alias}")

    def _rest(self) -> None:
        if self._outworn.yes:
            self._renew()
        self._checkpoint()
        self._writer.forget()
        self.resting = True
        self._directory.give_memory_back()

    def attach_anew(self) -> None:
        """What was updated stays in memory until then, whatever the limit (DuckDB 1.5). In the store's thread."""
        self._let_go()
        self._attach_as_it_is()

    def _let_go(self) -> None:
        if self._attached:
            self._cursor.close()
            database_files.detach(self._instance, self._alias)
            self._attached = False

    def _attach_as_it_is(self) -> None:
        database_files.attach_as_it_is(self._instance, self.file, self._alias, self._kind)
        self._attached = True
        self._use_file()

    def _close(self) -> None:
        try:
            if self._attached and self._outworn.yes:
                self._renew()
            if self._attached:
                self._checkpoint()
        except duckdb.Error as error:  # the write-ahead log holds what the checkpoint would have
            log.warning("%s: the checkpoint on closing failed: %s", self.file, error)
        self.detach()

    def detach(self) -> None:
        """Give the file free (in the store's thread)."""
        self._cursor.close()
        try:
            if self._attached:
                database_files.detach(self._instance, self._alias)
        finally:
            database_files.forget(self.file)
