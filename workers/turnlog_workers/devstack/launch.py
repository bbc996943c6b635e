"""Start a program that does not outlive the process that started it.

``python launch.py PARENT_PID PROGRAM ARGUMENT...`` asks the kernel for SIGKILL when the parent ends (Linux; elsewhere a
supervisor finds its leftovers by their recorded process ids) and then *becomes* the program: same process id, and the
program's own command line.

The kernel watches the parent's *thread*: start programs from a thread that lives as long as they should.
This file runs isolated and without site-packages, so it must import the standard library only.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_EXIT_CANNOT_RUN = 127


def launch_argv(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` so that it ends with the calling thread (on Linux; else ``argv`` itself)."""
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *argv]


def _die_with_parent(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the request reached the kernel; then nobody is left to signal us.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Become the program named in ``arguments``; returns (with an exit code) only when it cannot be run."""
    parent_pid, program = int(arguments[0]), list(arguments[1:])
    try:
        _die_with_parent(parent_pid)
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot run {program[0]}: {error}", file=sys.stderr)
    return _EXIT_CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
