"""Making an analysts' file from the log alone; a large one in several processes.

Python folds on one core at a time, so each process makes a file of some partitions, and the files are put together.
What a process is to do comes on its standard input, which stays open: when it is closed, whoever started it is gone,
and it ends. Killed anywhere, the parts stay, and the next call goes on with them.

``python -m turnlog_workers.materializer.parallel_rebuild`` is such a process.
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from turnlog_streams.projection.state import ProjectionError
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import TurnlogError
from turnlog_workers.base.json_file import read_json, write_json
from turnlog_workers.base.part_process import begin, command_line, environment, order_line, say
from turnlog_workers.base.ports import LogError
from turnlog_workers.materializer.analysts_file import AnalystsFile
from turnlog_workers.materializer.bulk_reader import Bound, bulk_reader
from turnlog_workers.materializer.rebuild_places import parts_of
from turnlog_workers.materializer.rebuilding import (
    ChooseBound,
    Progress,
    Rebuilt,
    event_topic,
    kind_of,
    rebuild_partitions,
    whole_log,
)
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind, FileLockedError
from turnlog_workers.store.port import StoreError

_WORTH_RECORDS = 100_000  #: below, starting processes takes longer than it saves
MAX_PROCESSES = 4
_REPORT_S = 2.0
_RELEASED_WITHIN_S = 10.0  #: of a part, by a process whose parent was killed
_MODULE = "turnlog_workers.materializer.parallel_rebuild"

Report = Callable[[Progress], None]


def rebuild(
    settings: Settings,
    path: Path,
    *,
    bound: ChooseBound = whole_log,
    until: str = "",
    report: Report = lambda progress: None,
) -> Rebuilt:
    """Make the file at ``path``, or go on with it where it stands; it is closed and whole when this returns.

    ``until`` marks the file, so that one with another end is never gone on with. Raises :class:`StoreError`,
    :class:`LogError`, :class:`NotFoundError`, :class:`BrokerUnreachableError` or another :class:`TurnlogError`; what is
    made stays, for the next call.
    """
    began = time.monotonic()
    kind = kind_of(event_topic(settings), until)
    with bulk_reader(settings) as reader:
        chosen = bound(reader, kind.partitions)
    read = 0
    if path.exists():
        shutil.rmtree(parts_of(path), ignore_errors=True)
    else:
        read = _make_in_parts(settings, path, kind, chosen, report)
    done = rebuild_partitions(settings, path, kind, chosen, report)
    if not read:
        return done
    progress = replace(done.progress, read=read + done.progress.read, seconds=time.monotonic() - began)
    return replace(done, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which partitions each process makes, and up to where: the same for every try."""

    marks: dict[str, str]
    groups: list[list[int]]
    ends: dict[int, int]
    moments: dict[int, int]

    @property
    def total(self) -> int:
        """Records, at most."""
        return sum(self.ends.values())


def _make_in_parts(settings: Settings, path: Path, kind: FileKind, bound: Bound, report: Report) -> int:
    """Make the file of parts, if that is worth it; how many records were read."""
    folder = parts_of(path)
    plan = _plan(folder, kind, bound)
    if plan is None:
        return 0
    parts = [folder / f"{number}.duckdb" for number in range(len(plan.groups))]
    read = _run(settings, plan, kind, parts, report)
    _put_together(parts, plan, kind, folder / "temp")
    try:
        parts[0].replace(path)
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error}. Check the rights of its folder") from error
    return read


def _put_together(parts: Sequence[Path], plan: _Plan, kind: FileKind, temp: Path) -> None:
    """Into the first of them, all or nothing: its own rows stay where they are."""
    file = AnalystsFile(parts[0], kind, temp=temp, away=database_files.delete, logged=False)
    try:
        if any(file.positions[partition].next_offset for group in plan.groups[1:] for partition in group):
            return  # by a call before this one
        for part in parts[1:]:
            file.take_from(part)
        file.checkpoint()
    finally:
        file.close()


