"""A build to compare with: another checkout of Turnlog with an environment of its own, measured by its own commands."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = Path(".venv/bin/python")
_READY = ".turnlog-bench-ready"
_RUN_LIMIT_S = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A checkout, and the interpreter that has what it needs."""

    name: str
    folder: Path
    python: Path

    def module(self, name: str, *arguments: str) -> None:
        """Run one of its modules as a program. ``RuntimeError`` with its last lines when it fails."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TURNLOG_", "PYTHON"))}
        done = subprocess.run(
            [str(self.python), "-m", name, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_RUN_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise RuntimeError(f"{name} of {self.name} ended with {done.returncode}:\n{tail}")


def this_build() -> Build:
    """The one that this is."""
    return Build(name="this build", folder=ROOT, python=Path(sys.executable))


def build_of(what: str, say: Callable[[str], None]) -> Build:
    """A folder with a checkout and its ``.venv``, or a commit, which is unpacked and installed once in a cache folder.

    Raises ``RuntimeError`` when there is no such commit, or it cannot be installed.
    """
    folder = Path(what).expanduser().resolve()
    if (folder / _PYTHON).exists():
        commit = _output(["git", "rev-parse", "--short", "HEAD"], folder).strip() or folder.name
        return Build(name=commit, folder=folder, python=folder / _PYTHON)
    commit = _output(["git", "rev-parse", "--short", "--verify", "--quiet", f"{what}^{{commit}}"], ROOT).strip()
    if not commit:
        raise RuntimeError(f"{what} is neither a commit of this repository nor a checkout with a .venv (make setup)")
    folder = _cache() / commit
    if not (folder / _READY).exists():
        say(f"unpacking and installing {commit} in {folder} (once)")
        _install(commit, folder)
    return Build(name=commit, folder=folder, python=folder / _PYTHON)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnlog-bench"


def _install(commit: str, folder: Path) -> None:
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"git archive {commit}: {done.stderr.decode(errors='replace').strip()}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    made = subprocess.run(["make", "setup"], cwd=folder, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        tail = "\n".join((made.stdout + made.stderr).splitlines()[-20:])
        raise RuntimeError(f"make setup in {folder} failed:\n{tail}")
    (folder / _READY).touch()


def _output(argv: Sequence[str], folder: Path) -> str:
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False).stdout
