"""Files that are written anew after an erasure: no byte of it stays, and a crash or a full disk loses nothing."""

import errno
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from tests.erased_logs import blank
from tests.erasing_steps import erase_some
from tests.event_logs import LogWriter, accepted_batches, random_log
from tests.unit.test_store_files import DEPLOYMENT, hashes
from turnlog_schemas import events as ev
from turnlog_schemas.parts import text_content
from turnlog_streams.facts import Fact
from turnlog_streams.folding.rows import ENCODING
from turnlog_streams.projection.rows import TABLES
from turnlog_workers.kafka.session_keys import ErasureMarks, SessionKeys
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.moments import _forget_erased
from turnlog_workers.process.erasure_watch import ErasureWatch
from turnlog_workers.store import renewal
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.store_files import delete_outworn, partitions_of_files
from turnlog_workers.store.tables import table_hashes

WORD = "Xylographer"
STORE = f"p0000.{ENCODING}.duckdb"
KIND = analysts_kind("chat.events id", (0,))


def erased_log(seed: int = 12) -> LogWriter:
    """Two of its sessions are erased; each had a message with the word."""
    log = random_log(seed, 60, newer=False)
    for name in sorted(log.sessions)[:2]:
        seq = log.sessions[name].messages + 1
        said = ev.MessageStored(message_seq=seq, role="user", content=text_content(f"{WORD} of {name}"))
        log.facts(name, [Fact(event=said)])
    erase_some(log, 2)
    return log


LOG = erased_log()
BEFORE = next(event.offset for event in LOG.records if isinstance(event.payload, ev.SessionErased))


def files_with(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.name for path in files if WORD.encode() in path.read_bytes())


def stores_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("p0000*"))


async def write(folder: Path, log: LogWriter, size: int, *, upto: int | None = None) -> None:
    """As a worker, until it stops."""
    directory = StoreDirectory(folder, deployment=DEPLOYMENT)
    store = await directory.open(0)
    for events, position in accepted_batches(log.records[:upto], size, store.position):
        await store.write(events, position)
    await directory.close()


async def test_a_store_has_no_byte_of_it_and_is_what_a_blank_log_makes(tmp_path: Path) -> None:
    await write(tmp_path / "a", LOG, 30, upto=BEFORE)
    assert files_with(tmp_path / "a") == [STORE]
    (tmp_path / "a" / "p0000.1-0000.duckdb").write_text(WORD)  # of another version
    await write(tmp_path / "a", LOG, 30)
    assert files_with(tmp_path) == []
    assert stores_in(tmp_path / "a") == [STORE]
    await write(tmp_path / "b", blank(LOG), 1000)
    assert hashes(tmp_path / "a" / STORE) == hashes(tmp_path / "b" / STORE)


async def test_a_disk_that_is_full_leaves_the_old_file_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await write(tmp_path, LOG, 30, upto=BEFORE)
    with monkeypatch.context() as broken:
        broken.setattr(renewal, "crash_point", full)
        await write(tmp_path, LOG, 30)
    whole = hashes(tmp_path / STORE)
    assert (tmp_path / f"{STORE}.renew").exists()
    await write(tmp_path, LOG, 30)  # nothing new: it is done as the store closes
    assert files_with(tmp_path) == []
    assert hashes(tmp_path / STORE) == whole
    assert not (tmp_path / f"{STORE}.renew").exists()


async def test_a_worker_that_died_in_between_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    await write(tmp_path, LOG, 30)
    whole = hashes(tmp_path / STORE)
    (tmp_path / STORE).rename(tmp_path / f"{STORE.removesuffix('.duckdb')}.old.duckdb")
    (tmp_path / f"{STORE}.renew").touch()
    duckdb.connect(str(tmp_path / STORE)).close()  # half of a new one
    await write(tmp_path, LOG, 30)
    assert hashes(tmp_path / STORE) == whole
    assert stores_in(tmp_path) == [STORE]


