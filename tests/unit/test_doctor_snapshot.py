"""What ``turnlog doctor`` says of the snapshot: its age, and why there is no newer one."""

import os
import time
from pathlib import Path

import duckdb
import pytest

from turnlog.cli import doctor
from turnlog_workers.base.config import Settings
from turnlog_workers.materializer.publication_state import Publications


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, publish_interval_s=0.1)


async def examined(settings: Settings) -> doctor.Check:
    return await doctor.caught_up(settings, {0: 7}, 0.3, settings.snapshot)


def published(settings: Settings, next_offset: int, topic: str = "chat.events") -> None:
    connection = duckdb.connect(str(settings.snapshot))
    connection.execute("CREATE TABLE about (name VARCHAR, value VARCHAR)")
    connection.execute("INSERT INTO about VALUES ('deployment', ?)", [f"{topic} some-id"])
    connection.execute("CREATE TABLE partitions (partition INTEGER, next_offset BIGINT)")
    connection.execute("INSERT INTO partitions VALUES (0, ?)", [next_offset])
    connection.close()


async def test_a_fresh_one_has_an_age(settings: Settings) -> None:
    published(settings, 7)
    check = await examined(settings)
    assert check.ok
    assert "published 0 s ago" in check.detail


async def test_an_old_one_says_why(settings: Settings) -> None:
    published(settings, 4)
    long_ago = time.time() - 3600
    os.utime(settings.snapshot, (long_ago, long_ago))
    check = await examined(settings)
    assert not check.ok
    assert not check.needed
    assert "lacks 3 events of the log" in check.detail
    assert "out of date (last change published 60 min ago)" in check.detail
    Publications(settings.data_dir).failed(settings.snapshot, "no space on the disk")
    check = await examined(settings)
    assert "publishing has failed 1 time" in check.detail
    assert "no space on the disk" in check.detail


async def test_that_of_another_deployment_is_none(settings: Settings) -> None:
    published(settings, 7, topic="other.events")
    assert "another deployment's" in (await examined(settings)).detail


async def test_one_that_cannot_be_read_is_a_finding_and_no_error(settings: Settings) -> None:
    settings.snapshot.mkdir()
    assert "is a folder" in (await examined(settings)).detail
    settings.snapshot.rmdir()
    assert "is not there (never published here)" in (await examined(settings)).detail
    settings.snapshot.write_bytes(b"no database" * 1000)
    assert "cannot be asked" in (await examined(settings)).detail
