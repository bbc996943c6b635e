"""``python -m tests.upgrade_check [--old COMMIT]``: rolling restarts under load between an older build and this one.

The older build is a wheel, made of the newest tag ``vVERSION`` before this commit, or of any commit; without a tag
there is nothing to upgrade from, and the exit code is 0. It runs with the packages of this environment: one that needs
others says so when it starts. Three workers go back to the older build, one after the other, and then to this one: so
each build takes over from the other what it was in the middle of, and reads what the other wrote. Then the checker of
the fault runs judges the log, the frames, the tools and the stores. The exit code is 1 if anything is amiss.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.broker import fault_broker
from tests.faults.stack import WORKERS, Outcome, Stack, run_stack

ROOT = Path(__file__).resolve().parents[1]
TURNS_BETWEEN = 5  #: that end before the next worker is restarted


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade_check", description=__doc__)
    parser.add_argument("--old", default="", help="a commit or tag; default: the last released version's")
    parser.add_argument("--seed", default="upgrade")
    options = parser.parse_args()
    old = options.old or last_release()
    if not old:
        print("upgrade-check: no version before this one is tagged, so there is nothing to upgrade from")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="turnlog-upgrade-"))
    outcome = asyncio.run(rolled(folder, build(old, folder), options.seed))
    bad = outcome.bad
    told: dict[str, Any] = {"old": old, "turns": outcome.turns, "events": outcome.events, "frames": outcome.frames}
    print(json.dumps(told | {"requests": outcome.requests, "anomalies": len(bad), "bad": bad[:20]}))
    if bad:
        print(f"upgrade-check: what happened is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def last_release() -> str:
    """The newest tag before this commit; empty: there is none."""
    argv = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def build(commit: str, folder: Path) -> Path:
    """The packages of a commit, as its wheel has them."""
    source, packages = folder / "source", folder / "older"
    source.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    for argv in (
        ["hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        ["pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--target", str(packages), "WHEEL"],
    ):
        wheel = [str(path) for path in folder.glob("*.whl")]
        command = [part for word in argv for part in (wheel if word == "WHEEL" else [word])]
        subprocess.run([sys.executable, "-m", *command], cwd=source, check=True, stdout=sys.stderr)
    return packages


async def rolled(folder: Path, older: Path, seed: str) -> Outcome:
    """A deployment under load, whose workers are restarted: all of them of the older build, then all of this one."""

    async def there_and_back(stack: Stack) -> None:
        for build_of in (older, None):
            stack.older = build_of
            for slot in range(WORKERS):
                await stack.turns_end(TURNS_BETWEEN)
                await stack.replace(slot)
        await stack.turns_end(TURNS_BETWEEN)

    async with fault_broker(folder) as broker:
        outcome, _ = await run_stack(broker, folder / "run", seed, there_and_back)
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
