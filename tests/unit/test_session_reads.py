"""What is read of a session's store is read again where its store has trouble for a moment."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from turnlog_workers.shard import session_reads
from turnlog_workers.shard.session_reads import SessionReads
from turnlog_workers.store.port import DamagedStoreError, NoRoomError, StoreError, UnreadableStoreError


class Resident:
    """Answers when its troubles are over."""

    def __init__(self, *troubles: StoreError) -> None:
        self.troubles = list(troubles)

    async def messages(self, session_id: str, after: int, upto: int) -> list[Any]:
        if self.troubles:
            raise self.troubles.pop(0)
        return [(session_id, after, upto)]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []

    async def pause(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(session_reads, "asyncio", SimpleNamespace(sleep=pause))
    return taken


def read(resident: Resident) -> list[Any]:
    reads = SessionReads(cast(Any, None), cast(Any, resident), cast(Any, None))
    return list(asyncio.run(reads.earlier_messages("s", 1, 3)))


def test_a_full_disk_is_waited_for(pauses: list[float]) -> None:
    assert read(Resident(NoRoomError("full"), StoreError("busy"))) == [("s", 1, 3)]
    assert pauses == [0.2, 0.4]


def test_a_file_that_duckdb_gave_up_is_read_when_it_is_attached_again(pauses: list[float]) -> None:
    assert read(Resident(UnreadableStoreError("database has been invalidated"))) == [("s", 1, 3)]
    assert pauses == [0.2]


def test_not_for_ever(pauses: list[float]) -> None:
    with pytest.raises(NoRoomError):
        read(Resident(*[NoRoomError("full")] * 10))
    assert len(pauses) == 9


def test_a_damaged_file_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(DamagedStoreError):
        read(Resident(DamagedStoreError("damaged")))
    assert pauses == []
