"""``scripts/audit.sh``: what it makes of pip-audit's answers, of which an empty one must not pass for a good one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"name": "a", "version": "1.0", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
VULNERABILITY = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}
BAD = {"name": "c", "version": "1.0", "vulns": [VULNERABILITY]}


def audit(folder: Path, packages: list[dict[str, Any]] | None, sbom_exit: int = 0) -> subprocess.CompletedProcess[str]:
    """With tools in place of the real ones; ``None``: pip-audit fails before it has an answer."""
    answer = folder / "answer.json"
    answer.write_text(json.dumps({"dependencies": packages}), encoding="utf-8")
    last = '"$output"'
    find = 'while [ $# -gt 0 ]; do case "$1" in --output|-o) output=$2;; esac; shift; done'
    failing = "echo no route >&2; exit 1"
    tools = {
        "pip-audit": f"{find}; {failing if packages is None else f'cp {answer} {last}'}",
        "cyclonedx-py": f"{find}; echo '\"purl\"' > {last}; exit {sbom_exit}",
    }
    for name, script in tools.items():
        tool = folder / name
        tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tool.chmod(0o755)
    environ = {**os.environ, "AUDIT_BIN": str(folder), "AUDIT_OUT": str(folder / "out")}
    return subprocess.run([ROOT / "scripts/audit.sh"], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("packages", "exit_code", "told"),
    [
        ([GOOD, GOOD], 0, "nothing is known against 2 packages"),
        ([GOOD, BAD], 1, "c 1.0: PYSEC-1 CVE-1; mended in 1.1"),
        ([SKIPPED, BAD], 1, "1 of 2 packages could not be asked for: b"),
        ([GOOD, SKIPPED], 3, "1 of 2 packages could not be asked for: b"),
        ([], 3, ""),
        (None, 3, "nothing could be asked: no route"),
    ],
)
def test_what_is_said_of_the_packages(
    tmp_path: Path, packages: list[dict[str, Any]] | None, exit_code: int, told: str
) -> None:
    done = audit(tmp_path, packages)
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert told in done.stdout
    assert "lists 1 packages" in done.stdout


def test_a_list_that_was_not_made(tmp_path: Path) -> None:
    assert audit(tmp_path, [GOOD], sbom_exit=1).returncode == 2
