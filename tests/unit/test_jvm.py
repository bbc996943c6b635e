"""The archive of Java's classes, and log directories without Java. A shell script stands in for Java."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from turnlog_workers.devstack.broker_files import BrokerError
from turnlog_workers.devstack.jvm import Jvm
from turnlog_workers.devstack.log_directory import cluster_id_of, format_once

_JAVA = """#!/bin/sh
for argument in "$@"; do
  case $argument in
    -XX:SharedClassListFile=*) list=${argument#*=} ;;
    -XX:SharedArchiveFile=*) archive=${argument#*=} ;;
    -c) next=properties ;;
    *) [ "$next" = properties ] && properties=$argument; next= ;;
  esac
done
echo called >> "$0.calls"
[ -e "$0.broken" ] && { echo "no room"; exit 1; }
if [ -n "$list" ]; then cp "$list" "$archive"; fi
if [ -n "$properties" ]; then
  mkdir -p "$(cat "$properties")"
  printf '#\\ncluster.id=first\\ndirectory.id=first\\nnode.id=1\\n' > "$(cat "$properties")/meta.properties"
fi
"""


@pytest.fixture
def java(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "java"
    path.parent.mkdir()
    path.write_text(_JAVA)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def jvm(java: Path, tmp_path: Path) -> Jvm:
    return Jvm(str(java), [java], tmp_path)


def calls(java: Path) -> int:
    path = java.with_name("java.calls")
    return len(path.read_text().splitlines()) if path.exists() else 0


def note_classes(tmp_path: Path) -> Path:
    """As a running node leaves them: the last line is not written to its end."""
    path = tmp_path / "classes.list"
    path.write_text("java/lang/Object\nkafka/Kafka\norg/apa")
    return path


def test_what_a_node_loaded_becomes_the_archive_of_the_next(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    assert jvm.wants_archive
    assert "-XX:DumpLoadedClassList=x" in jvm.argv(["Main"], class_list=Path("x"))
    noted = note_classes(tmp_path)
    jvm.make_archive_beside(noted).join()
    assert jvm.archive.read_text() == "java/lang/Object\nkafka/Kafka\n"
    assert not noted.exists()
    again = Jvm(str(java), [java], tmp_path)
    assert not again.wants_archive
    assert f"-XX:SharedArchiveFile={jvm.archive}" in again.argv(["Main"])


def test_an_archive_that_cannot_be_made_is_not_tried_again(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    java.with_name("java.broken").touch()
    jvm.make_archive_beside(note_classes(tmp_path)).join()
    assert not jvm.wants_archive
    assert not jvm.archive.exists()
    assert not any("Shared" in argument for argument in jvm.argv(["Main"]))
    assert [path.read_text() for path in tmp_path.glob("classes-*.failed")] == ["no room\n"]


def test_two_do_not_make_it_at_once(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    with (tmp_path / "classes.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jvm.make_archive_beside(note_classes(tmp_path)).join()
    assert calls(java) == 0
    assert jvm.wants_archive


def test_another_jar_has_another_archive_and_old_ones_go(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    for number in range(4):
        old = tmp_path / f"classes-{number}.jsa"
        old.touch()
        os.utime(old, (number, number))
    jvm.make_archive_beside(note_classes(tmp_path)).join()
    assert sorted(path.name for path in tmp_path.glob("*.jsa")) == sorted(
        ["classes-2.jsa", "classes-3.jsa", jvm.archive.name]
    )
    os.utime(java, (1, 1))
    assert Jvm(str(java), [java], tmp_path).wants_archive


def write_properties(path: Path, logs_dir: Path) -> None:
    path.write_text(str(logs_dir))


def test_java_formats_once_and_every_directory_has_ids_of_its_own(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for logs_dir in (first, second, first):
        format_once(logs_dir, jvm, tmp_path, write_properties)
    assert calls(java) == 1
    assert len({cluster_id_of(first), cluster_id_of(second), "first"}) == 3
    assert "node.id=1" in (second / "meta.properties").read_text().splitlines()
    (tmp_path / "formatted" / "meta.properties").write_text("")  # the machine crashed
    format_once(tmp_path / "c", jvm, tmp_path, write_properties)
    assert calls(java) == 2
    assert cluster_id_of(tmp_path / "c") not in ("", "first")


def test_a_format_that_fails_says_what_java_said(jvm: Jvm, java: Path, tmp_path: Path) -> None:
    java.with_name("java.broken").touch()
    with pytest.raises(BrokerError, match=r"exit code 1.*\n.*no room"):
        format_once(tmp_path / "a", jvm, tmp_path, write_properties)
    assert not (tmp_path / "a").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
