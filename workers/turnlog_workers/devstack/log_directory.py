"""A node's log directory, formatted as Kafka's own tool does it.

What the tool writes differs from node to node in two random ids only, and the tool is a Java program: it runs once per
machine and Kafka version, and later directories are copies with ids of their own.
"""

import base64
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from turnlog_workers.devstack.broker_files import BrokerError
from turnlog_workers.devstack.jvm import Jvm

_FORMAT_TIMEOUT_S = 60.0
_OUTPUT_LINES = 20
_IDS = "meta.properties"


def cluster_id_of(logs_dir: Path) -> str:
    """The id that a formatted directory belongs to."""
    lines = (logs_dir / _IDS).read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))


def format_once(logs_dir: Path, jvm: Jvm, cache: Path, write_properties: Callable[[Path, Path], None]) -> None:
    """Format ``logs_dir`` unless it is there; a format that was killed half-way leaves nothing that counts.

    ``write_properties`` writes a node's settings (to the first path, for the log directory of the second).
    Raises BrokerError.
    """
    if logs_dir.exists():
        return
    new = logs_dir.with_name(f"{logs_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    formatted = cache / "formatted"
    if not _is_whole(formatted):
        shutil.rmtree(formatted, ignore_errors=True)
        _format(formatted, jvm, write_properties)
    shutil.copytree(formatted, new)
    _renew_ids(new / _IDS)
    new.rename(logs_dir)


def _is_whole(formatted: Path) -> bool:
    """After a crash of the machine a file may be there and be empty."""
    return (formatted / _IDS).exists() and all(path.stat().st_size for path in formatted.rglob("*") if path.is_file())


def _format(formatted: Path, jvm: Jvm, write_properties: Callable[[Path, Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="format-", dir=formatted.parent) as temporary:
        new, properties = Path(temporary, "logs"), Path(temporary, "format.properties")
        write_properties(properties, new)
        # "--cluster-id=": an id may start with a dash.
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={_random_id()}", "-c", str(properties)]
        done = subprocess.run(jvm.argv(tool), capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False)
        if done.returncode != 0:
            output = "\n".join((done.stdout + done.stderr).splitlines()[-_OUTPUT_LINES:])
            raise BrokerError(f"Kafka could not format {new} (exit code {done.returncode}):\n{output}")
        try:
            new.rename(formatted)
        except OSError:
            if not formatted.exists():  # else another process was faster
                raise


def _renew_ids(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    new = {"cluster.id": _random_id(), "directory.id": _random_id()}
    lines = [f"{name}={new[name]}" if (name := line.partition("=")[0]) in new else line for line in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _random_id() -> str:
    """As Kafka writes a UUID."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
