"""A Postgres of a test's own, from the machine's packages. Where there is none, the tests that need it are left out."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.left_out import leave_out
from tests.waiting import until

FIXTURE = "postgres"
_USER = "turnlog"
_LEFT_OUT = pytest.StashKey[int]()
_WAIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A running server, reached by its socket."""

    folder: Path

    @property
    def parameters(self) -> str:
        """As libpq takes them."""
        return f"host={self.folder} user={_USER} dbname=postgres"

    @property
    def environ(self) -> dict[str, str]:
        """The same for whoever says nothing."""
        return {"PGHOST": str(self.folder), "PGUSER": _USER, "PGDATABASE": "postgres"}


@cache
def programs() -> Path | None:
    """The folder of a Postgres's programs."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, items, _LEFT_OUT, [FIXTURE], lambda _: programs() is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} tests were left out: there is no Postgres (Debian: postgresql).")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """An empty one."""
    found = programs()
    assert found is not None, "there is no Postgres here"
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="turnlog-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = _not_as_root(folder)
        initdb = [str(found / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", _USER, "-E", "UTF8", "-N"]
        subprocess.run([*initdb, "--locale=C"], check=True, capture_output=True, **options)
        argv = [str(found / "postgres"), "-D", str(folder / "data"), "-k", name, "-c", "listen_addresses=", "-F"]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        try:
            asked = [str(found / "pg_isready"), "-q", "-h", name]
            until(lambda: subprocess.run(asked, check=False).returncode == 0, "Postgres answers")
            yield Postgres(folder=folder)
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(_WAIT_S)


def _not_as_root(folder: Path) -> dict[str, Any]:
    """Postgres refuses to be root's."""
    if os.geteuid() != 0:
        return {"cwd": folder}
    user = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"cwd": folder, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
