"""``turnlog rebuild``: the live file made anew beside itself, then put in its place, whoever runs meanwhile."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from turnlog_workers.base.config import Settings
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.materializer.analysts_tables import for_readers
from turnlog_workers.materializer.parallel_rebuild import rebuild
from turnlog_workers.materializer.process import FILE_NAME
from turnlog_workers.materializer.rebuild_places import rebuilt_of, unfinished_of
from turnlog_workers.materializer.rebuilding import Progress, event_topic, kind_of
from turnlog_workers.materializer.rebuilt_file import open_live
from turnlog_workers.store.database_files import FileLockedError
from turnlog_workers.store.port import StoreError

_TAKEN_WITHIN_S = 30.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRebuild:
    """What came of it."""

    progress: Progress
    outcome: str  #: a sentence


def rebuild_live(settings: Settings, report: Callable[[Progress], None] = lambda progress: None) -> LiveRebuild:
    """Rebuild and swap. Raises what :func:`parallel_rebuild.rebuild` raises; the next call goes on."""
    live = settings.data_dir / FILE_NAME
    unfinished, rebuilt = unfinished_of(live), rebuilt_of(live)
    done = rebuild(settings, unfinished, report=report)
    try:
        unfinished.replace(rebuilt)
    except OSError as error:
        raise StoreError(f"{rebuilt} cannot be made: {error}. Check the rights of its folder") from error
    crash_point("rebuild.in_swap")
    try:
        file = open_live(live, kind_of(event_topic(settings)), for_readers(settings))
    except FileLockedError:
        return LiveRebuild(progress=done.progress, outcome=_wait_until_taken(settings))
    try:
        file.publish_now(settings.snapshot)
    finally:
        file.close()
    return LiveRebuild(progress=done.progress, outcome=f"{live} is the new file, and {settings.snapshot} is published")


def _wait_until_taken(settings: Settings) -> str:
    """The materializer looks for it whenever it would publish."""
    live = settings.data_dir / FILE_NAME
    deadline = time.monotonic() + _TAKEN_WITHIN_S + settings.publish_interval_s
    while time.monotonic() < deadline:
        if not rebuilt_of(live).exists():
            return f"the materializer has taken the new file over as {live}"
        time.sleep(_LOOK_S)
    return f"{rebuilt_of(live)} is whole; whoever has {live} open takes it over at its next start"
