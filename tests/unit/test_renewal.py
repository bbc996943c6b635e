"""Files that are written anew after an erasure: no byte of it stays, and a crash or a full disk loses nothing."""

import errno
from pathlib import Path
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
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.store import renewal
from turnlog_workers.store.partition_store import StoreDirectory
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
    rows(tmp_path, LOG, 30)
    assert files_with(tmp_path) == []
    assert sorted(path.name for path in tmp_path.glob("[as]*.duckdb*")) == ["analytics.duckdb", "snapshot.duckdb"]
