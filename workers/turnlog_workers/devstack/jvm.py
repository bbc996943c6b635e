"""How Kafka's Java is started: the flags of a node that starts soon and idles cheaply, and an archive of its classes.

Half of the CPU time of a start goes into reading and verifying thousands of classes. The JVM can map them from an
archive instead ("class data sharing", JEP 310 and 350). The first node on a machine notes what it loads, the archive
is made from that beside it at the lowest priority (7 s of CPU, 65 MB, once for a Java and a class path), and every
later start uses it: 1.7 s of CPU instead of 3.2 s.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from turnlog_workers.devstack.launch import launch_argv

_JVM_FLAGS = (
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Dfile.encoding=UTF-8",
)
_LOGGING_FLAGS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)
_MAKE_TIMEOUT_S = 300.0  # at the lowest priority, on a machine that has other things to do
_KEPT_ARCHIVES = 3  # each installation of a Java has one
_OUTPUT_TAIL = 2000


class Jvm:
    """A Java runtime with Kafka's class path; ``cache`` is where its archive is kept."""

    def __init__(self, java: str, class_path: Sequence[Path], cache: Path) -> None:
        self._java = java
        self._class_path = os.pathsep.join(str(jar) for jar in class_path)
        self._cache = cache
        self._key = _key(java, class_path)
        self.archive = cache / f"classes-{self._key}.jsa"
        self._failed = cache / f"classes-{self._key}.failed"  # holds the reason

    @property
    def wants_archive(self) -> bool:
        """Is there no archive yet, and is nothing known to be in its way?"""
        return not self.archive.exists() and not self._failed.exists()

    def argv(self, main: Sequence[str], *, class_list: Path | None = None) -> list[str]:
        """The command line of a main class. ``class_list``: where Java notes the classes that it loads."""
        if class_list is not None:
            sharing = [f"-XX:DumpLoadedClassList={class_list}"]
        elif self.archive.exists():
            with contextlib.suppress(OSError):  # somebody else's cache; the time only says which are in use
                os.utime(self.archive)
            sharing = [f"-XX:SharedArchiveFile={self.archive}"]
        else:
            sharing = []
        return [self._java, *_JVM_FLAGS, *_LOGGING_FLAGS, *sharing, "-cp", self._class_path, *main]

    def make_archive_beside(self, class_list: Path) -> threading.Thread:
        """Make the archive from what a running node has loaded, in a thread that nobody needs to wait for.

        Where another process is at it, or the cache cannot be written, nothing happens. Java ends with this process.
        """
        thread = threading.Thread(target=self._make_archive, args=(class_list,), name="class-archive", daemon=True)
        thread.start()
        return thread

    def _make_archive(self, class_list: Path) -> None:
        try:
            with (self._cache / "classes.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.wants_archive:
                    self._dump(class_list)
                    self._remove_old_ones()
        except OSError:
            pass  # held by another process, or the cache is not ours to write: the next start is as slow as this one
        finally:
            class_list.unlink(missing_ok=True)

    def _dump(self, class_list: Path) -> None:
        new, whole_lines = self.archive.with_suffix(".new"), self.archive.with_suffix(".list")
        # The node goes on noting: its last line may be half a one.
        whole_lines.write_bytes(class_list.read_bytes().rpartition(b"\n")[0] + b"\n")
        sharing = ["-Xshare:dump", f"-XX:SharedClassListFile={whole_lines}", f"-XX:SharedArchiveFile={new}"]
        argv = [self._java, *_JVM_FLAGS, *sharing, "-cp", self._class_path]
        process = subprocess.Popen(
            launch_argv(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, 19)
            output, _ = process.communicate(timeout=_MAKE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        finally:
            whole_lines.unlink(missing_ok=True)
        if process.returncode == 0 and new.exists():
            new.replace(self.archive)
        elif process.returncode >= 0:  # not killed: the next time it would be the same
            new.unlink(missing_ok=True)
            self._failed.write_bytes(output[-_OUTPUT_TAIL:])

    def _remove_old_ones(self) -> None:
        archives = sorted(self._cache.glob("classes-*.jsa"), key=lambda path: path.stat().st_mtime)
        for path in archives[:-_KEPT_ARCHIVES]:
            path.unlink()  # who has mapped it keeps it


def _key(java: str, class_path: Sequence[Path]) -> str:
    """Changes with everything that the JVM compares before it uses an archive: its own image, each jar, the flags."""
    image = Path(java).resolve().parent.parent / "lib" / "modules"
    files = [image if image.exists() else Path(java).resolve(), *class_path]
    facts = [(path.name, (found := path.stat()).st_size, found.st_mtime_ns) for path in files]
    return hashlib.sha256(repr((facts, [str(path) for path in class_path], _JVM_FLAGS)).encode()).hexdigest()[:16]