async def test_files_of_partitions_that_others_own_are_deleted_and_no_others(tmp_path: Path) -> None:
    """Their worker owned them once, and may never hear of it; what is open is its owner's to write anew."""
    await write(tmp_path, LOG, 30, upto=BEFORE)
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / f"p0000.{ENCODING}.17.duckdb").write_text(WORD)
    later = tmp_path / "p0001.x.duckdb"
    later.write_text("of another partition")
    now_ms = time.time_ns() // 1_000_000
    hour = 3_600_000
    assert partitions_of_files(tmp_path) == [0, 1]
    assert delete_outworn(tmp_path, {1: now_ms - 2 * hour}) == []
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    await directory.open(0)
    aside = await directory.run(delete_outworn, tmp_path, {0: now_ms})
    assert [path.parent.name for path in aside] == ["aside"]
    await directory.close()
    assert [path.name for path in delete_outworn(tmp_path, {0: now_ms})] == [STORE]
    assert files_with(tmp_path) == []
    assert later.exists()


async def test_a_worker_looks_for_such_files_and_for_late_keys_and_lives_on_when_it_cannot(tmp_path: Path) -> None:
    (tmp_path / STORE).write_text(WORD)
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    mark = SimpleNamespace(key=b"session:s", value=b"{}", timestamp=time.time_ns() // 1_000_000)
    reader: Any = KeysTopic([mark])
    keys = SessionKeys("chat.keys", 1, reader)
    keys.of_partition(0)
    watch = ErasureWatch(keys, ErasureMarks("chat.keys", reader), directory, range(1))
    await watch.look()
    assert files_with(tmp_path) == []
    assert keys.of_partition(0).erased == {"session:s"}
    await directory.close()


class KeysTopic:
    """One partition of it, in memory."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    async def bounds(self, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
        return {partition: (0, len(self._records)) for partition in partitions}

    async def read_leniently(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        yield self._records[start:end]


def test_moments_of_before_an_erasure_are_made_anew(tmp_path: Path) -> None:
    _forget_erased(tmp_path / "as-of", "0:5")  # none yet
    (tmp_path / "as-of").mkdir()
    kept = tmp_path / "as-of" / "0a.duckdb"
    kept.touch()
    _forget_erased(tmp_path / "as-of", "")
    assert kept.exists()
    _forget_erased(tmp_path / "as-of", "0:5")
    assert not kept.exists()
    kept.touch()
    _forget_erased(tmp_path / "as-of", "0:5")
    assert kept.exists()
    _forget_erased(tmp_path / "as-of", "0:5 1:7")
    assert not kept.exists()


def rows(folder: Path, log: LogWriter, size: int) -> dict[str, str]:
    """The hashes of the analysts' file that a materializer publishes."""
    file = AnalystsFile(folder / "analytics.duckdb", KIND)
    for events, position in accepted_batches(log.records, size, file.positions[0]):
        file.write(events, {0: position})
    file.publish_now(folder / "snapshot.duckdb")
    file.close()
    connection = duckdb.connect(str(folder / "snapshot.duckdb"), read_only=True)
    try:
        return table_hashes(connection, TABLES)
    finally:
        connection.close()


def test_the_analysts_file_is_the_same_of_texts_and_of_blanks(tmp_path: Path) -> None:
    assert rows(tmp_path / "a", LOG, 30) == rows(tmp_path / "b", blank(LOG), 1000)
    assert files_with(tmp_path) == []


def test_an_analysts_file_of_before_has_it_and_no_longer(tmp_path: Path) -> None:
    earlier: Any = type("Earlier", (), {"records": LOG.records[:BEFORE]})()
    rows(tmp_path, earlier, 30)
    assert files_with(tmp_path) == ["analytics.duckdb", "snapshot.duckdb"]
    copies = ("as-of/0a.final.duckdb", "as-of/.0b.duckdb.building", "analytics.rebuild.duckdb", "temp/9-a/spilled")
    copies += (".analytics.rebuild.duckdb.parts/0.duckdb", ".analytics.rebuild.duckdb.temp/spilled", "temp/9-a/in-use")
    for copy in copies:
        (tmp_path / copy).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / copy).write_text(WORD)
    rows(tmp_path, LOG, 30)
    assert files_with(tmp_path) == []
    assert sorted(path.name for path in tmp_path.glob("[as]*.duckdb*")) == ["analytics.duckdb", "snapshot.duckdb"]
