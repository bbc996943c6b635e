"""The sessions and channels of one epoch that are in memory.

Memory is the authority for what is here; the store for everything else, since a stream is forgotten only once the
store has passed its last event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TypeVar

from turnlog_schemas.events import SESSION
from turnlog_streams.channel.channel import Channel
from turnlog_streams.session.state import Session
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.shard.stream_in_memory import Live, LiveChannel, LiveSession
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import PartitionStore, StoreError

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
        self._in_use: frozenset[tuple[str, str]] = frozenset()
        self._resting = False

    def get(self, kind: str, stream_id: str) -> Live:
        """A stream that is in memory."""
        return self.sessions[stream_id] if kind == SESSION else self.channels[stream_id]

    async def use(self, streams: Collection[tuple[str, str]]) -> None:
        """Bring streams (kind, id) into memory and keep them there until :meth:`release`."""
        self._in_use = frozenset(streams)
        self._resting = self._resting and not streams
        await self._load_sessions([name for kind, name in streams if kind == SESSION and name not in self.sessions])
        await self._load_channels([name for kind, name in streams if kind != SESSION and name not in self.channels])

    def release(self) -> None:
        """Nothing is in use any more."""
        self._in_use = frozenset()

    async def _load_sessions(self, cold: list[str]) -> None:
        for part in _parts_of(cold):
            loaded, failed = await self._loaded(self._store.load, part)
            for session_id in part:
                found = loaded.get(session_id)
                live = LiveSession(
                    session=Session(session_id=session_id),
                    last_used=self._context.now(),
                    set_aside=failed.get(session_id, ""),
                )
                if found is not None:
                    live.session = found.session
                    live.history = list(found.history)
                    live.last_offset = found.last_offset
                    live.unknown_events = bool(found.unknown_events)
                self.sessions[session_id] = live

    async def _load_channels(self, cold: list[str]) -> None:
        for part in _parts_of(cold):
            loaded, failed = await self._loaded(self._store.load_channels, part)
            for name in part:
                found = loaded.get(name)
                live = LiveChannel(
                    channel=Channel(channel=name), last_used=self._context.now(), set_aside=failed.get(name, "")
                )
                if found is not None:
                    live.channel = found.channel
                    live.last_offset = found.last_offset
                    live.unknown_events = bool(found.unknown_events)
                self.channels[name] = live

    async def _loaded(
        self, load: Callable[[list[str]], Awaitable[Mapping[str, T]]], names: list[str]
    ) -> tuple[Mapping[str, T], Mapping[str, str]]:
        """What could be loaded, and why others could not: one that makes its batch fail is looked for by halves.

        Raises :class:`StoreError`: that is not about one of them.
        """
        try:
            return await load(names), {}
        except StoreError:
            raise
        except Exception as error:
            if len(names) == 1:
                told = names[0], describe(error), frames(error)
                log.error("%s cannot be loaded and is set aside: %s%s", *told)
                return {}, {names[0]: f"it could not be loaded ({describe(error)})"}
        half = len(names) // 2
        loaded, failed = await self._loaded(load, names[:half])
        more, more_failed = await self._loaded(load, names[half:])
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
