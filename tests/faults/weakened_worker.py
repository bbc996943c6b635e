"""``python -m tests.faults.weakened_worker``: a worker without the defence that ``TURNLOG_WEAKEN`` names.

The same ways to weaken it as in the simulation, and one more that only a real file has.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from unittest.mock import patch

from streams.projection import project, touched
from streams.reader_rule import LoggedEvent, LogPosition
from tests.simulation.weakened import weakened
from workers import duck, duck_load, logs
from workers.app import run_worker
from workers.config import Settings
from workers.crash_points import crash_point
from workers.duck_writer import BatchWriter

ROWS_APART = "rows and checkpoint apart, in the file"


def rows_apart(self: BatchWriter, events: Sequence[LoggedEvent], positions: Mapping[int, LogPosition]) -> None:
    """As the real one, but in two transactions."""
    self._states.update(duck_load.load_states(self._connection, touched(events) - self._states.keys()))
    changes = project(events, self._states, keep_raw_events=self._analysts)
    with duck.transaction(self._connection):
        duck.write_changes(self._connection, changes, analysts=self._analysts)
    crash_point(f"{self._name}.mid_commit")
    with duck.transaction(self._connection):
        duck.write_positions(self._connection, positions)


def main() -> int:
    """Run the worker until it is stopped."""
    settings = Settings()
    logs.set_up(settings)
    name = os.environ["TURNLOG_WEAKEN"]
    with ExitStack() as stack:
        if name == ROWS_APART:
            stack.enter_context(patch.object(BatchWriter, "_commit", rows_apart))
        else:
            stack.enter_context(weakened(name))
        return run_worker(settings)


if __name__ == "__main__":
    sys.exit(main())
