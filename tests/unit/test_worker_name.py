"""Names of workers: no two that live have the same, and one that comes back has its own."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.membership import worker_name
from turnlog_workers.membership.worker_name import NameTakenError, WorkerName, take_name

INSTANCE_ID = re.compile(r"[A-Za-z0-9._-]{1,249}")  #: what Kafka takes as a group.instance.id


def settings(folder: Path, name: str = "") -> Settings:
    return Settings(data_dir=folder, worker_name=name)


def test_workers_of_one_directory_are_numbered_and_a_restarted_one_has_its_old_number(tmp_path: Path) -> None:
    first, second = take_name(settings(tmp_path)), take_name(settings(tmp_path))
    assert [name.name.rsplit("-", 1)[1] for name in (first, second)] == ["1", "2"]
    was = first.name, first.token
    first.release()
    again = take_name(settings(tmp_path))
    assert (again.name, again.token) == was
    assert take_name(settings(tmp_path)).name.endswith("-3")


def test_workers_of_different_directories_on_one_host_have_different_names(tmp_path: Path) -> None:
    assert take_name(settings(tmp_path / "a")).name != take_name(settings(tmp_path / "b")).name


def test_the_same_directory_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take_name(settings(tmp_path / "data"))
    first.release()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert take_name(settings(Path("data"))).name == first.name
    assert take_name(settings(tmp_path / "link")).name == first.name.removesuffix("1") + "2"


def test_a_given_name_is_held_by_one_process_of_a_directory(tmp_path: Path) -> None:
    first, second = take_name(settings(tmp_path, "worker-1")), take_name(settings(tmp_path, "worker-1"))
    assert first.name == second.name == "worker-1"
    first.hold()
    first.hold()
    with pytest.raises(NameTakenError, match=r"the worker 'worker-1' \(.*worker-1.lock is locked\)"):
        second.hold()
    first.release()
    second.hold()
    assert second.client_id == first.client_id


def test_a_file_system_without_locks_is_an_error_not_a_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(worker_name.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="no locks available"):
        take_name(settings(tmp_path))


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib; from turnlog_workers.membership.worker_name import WorkerName; "
        f"WorkerName('w', pathlib.Path({str(tmp_path)!r})).hold(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    WorkerName("w", tmp_path).hold()


def test_another_disk_has_another_token(tmp_path: Path) -> None:
    assert WorkerName("w", tmp_path / "a").client_id != WorkerName("w", tmp_path / "b").client_id
    damaged = tmp_path / "c"
    damaged.mkdir()
    (damaged / "w.lock").write_bytes(b"\xff\x00 not a token, and longer than one")
    token = WorkerName("w", damaged).token
    assert WorkerName("w", damaged).token == token


@pytest.mark.parametrize("host", ["db.example.org", "naïve host", "x" * 300, "", "..", "turnlog-0"])
def test_every_host_gives_a_name_that_kafka_takes(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_name.socket, "gethostname", lambda: host)
    name = take_name(settings(tmp_path)).name
    assert INSTANCE_ID.fullmatch(name)
    assert len(os.fsencode(f"{name}.lock")) < 255


@pytest.mark.parametrize("name", ["a b", "a/b", "..", ".", ".hidden", "ü", "x" * 201, "a\n", "a:b"])
def test_a_name_that_kafka_or_a_file_would_not_take_is_a_setting_that_cannot_be_used(name: str) -> None:
    with pytest.raises(SettingsError, match="WORKER_NAME"):
        Settings(worker_name=name)


@pytest.mark.parametrize("name", ["worker-1", "w0", "db.example.org_2", "x" * 200])
def test_other_names_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    assert take_name(settings(tmp_path, name)).name == name
