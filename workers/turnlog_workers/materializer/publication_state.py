"""How publishing the snapshot goes: said in the log once and then seldom, and in a file for ``turnlog doctor``."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.counted import counted
from turnlog_workers.base.json_file import read_json, write_json

log = logging.getLogger(__name__)

FILE_NAME = "publication.json"
_AGAIN = Backoff(1.0, 60.0)  # each try copies the whole file
_SAY_AGAIN_S = 600.0
_UNHEALTHY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationState:
    """What the file says. Times are seconds since 1970; ``None``: never."""

    snapshot: str
    published_at: float | None
    failing_since: float | None  #: the first of the failures in a row
    failures: int  #: in a row
    error: str  #: of the last one

    def describe(self, now: float) -> str:
        """A sentence on what is wrong; empty when nothing is."""
        if self.failing_since is None:
            return ""
        times = counted(self.failures, "time")
        return f"publishing has failed {times} in {max(0.0, now - self.failing_since):.0f} s: {self.error}"


def read_state(data_dir: Path) -> PublicationState | None:
    """What the materializer of this data directory wrote last; ``None``: nothing that can be read."""
    try:
        found = read_json(data_dir / FILE_NAME)
        return PublicationState(
            snapshot=str(found["snapshot"]),
            published_at=_seconds(found["published_at"]),
            failing_since=_seconds(found["failing_since"]),
            failures=int(found["failures"]),
            error=str(found["error"]),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


class Publications:
    """Counts successes and failures, and tells when the next try is due."""

    def __init__(
        self, data_dir: Path, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        """``clock`` measures pauses, ``now`` is for people; both in seconds."""
        self._file = data_dir / FILE_NAME
        self._clock = clock
        self._now = now
        before = read_state(data_dir)
        self._published_at = None if before is None else before.published_at
        #: When the snapshot was as new as the file, in seconds since 1970; of one by an earlier process when it was
        #: published.
        self.fresh_at = self._published_at
        self.failed_at: float | None = None  #: the newest failure, in seconds since 1970
        self.total = 0
        self.total_failures = 0
        self._failing_since: float | None = None
        self._failing_since_clock = 0.0
        self._failures = 0
        self._error = ""
        self._said: tuple[str, float] | None = None
        self._retry_at = 0.0
        self._file_error = ""

    @property
    def may_try(self) -> bool:
        """Is the pause after a failure over?"""
        return self._clock() >= self._retry_at

    @property
    def healthy(self) -> bool:
        """Has publishing not been failing for long?"""
        return self._failing_since is None or self._clock() - self._failing_since_clock < _UNHEALTHY_AFTER_S

    def current(self) -> None:
        """There is nothing new to publish."""
        self.fresh_at = self._now()

    def succeeded(self, snapshot: Path, *, took_s: float = 0.0) -> None:
        """A snapshot was published: of what there was ``took_s`` ago."""
        self.total += 1
        self.fresh_at = self._now() - took_s
        if self._failures:
            log.info("the snapshot %s is published again, after %d failures", snapshot, self._failures)
        self._published_at, self._failing_since = self._now(), None
        self._failures, self._error, self._said, self._retry_at = 0, "", None, 0.0
        self._write(snapshot)

    def failed(self, snapshot: Path, error: str) -> None:
        """One was not."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since, self._failing_since_clock = self._now(), now
        self._failures += 1
        self.total_failures += 1
        self.failed_at = self._now()
        self._error = error
        self._retry_at = now + _AGAIN.next_delay(self._failures)
        if self._said is None or self._said[0] != error or now >= self._said[1] + _SAY_AGAIN_S:
            self._said = (error, now)
            log.error("%s (tried %d times; it is tried again)", error, self._failures)
        self._write(snapshot)

    def _write(self, snapshot: Path) -> None:
        state: dict[str, Any] = {
            "snapshot": str(snapshot),
            "published_at": _iso(self._published_at),
            "failing_since": _iso(self._failing_since),
            "failures": self._failures,
            "error": self._error,
        }
        try:
            write_json(self._file, state)
            self._file_error = ""
        except OSError as error:
            if str(error) != self._file_error:  # the disk may be full: that is said where it matters more
                log.warning("%s cannot be written: %s", self._file, error)
                self._file_error = str(error)


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
