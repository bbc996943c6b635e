"""``python -m tests.faults.weakened_worker``: a worker without the defence that ``TURNLOG_WEAKEN`` names.

The same ways to weaken it as in the simulation, and one more that only a real file has. Empty: with all of them.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from tests.simulation.weakened import weakened
from turnlog_streams.folding.fold import StreamName, fold, touched
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.base import logs
from turnlog_workers.base.config import Settings
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.process.faust_app import run_worker
from turnlog_workers.shard.epoch import Epoch
from turnlog_workers.store import tables
from turnlog_workers.store.port import Saved
from turnlog_workers.store.stream_rows import StreamWriter, load_streams, saved_of, write_rows

ROWS_APART = "rows and checkpoint apart, in the file"
BETWEEN_APPENDS = "weakened.confirmed"  #: a place to be killed at: an append is confirmed, nothing came of it yet


def rows_apart(self: StreamWriter, events: Sequence[LoggedEvent], position: LogPosition) -> dict[StreamName, Saved]:
    """As the real one, but in two transactions, and blind to rows that are ahead of their checkpoint.

    Whoever sees those takes them for another log's, and makes the file anew: a defence behind this one.
    """
    self._streams.update(load_streams(self._connection, touched(events) - self._streams.keys()))
    made = fold(events, self._streams, replied=position.replied, tolerant=True)
    with tables.transaction(self._connection):
        write_rows(self._connection, made, position.replied)
    crash_point("store.mid_commit")
    with tables.transaction(self._connection):
        tables.write_positions(self._connection, {self._partition: position})
    return saved_of(made)


@contextmanager
def killed_between_appends() -> Iterator[None]:
    """A decision in pieces is several appends: die behind one of them."""
    original = Epoch._confirm

    async def confirm(self: Epoch, base: int) -> None:
        await original(self, base)
        crash_point(BETWEEN_APPENDS)

    with patch.object(Epoch, "_confirm", confirm):
        yield


def main() -> int:
    """Run the worker until it is stopped."""
    settings = Settings()
    logs.set_up(settings)
    name = os.environ.get("TURNLOG_WEAKEN", "")
    with ExitStack() as stack:
        stack.enter_context(killed_between_appends())
        if not name:
            pass  # with all defences, and one more place to be killed at
        elif name == ROWS_APART:
            stack.enter_context(patch.object(StreamWriter, "_commit", rows_apart))
        else:
            stack.enter_context(weakened(name))
        return run_worker(settings)


if __name__ == "__main__":
    sys.exit(main())
