"""What ``turnlog doctor`` says of the snapshot: its age, and why there is no newer one."""

import os
import time
from pathlib import Path

import duckdb
import pytest

from turnlog.cli import doctor
from turnlog_workers.base.config import Settings
from turnlog_workers.materializer.publications import Publications


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, publish_interval_s=0.1)


async def examined(settings: Settings, monkeypatch: pytest.MonkeyPatch, request_id: str = "asked") -> doctor.Check:
    monkeypatch.setattr(doctor, "_SNAPSHOT_WAIT_S", 0.3)
    return await doctor._snapshot(settings, request_id, 10)


def published(settings: Settings, *request_ids: str) -> None:
    connection = duckdb.connect(str(settings.snapshot))
    connection.execute("CREATE TABLE turns (session_id VARCHAR, request_id VARCHAR)")
    for request_id in request_ids:
        connection.execute("INSERT INTO turns VALUES ('turnlog-doctor', ?)", [request_id])
    connection.close()


async def test_a_fresh_one_has_an_age(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    published(settings, "asked")
    check = await examined(settings, monkeypatch)
    assert check.ok
    assert "published 0 s ago" in check.detail


async def test_an_old_one_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    published(settings, "another")
    long_ago = time.time() - 3600
    os.utime(settings.snapshot, (long_ago, long_ago))
    check = await examined(settings, monkeypatch)
    assert not check.ok
    assert not check.needed
    assert "out of date (last change published 60 min ago)" in check.detail
    Publications(settings.data_dir).failed(settings.snapshot, "no space on the disk")
    check = await examined(settings, monkeypatch)
    assert "publishing has failed 1 time" in check.detail
    assert "no space on the disk" in check.detail


async def test_one_that_cannot_be_read_is_a_finding_and_no_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.snapshot.mkdir()
    assert "is a folder" in (await examined(settings, monkeypatch)).detail
    settings.snapshot.rmdir()
    assert "is not there (never published here)" in (await examined(settings, monkeypatch)).detail
    settings.snapshot.write_bytes(b"no database" * 1000)
    assert "cannot be asked" in (await examined(settings, monkeypatch)).detail