def _plan(folder: Path, kind: FileKind, bound: Bound) -> _Plan | None:
    """The plan of a try before this one, if it is of the same file; else a new one, if it is worth it."""
    known = read_json(folder / "plan.json")
    if known.get("marks") == kind.marks:
        offsets = ({int(p): int(offset) for p, offset in known[name].items()} for name in ("ends", "moments"))
        return _Plan(marks=kind.marks, groups=known["groups"], **dict(zip(("ends", "moments"), offsets, strict=True)))
    shutil.rmtree(folder, ignore_errors=True)
    records = sum(bound.ends.values()) if bound.records is None else bound.records
    processes = min(os.cpu_count() or 1, MAX_PROCESSES, sum(end > 0 for end in bound.ends.values()))
    if records < _WORTH_RECORDS or processes < 2:
        return None
    groups: list[list[int]] = [[] for _ in range(processes)]
    sizes = [0] * processes
    for partition, end in sorted(bound.ends.items(), key=lambda entry: -entry[1]):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(partition)
        sizes[smallest] += end
    plan = _Plan(marks=kind.marks, groups=groups, ends=dict(bound.ends), moments=dict(bound.moments))
    try:
        folder.mkdir(parents=True)
        write_json(folder / "plan.json", asdict(plan))
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error}. Check the disk and the rights of its folder") from error
    return plan


# ---- whoever starts the processes


class _Process:
    """One of them, and what it says."""

    def __init__(self, settings: Settings, order: dict[str, Any]) -> None:
        self.done = self.read = 0
        self.error: str | None = "it was killed"  #: ``None``: it has made its part
        self._process = subprocess.Popen(
            command_line(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
            env=environment(settings),
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(order_line(order))
            self._process.stdin.flush()
        self.thread = threading.Thread(target=self._listen, name="turnlog-rebuild-part", daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self.done, self.read = said.get("done", self.done), said.get("read", self.read)
            if "error" in said:
                self.error = said["error"]

    def end(self) -> None:
        """If it is still at work, it stops where it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self.thread.join()
        self._process.stdout.close()


def _run(settings: Settings, plan: _Plan, kind: FileKind, parts: Sequence[Path], report: Report) -> int:
    """All processes, to the end; how many records they have read."""
    began = time.monotonic()
    processes: list[_Process] = []
    try:
        for group, part in zip(plan.groups, parts, strict=True):
            order = {
                "path": str(part),
                "until": kind.until,
                "ends": {partition: plan.ends[partition] for partition in group},
                "moments": {p: moment for p, moment in plan.moments.items() if p in group},
            }
            processes.append(_Process(settings, order))
        for process in processes:
            while process.thread.is_alive():
                process.thread.join(_REPORT_S)
                done, read = (sum(getattr(each, name) for each in processes) for name in ("done", "read"))
                report(Progress(done=done, total=max(done, plan.total), read=read, seconds=time.monotonic() - began))
            if process.error is not None:
                raise TurnlogError(f"A process of the rebuild could not go on: {process.error}")
    finally:
        for process in processes:
            process.end()
    return sum(process.read for process in processes)


# ---- such a process


def _main() -> None:
    order, _ = begin()
    try:
        _make_part(Settings(), order)
    except (LogError, StoreError, ProjectionError, TurnlogError) as error:
        say(error=str(error))


def _make_part(settings: Settings, order: dict[str, Any]) -> None:
    bound = Bound(
        ends={int(partition): end for partition, end in order["ends"].items()},
        moments={int(partition): moment for partition, moment in order["moments"].items()},
    )
    kind = replace(kind_of(event_topic(settings), order["until"]), partitions=tuple(sorted(bound.ends)))
    deadline = time.monotonic() + _RELEASED_WITHIN_S
    while True:
        try:
            done = rebuild_partitions(settings, Path(order["path"]), kind, bound, _say_progress, threads=1)
            break
        except FileLockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    _say_progress(done.progress)
    say(error=None)


def _say_progress(progress: Progress) -> None:
    say(done=progress.done, read=progress.read)


if __name__ == "__main__":
    _main()
