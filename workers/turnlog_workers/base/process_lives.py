"""Is a process of this machine alive? (psutil asks no better, and is an import of 20 ms.)"""

import os


def process_lives(pid: object) -> bool:
    """By its id; also somebody else's process. What is no process id is nobody's."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
