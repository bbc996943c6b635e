"""Other people's tests and clients of the HTTP front that run on node, at the versions of the lock beside this."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.clients.adapter import node_modules, node_tool

HERE = Path(__file__).parent
_TIMEOUT_S = 240.0


def run_node(folder: Path, *arguments: str, **environ: str) -> str:
    """What a command of node prints, in a folder that has our scripts and the packages; both streams if it fails."""
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(node_modules(HERE, "what speaks HTTP"))
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, folder)
    done = subprocess.run(
        [node_tool("node"), *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr
