"""Moments of the past: as people write them, where each partition's log ends then, and the files made of it."""

import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import UsageError
from turnlog_workers.materializer.bulk_reader import Bound, BulkReader
from turnlog_workers.materializer.copies import AS_OF, forget_moments
from turnlog_workers.materializer.parallel_rebuild import rebuild
from turnlog_workers.materializer.rebuilding import Progress, event_topic, kind_of
from turnlog_workers.materializer.sealed_records import erasures_of
from turnlog_workers.store import database_files
from turnlog_workers.store.port import StoreError

_KEPT = 4  #: files of moments
_POSITION = re.compile(r"(\d{1,6}):(\d{1,18})")
_AGO = re.compile(r"(\d{1,9}) ?(s|m|h|d)( ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """A moment: a time, or what stood in the log right after some event.

    A partition with an offset ends behind it; every other one before its first accepted event with a later Kafka
    timestamp, later than the moment or, without one, than the newest of the events that are named.
    """

    moment: int | None = None  #: milliseconds since 1970
    offsets: Mapping[int, int] = field(default_factory=dict)  #: by partition, of the last event that is in it

    @property
    def mark(self) -> str:
        """The same text for the same moment."""
        if self.moment is not None:
            return datetime.fromtimestamp(self.moment / 1000, UTC).isoformat(timespec="milliseconds")
        return ",".join(f"{partition}:{offset}" for partition, offset in sorted(self.offsets.items()))

    def choose(self, reader: BulkReader, partitions: Sequence[int]) -> Bound:
        """Where the log ends then. Raises :class:`UsageError` for an event that is not there."""
        ends = reader.log_ends(partitions)
        for partition, offset in self.offsets.items():
            if partition not in ends:
                raise UsageError(f"{partition}:{offset}: the event log has {len(ends)} partitions, from 0")
            if offset >= ends[partition]:
                raise UsageError(f"{partition}:{offset}: the log of partition {partition} ends at {ends[partition]}")
        moment = self.moment
        if moment is None:
            moment = max(reader.moment_of(partition, offset) for partition, offset in self.offsets.items())
        behind = {partition: offset + 1 for partition, offset in self.offsets.items()}
        likely = {**reader.ends_before(moment, ends), **behind}
        return Bound(
            ends={**ends, **behind},
            moments={partition: moment for partition in ends if partition not in behind},
            records=sum(likely.values()),
        )


def parse_until(texts: Sequence[str], *, now: datetime) -> Until:
    """``2026-11-29T12:00``, ``90m`` (ago), or events as ``PARTITION:OFFSET``. Raises :class:`UsageError`."""
    positions = [match for text in texts if (match := _POSITION.fullmatch(text.strip()))]
    if positions and len(positions) == len(texts):
        offsets = {int(match[1]): int(match[2]) for match in positions}
        if len(offsets) < len(positions):
            raise UsageError(f"{', '.join(texts)}: name one offset of a partition")
        return Until(offsets=offsets)
    if len(texts) != 1:
        raise UsageError(f"{', '.join(texts)}: give one time, or events as PARTITION:OFFSET")
    moment = _time(texts[0].strip(), now)
    if moment > now:
        raise UsageError(f"{texts[0]}: that is yet to come")
    return Until(moment=int(moment.timestamp() * 1000))


def _time(text: str, now: datetime) -> datetime:
    if match := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no moment: write 2026-11-29T12:00:00 (UTC, or with a zone: +02:00), a time ago as 90s, 30m, "
            "2h or 7d, or an event as PARTITION:OFFSET"
        ) from error


def file_as_of(settings: Settings, until: Until, report: Callable[[Progress], None] = lambda progress: None) -> Path:
    """The file of a moment, from the data directory if it was asked for before; the newest few are kept.

    Raises what :func:`parallel_rebuild.rebuild` raises.
    """
    deployment = kind_of(event_topic(settings)).marks
    name = sha256(repr((sorted(deployment.items()), until.mark)).encode()).hexdigest()[:16]
    folder = settings.data_dir / AS_OF
    _forget_erased(folder, erasures_of(settings))
    final, newest = folder / f"{name}.final.duckdb", folder / f"{name}.duckdb"
    if final.exists():
        final.touch()
        return final
    _go_on_with(newest)
    found = newest
    if make_file(settings, newest, until, report):
        found = newest.replace(final)
    kept = sorted(folder.glob("[0-9a-f]*.duckdb"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-_KEPT]:
        database_files.delete(old)
    return found


def _forget_erased(folder: Path, erasures: str) -> None:
    """Files that were made before the newest erasure have what is gone: none of them stays."""
    told = folder / "erasures"
    if not folder.is_dir() or erasures == (told.read_text() if told.exists() else ""):
        return
    forget_moments(folder)
    told.write_text(erasures)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.building")


def _go_on_with(path: Path) -> None:
    """What was made of a moment is made further, in a copy: the log may have got more that is before it."""
    unfinished = _unfinished(path)
    if path.exists() and not unfinished.exists():
        copy = path.with_name(f".{path.name}.{secrets.token_hex(4)}.copy")
        try:
            shutil.copyfile(path, copy)
            copy.replace(unfinished)
        finally:
            copy.unlink(missing_ok=True)


def make_file(
    settings: Settings, path: Path, until: Until | None, report: Callable[[Progress], None] = lambda progress: None
) -> bool:
    """Make a file of a moment (``None``: of the whole log) at ``path``, whole or not at all; is it final?

    What is unfinished stays beside it under another name, for the next call. Raises what
    :func:`parallel_rebuild.rebuild` raises.
    """
    unfinished = _unfinished(path)
    if until is None:
        done = rebuild(settings, unfinished, report=report)
    else:
        done = rebuild(settings, unfinished, bound=until.choose, until=until.mark, report=report)
    try:
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error}") from error
    return done.final
