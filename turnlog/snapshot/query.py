"""Anybody's statement on the snapshot, within bounds: in a process of its own that is killed when it passes them.

DuckDB looks at an interruption between steps, and some functions are one step of a minute; its memory limit does not
cover all that it takes. A process can be ended at any time, and nobody else notices.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from turnlog.errors import EXIT_TIMED_OUT, TurnlogError, UsageError
from turnlog.snapshot.sql import make_scratch
from turnlog_workers.devstack.launch import launch_argv

Form = Literal["json", "csv", "rows"]
_CHUNK_BYTES = 256 * 1024
_END_TIMEOUT_S = 10.0
MIN_MEMORY_MB = 128


class QueryTimedOutError(TurnlogError):
    """The statement took too long."""

    exit_code = EXIT_TIMED_OUT


class QueryTooLargeError(TurnlogError):
    """The statement needs more memory than it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a statement may take."""

    timeout_s: float = 30.0  #: of work, the waiting for whoever reads the rows not counted; 0: as long as it likes
    memory_mb: int = 512  #: of the process that runs it, all of it
    batch_rows: int = 1000  #: at most so many rows are in memory at a time
    max_rows: int = 0  #: of the answer; 0: all
    spill_mb: int = 4096  #: on disk, of what does not fit into memory, in a private folder


class SnapshotQuery:
    """One statement; iterate over the bytes of its answer, inside ``with``. Leaving it ends everything.

    ``json``: one array of objects on one line. ``csv``: RFC 4180 with a header. ``rows``: JSON lines, the first
    ``[[column, is it of numbers], ...]``, then the cells of each row, as CSV has them or null. All in UTF-8.
    How values look: ``turnlog.snapshot.values``. Use it from one thread.
    """

    def __init__(
        self,
        path: Path,
        statement: str,
        *,
        form: Form = "json",
        bounds: Bounds = Bounds(),
        null: str = "",
        max_cell: int = 0,
    ) -> None:
        """``null``: what CSV has for NULL; ``max_cell``: characters of a cell in ``rows``, 0: all."""
        self._bounds = bounds
        self._order: dict[str, Any] = {
            "path": str(path),
            "statement": statement,
            "form": form,
            "max_rows": bounds.max_rows,
            "batch_rows": max(1, bounds.batch_rows),
            "memory_mb": max(MIN_MEMORY_MB, bounds.memory_mb),
            "spill_mb": bounds.spill_mb,
            "null": null,
            "max_cell": max_cell,
        }
        self._left_s = bounds.timeout_s
        self._stack = contextlib.ExitStack()
        self.more = False  #: there were more rows than ``max_rows``; known at the end, as are the notes
        self.notes: tuple[str, ...] = ()  #: sentences on values that are not given as they are

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        scratch = make_scratch()
        self._stack.callback(scratch.remove)
        self._errors = self._stack.enter_context((scratch.path / "errors").open("w+b"))
        status, child_status = os.pipe()
        self._status = self._stack.enter_context(os.fdopen(status, "rb"))
        try:
            # -P: a folder of one of our names where somebody happens to be must not stand in for ours.
            self._process = subprocess.Popen(
                launch_argv((sys.executable, "-P", "-m", "turnlog.snapshot.reader")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(child_status,),
                start_new_session=True,  # Ctrl-C is for us: we end it
                env=os.environ | {"MALLOC_ARENA_MAX": "2"},
            )
        finally:
            os.close(child_status)
        self._stack.callback(self._end)
        order = json.dumps(self._order | {"scratch": str(scratch.path), "status_fd": child_status})
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(order.encode())

    def __iter__(self) -> Iterator[bytes]:
        """The answer, in pieces. Raises :class:`UsageError`, :class:`QueryTimedOutError`, :class:`QueryTooLargeError`
        or another :class:`TurnlogError`: before the first piece, or in the middle."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while data := self._read(fd):
            yield data
        told = b""
        while data := self._read(self._status.fileno()):
            told += data
        self._tell(told)

    def _read(self, fd: int) -> bytes:
        """What comes next; empty at the end."""
        timeout_s = None if self._bounds.timeout_s <= 0 else max(0.0, self._left_s)
        began = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            ready = selector.select(timeout_s)
        self._left_s -= time.monotonic() - began
        if not ready:
            raise QueryTimedOutError(
                f"The query was ended after {self._bounds.timeout_s:g} s. --timeout-s gives it longer (0: no limit)."
            )
        return os.read(fd, _CHUNK_BYTES)

    def _tell(self, told: bytes) -> None:
        if not told:
            raise self._died()
        status = json.loads(told)
        match status.get("error"):
            case None:
                self.more = status["more"]
                self.notes = tuple(status["notes"])
            case "usage":
                raise UsageError(status["text"])
            case "memory":
                raise self._too_large(status["text"])
            case _:
                raise TurnlogError(status["text"])

    def _too_large(self, why: str) -> QueryTooLargeError:
        why = why.strip() or "there was no more"
        return QueryTooLargeError(
            f"The query needs more than {self._order['memory_mb']} MB of memory ({why}). "
            "--memory-mb gives it more; or select less at a time."
        )

    def _died(self) -> TurnlogError:
        """The process ended without a word: out of memory in a place where nobody can say so, most of all."""
        code = self._process.wait(_END_TIMEOUT_S)
        self._errors.seek(0)
        last = self._errors.read()[-2000:].decode(errors="replace").strip().split("\n")[-1]
        if "memory" in last.lower() or "bad_alloc" in last or code in (-signal.SIGKILL, -signal.SIGABRT):
            return self._too_large(last)
        return TurnlogError(f"The process that ran the query ended by itself (exit code {code}): {last}")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(_END_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
