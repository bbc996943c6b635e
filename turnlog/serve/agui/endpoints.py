"""``POST /agui``: a run; ``POST /agui/rejoin``: one that runs, or has ended, from where it is now."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from turnlog.client.chat_turn import ChatTurn
from turnlog.client.replies import Position, ReplyFrame
from turnlog.errors import NotFoundError, RequestRefusedError, TurnlogError
from turnlog.serve.agui.run_events import SNAPSHOT, Event, RunEvents
from turnlog.serve.agui.run_input import KnownMessage, RunInput, read_ids, read_run_input, session_name
from turnlog.serve.agui.snapshots import messages_snapshot
from turnlog.serve.durable_streams.frames import Known, ReplyStreams
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import event
from turnlog.serve.http_errors import HttpError, http_error_of, not_found
from turnlog_schemas.frames import TurnAccepted, TurnStarted
from turnlog_schemas.parts import HistoryEntry, NewSession

_MAX_HISTORY = 20_000  #: messages of a snapshot; the newest
_TIMEOUT_S = 86_400.0  #: of a turn, waiting for those before it included


async def _run(call: Call) -> Response:
    """A turn of what the user said last. The same run again is the same turn: then it is rejoined."""
    asked = read_run_input(await call.json())
    session_id = call.session(session_name(asked.thread_id))
    turn = call.gateway.client.chat(
        session_id,
        asked.text or (),
        request_id=asked.run_id,
        new_session=await _new_session(call, session_id, asked),
        tools=asked.tools,
        tool_outputs=asked.outputs,
        timeout_s=_TIMEOUT_S,
    )
    run = _Run(call, session_id, asked.thread_id, asked.run_id, asked.known)
    return call.events(_whole(run, run.asked(turn)))


async def _new_session(call: Call, session_id: str, asked: RunInput) -> NewSession | None:
    """What a session that this run makes begins with. One that is there is not told the whole conversation again."""
    if not (asked.earlier or asked.instructions):
        return None
    try:
        await ReplyStreams.of(call.gateway).session(session_id)
    except NotFoundError:
        return NewSession(instructions=asked.instructions, messages=asked.earlier)
    return None


async def _rejoin(call: Call) -> Response:
    """404 for a run that its thread never had."""
    body = await call.json()
    thread_id, run_id = read_ids(body)
    session_id = call.session(session_name(thread_id))
    run = _Run(call, session_id, thread_id, run_id, ())
    await run.find()
    return call.events(_whole(run, run.rejoined()))


async def _whole(run: "_Run", events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Events as they are sent; what goes wrong is the protocol's own error."""
    try:
        async for each in events:
            yield event(await run.snapshot() if each is SNAPSHOT else each)
    except (TurnlogError, HttpError) as error:
        failed = error if isinstance(error, HttpError) else http_error_of(error)
        for each in run.failed(failed.code, failed.message):
            yield event(each)


