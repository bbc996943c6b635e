"""A store made in parts is the one that is made in one go, whatever the parts; and it takes its place."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log
from tests.unit.test_renewal import erased_log, files_with
from tests.unit.test_store_files import DEPLOYMENT, hashes
from turnlog_schemas.events import PartitionClaimed
from turnlog_streams.folding.rows import ENCODING
from turnlog_streams.reader_rule import NOT_READ
from turnlog_workers.store import store_parts
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.store_parts import StorePart

FILE = f"p0000.{ENCODING}.duckdb"


def made_part(folder: Path, log: LogWriter, number: int, count: int) -> StorePart:
    """One that has read the whole log, as a process of its own would."""
    part = StorePart(
        folder / f"{number}.duckdb",
        deployment=DEPLOYMENT,
        partition=0,
        number=number,
        count=count,
        temp=folder / f"temp-{number}",
        tolerant=False,
    )
    for start in range(0, len(log.records), 7):
        batch = log.records[start : start + 7]
        part.takes(100 * len(batch))
        part.take(
            [
                event
                if part.has(event.header.stream_id.encode()) or isinstance(event.payload, PartitionClaimed)
                else replace(event, payload=NOT_READ)
                for event in batch
            ]
        )
    part.finish()
    return part


def made(folder: Path, log: LogWriter, count: int) -> bool:
    """All parts, put together; is the file to be written anew?"""
    folder.mkdir()
    first, *others = (made_part(folder, log, number, count) for number in range(count))
    for other in others:
        other.close()
        first.take_from(other.path)
    first.close()
    return first.erasures


async def made_in_one_go(folder: Path, log: LogWriter) -> dict[str, str]:
    directory = StoreDirectory(folder, deployment=DEPLOYMENT)
    store = await directory.open(0)
    for events, position in accepted_batches(log.records, 50):
        await store.write(events, position)
    await directory.close()
    return hashes(folder / FILE)


@pytest.mark.parametrize("events", [30, 20_000], ids=["many-commits", "one-commit"])
async def test_all_parts_together_are_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    monkeypatch.setattr(store_parts, "_COMMIT_EVENTS", events)
    for seed in (3, 77):
        log = random_log(seed, 400)
        assert log.inert
        assert len(log.channels) > 1
        whole = await made_in_one_go(tmp_path / f"whole-{seed}", log)
        assert all(
            not whole[name].startswith("0:") for name in ("streams", "messages", "unanswered", "channel_sessions")
        )
        for count in (1, 2, 3):
            folder = tmp_path / f"{seed}-{count}"
            made(folder, log, count)
            assert hashes(folder / "0.duckdb") == whole


async def test_it_takes_the_place_of_an_empty_one_and_goes_on(tmp_path: Path) -> None:
    log = random_log(5, 300)
    whole = await made_in_one_go(tmp_path / "whole", log)
    some = replace(log, records=log.records[:200])
    made(tmp_path / "made", some, 2)
    directory = StoreDirectory(tmp_path / "stores", deployment=DEPLOYMENT)
    await (await directory.open(0)).close()
    store = await directory.open_built(0, tmp_path / "made" / "0.duckdb", renew=False, tolerant=False)
    assert store.position.next_offset == 200
    for events, position in accepted_batches(log.records, 40, store.position):
        await store.write(events, position)
    assert await store.load(log.streams) == log.expected()
    await directory.close()
    assert hashes(tmp_path / "stores" / FILE) == whole


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_nothing_that_was_erased_stays_in_it(tmp_path: Path, count: int) -> None:
    log = erased_log()
    whole = await made_in_one_go(tmp_path / "whole", log)
    renew = made(tmp_path / "made", log, count)
    assert renew or count > 1, "of the other parts only rows come that are there"
    directory = StoreDirectory(tmp_path / "stores", deployment=DEPLOYMENT)
    store = await directory.open_built(0, tmp_path / "made" / "0.duckdb", renew=renew, tolerant=False)
    assert store.outworn == renew
    await directory.close()
    assert files_with(tmp_path / "stores") == []
    assert hashes(tmp_path / "stores" / FILE) == whole


def test_parts_of_different_logs_do_not_come_together(tmp_path: Path) -> None:
    log = random_log(5, 300)
    first = made_part(tmp_path, log, 0, 2)
    other = made_part(tmp_path, replace(log, records=log.records[:-1]), 1, 2)
    other.close()
    with pytest.raises(StoreError, match="same place"):
        first.take_from(other.path)
    first.close()
