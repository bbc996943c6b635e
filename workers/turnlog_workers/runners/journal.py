"""Proof from outside that a scripted tool ran: one JSON line when it starts and one when it ends.

The environment variable ``TURNLOG_SCRIPT_JOURNAL`` names the file. A model name cannot: what comes from the wire never
selects a path. Each line is one ``write`` to a file opened for appending, so several processes may share it.
"""

import json
import os
import time
from pathlib import Path

from turnlog_schemas.parts import ToolCall
from turnlog_workers.runners.base import RunnerError, TurnInput

VARIABLE = "TURNLOG_SCRIPT_JOURNAL"


class ToolJournal:
    """Where tools write down that they run; without a path nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def from_environment(cls) -> "ToolJournal":
        """The journal that the environment names."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path) if path else None)

    def write(self, what: str, turn: TurnInput, call: ToolCall) -> None:
        """Append a line. A tool whose start cannot be written down does not start: raises :class:`RunnerError`."""
        if self._path is None:
            return
        entry = {
            "what": what,
            "idempotency_key": call.idempotency_key,
            "call_id": call.call_id,
            "name": call.name,
            "idempotent": call.idempotent,
            "session_id": turn.session_id,
            "turn_id": turn.turn_id,
            "attempt": turn.attempt,
            "fencing_token": turn.fencing_token,
            "pid": os.getpid(),
            "time": time.time(),
        }
        line = json.dumps(entry).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unwritable(str(error.strerror)) from error
        if written < len(line):
            raise self._unwritable(f"{written} of {len(line)} bytes written")

    @staticmethod
    def _unwritable(why: str) -> RunnerError:
        return RunnerError("journal_unwritable", f"the file that {VARIABLE} names: {why}", retryable=False)
