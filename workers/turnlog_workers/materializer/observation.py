"""The materializer seen from outside: its port, its numbers, and whether it goes on."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from turnlog_workers.base.config import Settings
from turnlog_workers.materializer.analysts_file import AnalystsFile
from turnlog_workers.observe.health import Health
from turnlog_workers.observe.materializer_metrics import MaterializerCollector, MaterializerNow
from turnlog_workers.observe.port import PortOfSettings
from turnlog_workers.observe.watchdog import Progress, Watchdog


class Observation:
    """Of one materializer. Its thread tells; the port's thread reads."""

    def __init__(self, settings: Settings) -> None:
        self._health = Health(hang_after_s=settings.watchdog_timeout_s)
        self._watchdog = Watchdog(
            self._health,
            self._progress,
            timeout_s=settings.watchdog_timeout_s,
            what="events wait, and none was written",
            where=lambda: "",
        )
        self._port = PortOfSettings(settings, self._health)
        self._file: AnalystsFile | None = None
        self._ends: Mapping[int, int] = {}

    def start(self, not_ready: Callable[[], str]) -> None:
        """Answer from now on, where a port is named. Raises :class:`UsageError` when it is taken."""
        self._health.not_ready = not_ready
        self._port.open(MaterializerCollector(self.now))

    def stop(self) -> None:
        """Answer no more."""
        self._port.close()

    def turns(self) -> None:
        """The loop goes on."""
        self._health.beat()

    def rests(self) -> None:
        """What comes may take as long as it takes: connecting, a copy of the whole file."""
        self._watchdog.rest()

    def follows(self, file: AnalystsFile, ends: Mapping[int, int]) -> None:
        """``file`` is written; the log ends there."""
        self._file, self._ends = file, dict(ends)
        self._watchdog.look(time.monotonic())

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Within it the log is read. Outside nothing can go on, which is no reason for a new start."""
        try:
            yield
        finally:
            self._ends = {}
            self.rests()

    def _progress(self) -> Progress:
        file = self._file
        if file is None:
            return {}
        positions = file.positions
        return {
            number: (end - positions[number].next_offset, positions[number].next_offset)
            for number, end in self._ends.items()
            if number in positions
        }

    def now(self) -> MaterializerNow:
        """Its state; asked from another thread."""
        file = self._file
        if file is None:
            return MaterializerNow()
        published = file.publications
        return MaterializerNow(
            lag={number: max(0, lag) for number, (lag, _) in self._progress().items()},
            events=file.written_events,
            rows=file.written_rows,
            fresh_at=published.fresh_at,
            published=published.total,
            failures=published.total_failures,
            failed_at=published.failed_at,
        )
