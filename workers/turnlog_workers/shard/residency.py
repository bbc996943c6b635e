"""The sessions and channels of one epoch that are in memory.

Memory is the authority for what is here; the store for everything else, since a stream is forgotten only once the
store has passed its last event.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from turnlog_schemas.events import SESSION
from turnlog_streams.channel.state import Channel
from turnlog_streams.folding.fold import StreamName
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.lookups import NOTHING, Found, Lookup
from turnlog_streams.records import changed
from turnlog_streams.session.state import Session
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.shard.channel_in_memory import ChannelInMemory
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.stream import AnyStream
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import (
    NOTHING_FETCHED,
    DamagedStoreError,
    FoundRows,
    LoadedStream,
    PartitionStore,
    Saved,
    StoreError,
    UnreadableStoreError,
    WantedRows,
)

log = logging.getLogger(__name__)
_MAX_MESSAGES = 2_000  #: that are looked up for one purpose
_BATCH = 200  #: streams that are loaded, or runners that are closed, together
_COUNTED = 2_000  #: messages whose bytes are counted together: some 3 ms
Needs = Callable[[Found], Lookup | None]
T = TypeVar("T")


class Resident:
    """Loads streams when they are needed, forgets them when they are idle."""

    def __init__(self, context: WorkerContext, store: PartitionStore) -> None:
        self.sessions: dict[str, SessionInMemory] = {}
        self.channels: dict[str, ChannelInMemory] = {}
        self._context = context
        self._store = store
        self._in_use: frozenset[StreamName] = frozenset()
        self._resting = False
        self._fetched: set[StreamName] = set()
        self._saved: dict[StreamName, Saved] = {}

    def get(self, kind: str, stream_id: str) -> AnyStream:
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

    def _known(self, kind: str, stream_id: str) -> AnyStream | None:
        return self.sessions.get(stream_id) if kind == SESSION else self.channels.get(stream_id)

    def _keep(self, name: StreamName, found: LoadedStream | None, set_aside: str) -> None:
        kind, stream_id = name
        stream: AnyStream
        state = found.state if found is not None else None
        if kind == SESSION:
            session = state if isinstance(state, Session) else Session(session_id=stream_id)
            stream = self.sessions[stream_id] = SessionInMemory(session, found.history if found is not None else ())
        else:
            channel = state if isinstance(state, Channel) else Channel(channel=stream_id)
            stream = self.channels[stream_id] = ChannelInMemory(channel)
        stream.last_used, stream.set_aside, stream.is_read = self._context.now(), set_aside, not set_aside
        if found is not None:
            stream.stream_offset, stream.last_offset = found.stream_offset, found.last_offset
            stream.unknown_events = bool(found.unknown_events)

    async def fetch(self, needs: Iterable[tuple[AnyStream, Needs]]) -> None:
        """Look up what is needed first for many decisions, in one go. A need that cannot be told is told later."""
        wanted: dict[StreamName, WantedRows] = {}
        for stream, need in needs:
            try:
                lookup = need(NOTHING)
            except Exception:
                continue  # whoever decides meets it again
            rows = self._wanted(stream, lookup)
            if rows is not None:
                name = stream.kind, stream.stream_id
                wanted[name] = rows if name not in wanted else wanted[name].plus(rows)
        await self._fetch(wanted)

    async def find(self, stream: AnyStream, needs: Needs) -> Found:
        """Look up what something that is to be decided or answered needs."""
        found = NOTHING
        while (lookup := needs(found)) is not None:
            rows = self._wanted(stream, lookup)
            if rows is not None:
                await self._fetch({(stream.kind, stream.stream_id): rows})
            found = found.plus(stream.unsaved.found(lookup, stream.fetched))
            if lookup.messages is not None:
                found = changed(found, messages={lookup.messages: stream.messages(*lookup.messages), **found.messages})
        return found

    def raise_if_of_all(self, error: Exception) -> None:
        """Raise a :class:`StoreError` again, unless it is about one stream.

        Only what cannot be read in a store that was made anew for it already is the stream's own.
        """
        if isinstance(error, StoreError):
            unreadable = isinstance(error, UnreadableStoreError) and not isinstance(error, DamagedStoreError)
            if not (unreadable and self._store.tolerant):
                raise error

    async def messages(self, session_id: str, after: int, upto: int) -> list[HistoryMessage]:
        """The newest messages of a session from behind one up to another, from the store; bounded in number."""
        stream = self.sessions[session_id]
        found: list[HistoryMessage] = []
        after = max(after, upto - _MAX_MESSAGES)
        while after < upto and stream.stream_offset is not None:
            wanted = WantedRows(stream_offset=stream.stream_offset, messages=frozenset({(after, _MAX_MESSAGES, upto)}))
            (rows,) = await self._store.look_up([wanted])
            page = rows.messages[after, _MAX_MESSAGES]
            if not page:
                break
            found += page
            after = page[-1].message_seq
        return found

    def _wanted(self, stream: AnyStream, lookup: Lookup | None) -> WantedRows | None:
        if lookup is None or stream.stream_offset is None:
            return None
        rows = stream.unsaved.wanted(stream.stream_offset, lookup, stream.fetched)
        if lookup.messages is not None and lookup.messages not in stream.fetched.messages:
            messages = stream.wanted_messages(*lookup.messages)
            if messages is not None:
                rows = changed(rows or WantedRows(stream_offset=stream.stream_offset), messages=frozenset({messages}))
        return rows

    async def _fetch(self, wanted: Mapping[StreamName, WantedRows]) -> None:
        if wanted:
            self._fetched |= wanted.keys()
            for name, rows in zip(wanted, await self._store.look_up(list(wanted.values())), strict=True):
                stream = self.get(*name)
                if stream.fetched is NOTHING_FETCHED:
                    stream.fetched = FoundRows()
                stream.fetched.add(wanted[name], rows)

    def saved(self, streams: Mapping[StreamName, Saved]) -> None:
        """So far streams are saved. What is decided now goes on without knowing: it may have asked the store before."""
        self._saved.update(streams)

    def release(self) -> None:
        """Nothing is in use any more: rows that were fetched are forgotten, and so are those that are saved."""
        self._in_use = frozenset()
        for name in self._fetched:
            if (stream := self._known(*name)) is not None:
                stream.fetched = NOTHING_FETCHED
        self._fetched = set()
        saved, self._saved = self._saved, {}
        for name, until in saved.items():
            if (stream := self._known(*name)) is not None:
                stream.stream_offset = until.stream_offset
                stream.unsaved = stream.unsaved.without_saved(until.version)
                if isinstance(stream, SessionInMemory):
                    stream.saved_to = until.messages
                    stream.let_go()

    async def _loaded(
        self, names: list[StreamName]
    ) -> tuple[Mapping[StreamName, LoadedStream], Mapping[StreamName, str]]:
        """What could be loaded, and why others could not: one that makes its batch fail is looked for by halves.

        Raises :class:`StoreError`: that is not about one of them.
        """
        try:
            return await self._store.load(names), {}
        except Exception as error:
            self.raise_if_of_all(error)
            if len(names) == 1:
                (name,) = names
                log.error("%s %s cannot be loaded and is set aside: %s%s", *name, describe(error), frames(error))
                return {}, {name: f"it could not be loaded ({describe(error)})"}
        half = len(names) // 2
        loaded, failed = await self._loaded(names[:half])
        more, more_failed = await self._loaded(names[half:])
        return {**loaded, **more}, {**failed, **more_failed}

    def close(self) -> None:
        """Another owner has them now."""
        self.sessions.clear()
        self._context.idle_memory.forget(self)

    async def reap(self) -> None:
        """Close idle and dead runners, many at a time; forget idle streams that the store has.

        When none is left, the store rests, too.
        """
        dead = [stream for stream in self.sessions.values() if stream.actor is not None and stream.actor.runner_is_dead]
        for some in _parts_of(dead):
            closing = (stream.actor.close_runner() for stream in some if stream.actor and not stream.busy)
            _note_failures(await asyncio.gather(*closing, return_exceptions=True))
        limits = self._context.limits
        long_idle = self._context.now() - limits.idle_timeout_s
        for part in _parts_of([stream for stream in self.sessions.values() if self._idle(stream, long_idle)]):
            await self._reap_sessions(part, long_idle)
        await self._reap_surplus(limits.max_idle_sessions, limits.max_idle_bytes)
        for name, channel in list(self.channels.items()):
            if self._idle(channel, long_idle) and self._is_stored(channel):
                self.channels.pop(name, None)
                await self._store.forget([(channel.kind, name)])
        # Whoever is gone has no use for it, and what a partition at rest holds keeps memory from being given back.
        self._saved = {name: until for name, until in self._saved.items() if self._known(*name) is not None}
        if not (self.sessions or self.channels or self._resting):
            self._resting = True  # a stream that is loaded meanwhile takes it back
            try:
                await self._store.rest()
            except BaseException:
                self._resting = False
                raise

    async def _reap_surplus(self, most: int, most_bytes: int) -> None:
        """Of the idle sessions that the store has, only so many stay, and so many bytes: those that were used last."""
        now = self._context.now()
        await _count([stream for stream in self.sessions.values() if self._idle(stream, now)])
        idle = [stream for stream in self.sessions.values() if self._idle(stream, now)]
        held = sum(stream.held_bytes for stream in idle)
        bytes_over = self._context.idle_memory.bytes_over(self, held, most_bytes)
        if len(self.sessions) <= most and bytes_over <= 0:
            return
        stored = sorted(filter(self._is_stored, idle), key=_last_used)
        leaving = max(len(stored) - most, 0)
        given = sum(stream.held_bytes for stream in stored[:leaving])
        while given < bytes_over and leaving < len(stored):
            given += stored[leaving].held_bytes
            leaving += 1
        self._context.idle_memory.gives_up(self, given)
        for part in _parts_of(stored[:leaving]):
            await self._reap_sessions(part, max(map(_last_used, part)))

    async def _reap_sessions(self, idle: list[SessionInMemory], until: float) -> None:
        """Those of them that leave were used at that moment at the latest."""
        actors, left = [], []
        for stream in idle:
            if stream.actor is not None and self._idle(stream, until):
                actors.append(stream.actor)
                stream.actor = None
        _note_failures(await asyncio.gather(*(actor.stop() for actor in actors), return_exceptions=True))
        for stream in idle:  # closing took its time: some may be at work again
            if self._idle(stream, until) and self._is_stored(stream):
                self.sessions.pop(stream.stream_id, None)
                left.append((stream.kind, stream.stream_id))
                crash_point("resident.after_evict")
        if left:
            await self._store.forget(left)

    def _is_stored(self, stream: AnyStream) -> bool:
        return stream.last_offset < self._store.position.next_offset

    def _idle(self, stream: AnyStream, until: float) -> bool:
        """Has it nothing to do, and was used at that moment at the latest?"""
        if (stream.kind, stream.stream_id) in self._in_use or stream.busy:
            return False
        return stream.last_used <= until


def _last_used(stream: AnyStream) -> float:
    return stream.last_used


async def _count(streams: list[SessionInMemory]) -> None:
    """Bring their sums up to date. Long ones that were just loaded take a while: others have their turn between."""
    counted = 0
    for stream in streams:
        _ = stream.held_bytes
        counted += len(stream.history)
        if counted >= _COUNTED:
            counted = 0
            await asyncio.sleep(0)


def _note_failures(results: Iterable[object]) -> None:
    for error in results:
        if isinstance(error, Exception):
            log.warning("a runner is not closed in order: %s", describe(error))


def _parts_of(items: list[T]) -> Iterable[list[T]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