class _Run:
    """One run as one reader follows it."""

    def __init__(self, call: Call, session_id: str, thread_id: str, run_id: str, known: Sequence[KnownMessage]) -> None:
        self._client = call.gateway.client
        self._streams = ReplyStreams.of(call.gateway)
        self._session_id = session_id
        self._known = known
        self._events = RunEvents(thread_id=thread_id, run_id=run_id)
        self._run_id = run_id
        self._began = False
        self._since = 0  #: positions of the replies that the run's frames lie between
        self._end = 0
        self._known_turn: Known | None = None

    def _begin(self) -> list[Event]:
        began, self._began = self._began, True
        return [] if began else [self._events.started()]

    def failed(self, code: str, reason: str) -> list[Event]:
        """The last events of a run that cannot be told on."""
        return [*self._begin(), *self._events.fail(code, reason)] if not self._events.ended else []

    async def snapshot(self) -> Event:
        """All messages, of this turn those that were told."""
        events = self._events
        history: list[HistoryEntry]
        try:
            history = [entry async for entry in self._client.messages(self._session_id)]
        except NotFoundError:  # refused before there was a session
            history = []
        return messages_snapshot(
            history[-_MAX_HISTORY:],
            self._known,
            turn_id="" if events.ended else events.turn_id,
            through_seq=events.last_seq,
            partial=events.partial,
        )

    async def asked(self, turn: ChatTurn) -> AsyncIterator[Event]:
        """The run from its request on. A frame that is not the beginning tells that the run is known already."""
        fresh = False
        try:
            async for reply in turn:
                for each in self._begin():
                    yield each
                if isinstance(reply.frame, TurnAccepted):
                    continue
                if not fresh and not isinstance(reply.frame, TurnStarted):
                    async for each in self._caught_up(reply):
                        yield each
                fresh = True
                if reply.offset < self._end:  # told by what was caught up with
                    continue
                for each in self._events.of(reply):
                    yield each
        except RequestRefusedError as refused:
            # The run is known, and was asked for when the session was not there yet: it is the same run all the same.
            if refused.code == "conflict" and not self._began:
                await self.find()
                async for each in self.rejoined():
                    yield each
                return
            for each in self.failed(refused.code, refused.reason):
                yield each

    async def _caught_up(self, reply: ReplyFrame) -> AsyncIterator[Event]:
        """What was told before this reader came, as one snapshot; then what is being told is open again."""
        known = await self._streams.turn(self._session_id, reply.header.turn_id or "")
        partition = self._streams.partition(self._session_id)
        _, self._since, self._end = await self._streams.bounds(partition, known.since_ms)
        if reply.is_terminal:
            told = self._events.of(reply)
            yield await self.snapshot()
            for each in told:
                yield each
            return
        async for each in self._resumed():
            yield each

    async def find(self) -> None:
        """Where the frames of the run are. Raises 404 where the thread has no such run."""
        session = await self._streams.session(self._session_id)
        partition = self._streams.partition(self._session_id)
        turn = self._known_turn = await asyncio.to_thread(self._streams.turn_of_request, self._session_id, self._run_id)
        since_ms = session.since_ms if turn is None else turn.since_ms
        _, self._since, self._end = await self._streams.bounds(partition, since_ms)
        if turn is None and not await self._heard_of():
            raise not_found(f"run {self._run_id[:100]!r}")

    async def _heard_of(self) -> bool:
        async for _, reply in self._streams.frames(self._session_id, self._since, self._end):
            if reply is not None and reply.header.request_id == self._run_id:
                return True
        return False

    async def rejoined(self) -> AsyncIterator[Event]:
        """The run as it is now, and on."""
        for each in self._begin():
            yield each
        async for each in self._resumed():
            yield each
        if self._events.ended:
            return
        place = Position(partition=self._streams.partition(self._session_id), offset=self._end - 1)
        following = self._client.follow(self._session_id, from_position=place, deduplicate=False)
        try:
            async for reply in following:
                if reply.header.request_id != self._run_id:
                    continue
                for each in self._events.of(reply):
                    yield each
                if self._events.ended:
                    return
        finally:
            await following.aclose()

    async def _resumed(self) -> AsyncIterator[Event]:
        """One snapshot of all that the frames up to the end told, and what goes on behind it."""
        last: list[Event] = []
        async for _, reply in self._streams.frames(self._session_id, self._since, self._end):
            if reply is not None and reply.header.request_id == self._run_id:
                told = self._events.of(reply)
                if self._events.ended:
                    last = [each for each in told if each["type"] in ("RUN_FINISHED", "RUN_ERROR")]
                    break
        known = self._known_turn
        if not self._events.ended and known is not None and known.ended:  # its frames are not kept any more
            last = self._events.ended_as(known.status, known.code, known.reason)
        self._events.without_reasoning()
        yield await self.snapshot()
        for each in last or self._events.reopened():
            yield each


ENDPOINTS = (
    Endpoint(path="/agui", handler=_run, methods=("POST",), scopes=("chat",)),
    Endpoint(path="/agui/rejoin", handler=_rejoin, methods=("POST",), scopes=("chat",)),
)
