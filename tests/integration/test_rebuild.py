"""``turnlog verify`` and ``turnlog rebuild`` on a real log: beside a materializer, killed, and up to any moment."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from tests.checker.stores import compare, expected_tables
from tests.event_logs import LogWriter, accepted_batches, write_on
from tests.faults.record import store_content
from tests.integration.test_materializer import Process, deployment, ends, logs, produce
from tests.integration.test_materializer import start as start
from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import EVENTS
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.topics_admin import init_topics
from turnlog_workers.materializer import parallel_rebuild
from turnlog_workers.materializer.live_rebuild import rebuild_live
from turnlog_workers.materializer.moments import Until, file_as_of, make_file
from turnlog_workers.materializer.verification import verify

CODEC = Codec(EVENTS)


@pytest.fixture(scope="module")
def written(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[LogWriter]]:
    """A log of three partitions that no test adds to."""
    settings = deployment(broker, tmp_path_factory.mktemp("written"))
    init_topics(settings)
    made = logs(40, 60)
    for log in made:
        produce(settings, log.records)
    return settings, made


def with_data(settings: Settings, path: Path) -> Settings:
    return settings.model_copy(update={"data_dir": path / "data"})


def turnlog(settings: Settings, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
        "TURNLOG_PREFIX": settings.prefix,
        "TURNLOG_DATA_DIR": str(settings.data_dir),
    }
    argv = [sys.executable, "-m", "turnlog", *arguments]
    return subprocess.run(argv, env=env | more, capture_output=True, text=True, timeout=120, check=False)


def test_beside_a_materializer_that_takes_the_file_over(
    broker: DevBroker, tmp_path: Path, start: Callable[..., Process]
) -> None:
    settings = deployment(broker, tmp_path)
    init_topics(settings)
    made = logs(50, 40)
    for log in made:
        produce(settings, log.records)
    process = start(settings)
    process.wait_ready()
    assert verify(settings, settings.snapshot).difference is None
    before = (settings.data_dir / "analytics.duckdb").stat().st_ino
    outcome = rebuild_live(settings).outcome
    # Whoever opens it first: the materializer lets go of its file to take the new one over.
    assert "taken the new file over" in outcome or "is the new file" in outcome
    assert (settings.data_dir / "analytics.duckdb").stat().st_ino != before
    produced = [len(log.records) for log in made]
    for log, count in zip(made, produced, strict=True):
        write_on(log, 20, newer=False)
        produce(settings, log.records[count:])
    process.wait_for(ends(made))
    found = verify(settings, settings.snapshot)
    assert found.difference is None
    assert found.positions == ends(made)
    assert process.stop() == 0


def test_killed_at_any_place_it_goes_on_and_verify_finds_nothing(
    written: tuple[Settings, list[LogWriter]], tmp_path: Path
) -> None:
    """And what somebody changed in the snapshot is found, with the row in both."""
    settings = with_data(written[0], tmp_path)
    small = {"TURNLOG_STORE_BATCH_EVENTS": "30"}
    for place in ("rebuild.after_batch:2", "rebuild.in_swap"):
        killed = turnlog(settings, "rebuild", **small, TURNLOG_CRASH_AT=place)
        assert killed.returncode == -9, killed.stderr
    done = turnlog(settings, "rebuild")
    assert done.returncode == 0, done.stderr
    assert "is the new file" in done.stdout
    assert {path.name for path in settings.data_dir.glob("*.duckdb")} == {"analytics.duckdb", "snapshot.duckdb"}
    assert verify(settings, settings.snapshot).difference is None
    settings.snapshot.chmod(0o644)
    with duckdb.connect(str(settings.snapshot)) as connection:
        connection.execute(
            "UPDATE internal.messages SET content = 'planted' "
            "WHERE log_offset = (SELECT max(log_offset) FROM internal.messages)"
        )
    found = turnlog(settings, "verify")
    assert found.returncode == 1
    assert "Table messages differs at partition=" in found.stdout
    assert "in content:" in found.stdout
    assert 'content="planted"' in found.stdout


def as_of(log: LogWriter, moment: int) -> list[LoggedEvent]:
    """The records before the first accepted one with a later timestamp."""
    later = (e.offset for events, _ in accepted_batches(log.records, 1_000) for e in events if e.logged_at > moment)
    return log.records[: min(later, default=len(log.records))]


def test_any_moment_is_the_log_up_to_it(
    written: tuple[Settings, list[LogWriter]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, and in several that make parts of it."""
    settings, made = with_data(written[0], tmp_path), written[1]
    times = sorted(record.logged_at for log in made for record in log.records)
    middle = made[1].records[len(made[1].records) // 2]
    for number, until in enumerate(
        (
            Until(moment=times[-5]),
            Until(moment=times[-1]),
            Until(offsets={middle.partition: middle.offset}),
        )
    ):
        path = tmp_path / f"{number}.duckdb"
        monkeypatch.setattr(parallel_rebuild, "_WORTH_RECORDS", 1 if number == 1 else 100_000)
        assert make_file(settings, path, until) == (until.moment != times[-1])
        expected: dict[str, list[object]] = {}
        for log in made:
            records = as_of(log, middle.logged_at if until.moment is None else until.moment)
            if log.partition in until.offsets:
                records = log.records[: until.offsets[log.partition] + 1]
            for name, rows in expected_tables(log.partition, records).items():
                expected.setdefault(name, []).extend(rows)
        assert not list(compare(store_content(path), expected))  # type: ignore[arg-type]
    settings.data_dir.mkdir()
    first = file_as_of(settings, Until(moment=times[-5]))
    assert file_as_of(settings, Until(moment=times[-5])) == first
    asked = datetime.fromtimestamp(times[-5] / 1000, UTC).isoformat()
    answer = turnlog(settings, "sql", "--as-of", asked, "--csv", "SELECT count(*) AS n FROM events")
    with duckdb.connect(str(first), read_only=True) as connection:
        assert answer.stdout == f"n\n{connection.execute('SELECT count(*) FROM events').fetchone()[0]}\n"  # type: ignore[index]
