"""The sessions and channels of one epoch that are in memory.

Memory is the authority for what is here; the store for everything else, since a stream is forgotten only once the
store has passed its last event.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from turnlog_schemas.events import SESSION
from turnlog_streams.channel.channel import Channel
from turnlog_streams.folding.fold import StreamName
from turnlog_streams.session.state import Session
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.shard.stream_in_memory import Live, LiveChannel, LiveSession
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import LoadedStream, PartitionStore, StoreError

log = logging.getLogger(__name__)
_BATCH = 200  #: streams that are loaded, or runners that are closed, together
T = TypeVar("T")


class Resident:
    """Loads streams when they are needed, forgets them when they are idle."""

    def __init__(self, context: WorkerContext, store: PartitionStore) -> None:
        self.sessions: dict[str, LiveSession] = {}
        self.channels: dict[str, LiveChannel] = {}
        self._context = context
        self._store = store
        self._in_use: frozenset[StreamName] = frozenset()
        self._resting = False

    def get(self, kind: str, stream_id: str) -> Live:
        """A stream that is in memory."""
        return self.sessions[stream_id] if kind == SESSION else self.channels[stream_id]

    async def use(self, streams: Collection[StreamName]) -> None:
        """Bring streams (kind, id) into memory and keep them there until :meth:`release`."""
        self._in_use = frozenset(streams)
        self._resting = self._resting and not streams
        for part in _parts_of([name for name in streams if self._known(*name) is None]):
            loaded, failed = await self._loaded(part)
            for name in part:
                self._keep(name, loaded.get(name), failed.get(name, ""))

    def _known(self, kind: str, stream_id: str) -> Live | None:
        return self.sessions.get(stream_id) if kind == SESSION else self.channels.get(stream_id)

    def _keep(self, name: StreamName, found: LoadedStream | None, set_aside: str) -> None:
        kind, stream_id = name
        live: Live
        if kind == SESSION:
            live = self.sessions[stream_id] = LiveSession(session=Session(session_id=stream_id))
        else:
            live = self.channels[stream_id] = LiveChannel(channel=Channel(channel=stream_id))
        live.last_used, live.set_aside = self._context.now(), set_aside
        if found is not None:
            live.become(found.state)  # type: ignore[arg-type]
            live.last_offset = found.last_offset
            live.unknown_events = bool(found.unknown_events)
            if isinstance(live, LiveSession):
                live.history = list(found.history)

    def release(self) -> None:
        """Nothing is in use any more."""
        self._in_use = frozenset()

    async def _loaded(
        self, names: list[StreamName]
    ) -> tuple[Mapping[StreamName, LoadedStream], Mapping[StreamName, str]]:
        """What could be loaded, and why others could not: one that makes its batch fail is looked for by halves.

        Raises :class:`StoreError`: that is not about one of them.
        """
        try:
            return await self._store.load(names), {}
        except StoreError:
            raise
        except Exception as error:
            if len(names) == 1:
                (name,) = names
                log.error("%s %s cannot be loaded and is set aside: %s%s", *name, describe(error), frames(error))
                return {}, {name: f"it could not be loaded ({describe(error)})"}
        half = len(names) // 2
        loaded, failed = await self._loaded(names[:half])
        more, more_failed = await self._loaded(names[half:])
        return {**loaded, **more}, {**failed, **more_failed}

    async def reap(self) -> None:
        """Close idle and dead runners, many at a time; forget idle streams that the store has.

        When none is left, the store rests, too.
        """
        dead = [live for live in self.sessions.values() if live.actor is not None and live.actor.runner_is_dead]
        for some in _parts_of(dead):
            closing = (live.actor.close_runner() for live in some if live.actor and not live.busy)
            _note_failures(await asyncio.gather(*closing, return_exceptions=True))
        for part in _parts_of([live for live in self.sessions.values() if self._idle(live)]):
            await self._reap_sessions(part)
        for name, channel in list(self.channels.items()):
            if self._idle(channel) and channel.last_offset < self._store.position.next_offset:
                self.channels.pop(name, None)
        if not (self.sessions or self.channels or self._resting):
            self._resting = True  # a stream that is loaded meanwhile takes it back
            try:
                await self._store.rest()
            except BaseException:
                self._resting = False
                raise

    async def _reap_sessions(self, lives: list[LiveSession]) -> None:
        actors = []
        for live in lives:
            if live.actor is not None and self._idle(live):
                actors.append(live.actor)
                live.actor = None
        _note_failures(await asyncio.gather(*(actor.stop() for actor in actors), return_exceptions=True))
        for live in lives:  # closing took its time: some may be at work again
            if self._idle(live) and live.last_offset < self._store.position.next_offset:
                self.sessions.pop(live.stream_id, None)
                crash_point("resident.after_evict")

    def _idle(self, live: Live) -> bool:
        if (live.kind, live.stream_id) in self._in_use or live.busy:
            return False
        return live.last_used < self._context.now() - self._context.limits.idle_timeout_s


def _note_failures(results: Iterable[object]) -> None:
    for error in results:
        if isinstance(error, Exception):
            log.warning("a runner is not closed in order: %s", describe(error))


def _parts_of(items: list[T]) -> Iterable[list[T]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
