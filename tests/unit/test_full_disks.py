"""What processes do while their disk is full, and once there is room again."""

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from tests.event_logs import accepted_batches, random_log
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError
from turnlog_workers.base.readiness_file import READY_FILE_VARIABLE
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.process import EXIT_FAILED, EXIT_UNREACHABLE, Materializer
from turnlog_workers.shard.saver import StoreTrouble
from turnlog_workers.store.database_files import FileLockedError
from turnlog_workers.store.port import NoRoomError, UnreadableStoreError

_HEADER_BYTES, _BLOCK_BYTES = 12_288, 256 * 1024  #: of DuckDB's files
ROOT = Path(__file__).resolve().parents[2]
WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.event_logs import accepted_batches, random_log
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.store.database_files import wal_of
from turnlog_workers.store.port import NoRoomError, UnreadableStoreError

path, kind = Path(sys.argv[1]) / "analytics.duckdb", analysts_kind("chat.events id", (0,))
file = AnalystsFile(path, kind)
batches = accepted_batches(random_log(3, 200).records, 50)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
for number, (events, position) in enumerate(batches):
    if number == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal_of(path).stat().st_size + 1000, limits[1]))
        before = dict(file.positions)
        try:
            file.write(events, {0: position})
            raise AssertionError("the disk was not full")
        except NoRoomError as error:
            sys.stdout.write(str(error))
        assert dict(file.positions) == before
        file.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file = AnalystsFile(path, kind)
        assert dict(file.positions) == before
    file.write(events, {0: position})
file.close()
"""


def test_the_analysts_file_is_taken_up_again_where_it_was(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(tmp_path)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "analytics.duckdb: the disk is full" in process.stdout
    assert not (tmp_path / "aside").exists()


def test_damage_that_shows_late_is_told_from_all_else_and_the_file_is_made_anew(tmp_path: Path) -> None:
    """DuckDB reads a block when it needs it: a file may open, and fail when it is written."""
    kind = analysts_kind("chat.events id", (0,))
    batches = list(accepted_batches(random_log(3, 600).records, 100))
    whole = AnalystsFile(tmp_path / "whole.duckdb", kind)
    for events, position in batches[:-1]:
        whole.write(events, {0: position})
    whole.checkpoint()
    whole.close()
    content = (tmp_path / "whole.duckdb").read_bytes()
    said = ""
    for at in range(_HEADER_BYTES, len(content), 3 * _BLOCK_BYTES):
        path = tmp_path / f"damaged-{at}.duckdb"
        path.write_bytes(content[: at + 1000] + b"U" * 100 + content[at + 1100 :])
        file = AnalystsFile(path, kind)
        if file.positions[0].next_offset == batches[-2][1].next_offset:  # else it was moved aside at once
            try:
                file.write(batches[-1][0], {0: batches[-1][1]})
                file.checkpoint()
            except UnreadableStoreError as error:
                said = str(error)
                file.start_anew(said)
                for events, position in batches:
                    file.write(events, {0: position})
        written = file.positions[0]
        file.close()
        if said:
            assert path.name in said
            assert written == batches[-1][1]
            return
    raise AssertionError("no damage showed late")


class Following:
    """Stands for what the materializer does while it is connected: one thing after the other, then it is stopped."""

    def __init__(self, materializer: Materializer, stop: threading.Event, does: list[Exception | None]) -> None:
        self.files: list[ClosedFile] = []
        self._materializer, self._stop, self._does = materializer, stop, does

    def __call__(self) -> None:
        file = ClosedFile()
        self.files.append(file)
        self._materializer._file = cast(AnalystsFile, file)
        error = self._does.pop(0)
        if not isinstance(error, FileLockedError):  # it was open, then
            self._materializer._began = True
        if error is not None:
            raise error
        self._materializer._file = None
        self._stop.set()


class ClosedFile:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def materializer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: list[Exception | None]
) -> tuple[Materializer, Following]:
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda timeout: stop.is_set())
    made = Materializer(Settings(data_dir=tmp_path), stop, lambda: None)
    following = Following(made, stop, does)
    monkeypatch.setattr(made, "_connect_and_follow", following)
    return made, following


def test_the_materializer_waits_for_room_and_is_not_ready_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    monkeypatch.setenv(READY_FILE_VARIABLE, str(ready))
    made, following = materializer(
        monkeypatch,
        tmp_path,
        [
            NoRoomError("analytics.duckdb: the disk is full"),
            BrokerUnreachableError("the broker is away, too"),  # waited for: it was there
            NoRoomError("analytics.duckdb: the disk is full"),
            None,
        ],
    )
    assert made.run() == 0
    assert [file.closed for file in following.files[:3]] == [True, False, True]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "analytics.duckdb: the disk is full. It is tried again in 1 s",
        "analytics.duckdb: the disk is full. It is tried again in 4 s",
    ]
    assert not ready.exists()


@pytest.mark.parametrize(("held_before", "code"), [(True, 0), (False, EXIT_FAILED)])
def test_a_file_that_a_rebuild_opened_first_is_waited_for_and_another_materializer_s_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held_before: bool, code: int
) -> None:
    locked: list[Exception | None] = [FileLockedError("analytics.duckdb is open in another process") for _ in range(3)]
    made, following = materializer(monkeypatch, tmp_path, [*locked, None])
    made._began = held_before
    assert made.run() == code
    assert len(following.files) == (4 if held_before else 1)


def test_without_a_broker_at_the_start_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Materializer(Settings(data_dir=tmp_path), threading.Event(), lambda: None)

    def away() -> None:
        raise BrokerUnreachableError("nobody answers")

    monkeypatch.setattr(made, "_connect_and_follow", away)
    assert made.run() == EXIT_UNREACHABLE


def test_a_store_that_cannot_be_written_is_said_seldom_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    place: dict[str, Any] = {}
    both = StoreTrouble(lambda: now, place)
    trouble = both.writing
    trouble.is_over()
    for _ in range(130):
        trouble.is_there("full")
        now += 1.0
    trouble.is_there("something else")
    trouble.is_over()
    trouble.is_over()
    trouble.is_there("full")
    assert [record.message for record in caplog.records] == [
        "full",
        "full",
        "full",
        "something else",
        "the store is written again, after 130 s",
        "full",
    ]
    caplog.clear()
    for _ in range(50):
        trouble.is_over()
        both.upkeep.is_there("not put away")
        now += 1.0
    both.upkeep.is_over()
    assert [record.message for record in caplog.records] == [
        "the store is written again, after 0 s",
        "not put away",
        "idle sessions are put away again, after 50 s",
    ], "what goes well with the store ends no trouble of another kind"
