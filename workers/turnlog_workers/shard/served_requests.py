"""The requests of a partition while it is served: taken in offset order, read, and decided, parked or sent on."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from turnlog_schemas.commands import ResetRunner
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.lookups import NOTHING, Found
from turnlog_streams.records import changed
from turnlog_streams.refusals import Refuse
from turnlog_streams.reply import unrecorded_refusal
from turnlog_streams.session.commands import AcceptChat, Cancel
from turnlog_streams.session.membership import refuses
from turnlog_streams.topics import partition_of
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import Parked, RecordsRefusedError, RequestRecord, UnreadableRange
from turnlog_workers.base.tasks import describe, end, frames
from turnlog_workers.intake.bounded_retry import persistently
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.intake.request_reader import ForStream, Incoming, Misrouted, Query, StreamCommand, Unreadable
from turnlog_workers.observe import tracing
from turnlog_workers.shard.forwarder import Forwarder
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.run_ahead import Decision, DecisionTooLargeError, RunAhead
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.stream import AnyStream
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import StoreError

if TYPE_CHECKING:
    from turnlog_workers.observe.spans import Tracing

log = logging.getLogger(__name__)
Fetched = RequestRecord | UnreadableRange | None


class TakenRequest(NamedTuple):
    """What is next: a request and the verdict on it, an unreadable range, or an offset without a record."""

    offset: int
    record: RequestRecord | None = None
    item: Incoming | UnreadableRange | None = None


class ServedRequests:
    """The requests of one claim; none is overtaken."""

    def __init__(
        self,
        context: WorkerContext,
        partition: int,
        *,
        inbox: Inbox,
        first: int,
        run_ahead: RunAhead,
        resident: Resident,
        forwarder: Forwarder,
        wake: Callable[[], None],
    ) -> None:
        self._context = context
        self._partition = partition
        self._inbox = inbox
        self._next = first
        self._seen_end, self._seen_at = 0, 0.0  #: every request below was there then
        self._run_ahead = run_ahead
        self._resident = resident
        self._forwarder = forwarder
        self._wake = wake
        self._preparing: asyncio.Task[list[TakenRequest]] | None = None

    def notice(self, requests_end: int, patience_s: float) -> bool:
        """The topic ends there. Is there a request that nobody delivers? It is then read from the topic."""
        silent_s = self._inbox.silent_for(self._next, requests_end, self._context.now())
        if self._next >= requests_end or silent_s < patience_s:
            return False
        self._inbox.known_end = max(self._inbox.known_end, requests_end)
        return True

    @property
    def waiting(self) -> bool:
        """Do the next requests wait for the broker?"""
        return self._preparing is not None and not self._preparing.done()

    @property
    def more(self) -> bool:
        """Is there another one that can be taken at once? For those that come later, somebody is woken."""
        return self._preparing is None and self._inbox.has(self._next)

    async def take(self) -> list[TakenRequest]:
        """The next requests, a bounded number, with the verdicts on them.

        None while some wait for the broker, for however long: what runs in the partition does not wait with them.
        """
        if self._preparing is not None:
            if not self._preparing.done():
                return []
            prepared, self._preparing = self._preparing.result(), None
            return prepared
        found = await self._next_requests()
        taken = [self._at_once(offset, each) for offset, each in found]
        ready = [each for each in taken if each is not None]
        if len(ready) == len(taken):
            return ready
        name = f"preparing requests of partition {self._partition}"
        self._preparing = asyncio.create_task(self._prepared(found, taken), name=name)
        self._preparing.add_done_callback(lambda _: self._wake())
        return []

    async def close(self) -> None:
        """Prepare no more; the next claim does it again."""
        await end(self._preparing)

    def _at_once(self, offset: int, found: Fetched) -> TakenRequest | None:
        """What can be decided at once; ``None``: something has to be asked or stored before."""
        if not isinstance(found, RequestRecord):
            return TakenRequest(offset, item=found)
        item = self._context.read_at_once(found)
        return TakenRequest(offset, found, item) if isinstance(item, ForStream) else None

    async def _prepared(self, found: list[tuple[int, Fetched]], taken: list[TakenRequest | None]) -> list[TakenRequest]:
        prepared = [
            each if each is not None else await self._prepare(offset, record)
            for (offset, record), each in zip(found, taken, strict=True)
        ]
        await self._store_letters(
            [
                (each.record, each.item.code, each.item.reason)
                for each in prepared
                if each.record is not None and isinstance(each.item, Unreadable)
            ]
        )
        return prepared

    async def _prepare(self, offset: int, record: Fetched) -> TakenRequest:
        """Look for what a request names, or send it on. Doing it again, after a crash, does no harm."""
        assert isinstance(record, RequestRecord)
        item = await persistently(partial(self._context.read, record, self._there_since(offset)))
        if isinstance(item, Misrouted):
            try:
                await persistently(partial(self._context.sender.forward, record, item.key, item.value))
                return TakenRequest(offset, record)
            except RecordsRefusedError as error:
                reason = f"it is in the wrong partition, and cannot be sent on: {error}"
                item = Unreadable(code="too_long", reason=reason, told=item.told)
        return TakenRequest(offset, record, item)

    def _there_since(self, offset: int) -> float:
        """A moment at which the request was in its topic for sure, the same one for as many as possible."""
        if offset >= self._seen_end:
            self._seen_end, self._seen_at = max(self._inbox.known_end, offset + 1), self._context.now()
        return self._seen_at

    async def _next_requests(self) -> list[tuple[int, Fetched]]:
        while (missing_to := self._inbox.missing_from(self._next)) > self._next:
            expected = self._context.membership.rebalancing  # then nothing is delivered
            first = await self._inbox.fill(
                self._context.request_log,
                self._partition,
                self._next,
                missing_to,
                log_level=logging.DEBUG if expected else logging.INFO,
            )
            if first > self._next:
                lost = self._next, first - 1
                log.error("requests %d to %d were deleted unread", *lost, extra=self._place())
                self._lost(*lost, "the broker deleted them unread")
                self._next = first
        records: list[tuple[int, Fetched]] = []
        while self._inbox.has(self._next) and len(records) < self._context.limits.max_group_requests:
            found = self._inbox.get(self._next)
            records.append((self._next, found))
            self._next = found.last + 1 if isinstance(found, UnreadableRange) else self._next + 1
        if records:
            crash_point("shard.after_consume")
        return records

    async def fetch(self, requests: Sequence[TakenRequest]) -> None:
        """Look up what the first of their decisions need, together."""
        items = [request.item for request in requests if isinstance(request.item, ForStream)]
        streams = [(self._resident.get(item.kind, item.stream_id), item) for item in items]
        needs = [(stream, partial(stream.needs, item.command)) for stream, item in streams if stream.closed is None]
        try:
            await self._resident.fetch(needs)
        except StoreError as error:
            self._resident.raise_if_of_all(error)  # else one by one: whoever decides meets it again

    async def decide(self, request: TakenRequest) -> None:
        """Decide a request whose stream is in memory, or park it, or send it on."""
        offset, record, item = request
        if isinstance(item, UnreadableRange):
            log.error("requests %d to %d: %s", item.first, item.last, item.reason, extra=self._place(offset))
            self._lost(item.first, item.last, item.reason)
        elif record is None or item is None:
            self._nothing(offset)
        elif isinstance(item, Unreadable):
            self._parked(offset, item.code, item.reason, item.told)
        elif isinstance(item, ForStream):
            stream = self._resident.get(item.kind, item.stream_id)
            stream.last_used = self._context.now()
            for last_try in (False, True):
                try:
                    is_open = stream.closed_to(item.command) is None
                    needs = partial(stream.needs, item.command)
                    found = await self._resident.find(stream, needs) if is_open else NOTHING
                    self._decide(offset, stream, item.command, found, with_partial=not last_try)
                    if self._context.turn_metrics is not None and record.timestamp_ms is not None:
                        metrics, sent_ms = self._context.turn_metrics, record.timestamp_ms
                        self._run_ahead.groups[-1].done.append(partial(metrics.accepted, sent_ms, self._context.now_ms))
                    if tracing.active is not None:
                        self._trace(tracing.active, record, item)
                    self._run_ahead.note(Decision(partial(self.decide, request), partial(self._unstorable, request)))
                    return
                except Exception as error:
                    self._resident.raise_if_of_all(error)
                    if not last_try:
                        continue
                    if isinstance(error, DecisionTooLargeError):
                        await self._unstorable(request, RecordsRefusedError(str(error)))
                        return
                    told = describe(error), frames(error)
                    log.error("a request cannot be decided: %s%s", *told, extra=self._place(offset))
                    reason = f"deciding it failed twice: {type(error).__name__}"
                    await self._park(record, "undecidable", reason, refused_command(item, "undecidable", reason))

    def _decide(
        self, offset: int, stream: AnyStream, command: StreamCommand, found: Found, *, with_partial: bool
    ) -> None:
        """``with_partial``: what the running turn has said goes into the decision; a cancel must not fail of it."""
        closed = stream.closed_to(command)
        if closed is not None:
            self._run_ahead.refuse(offset, stream, command, *closed)
            return
        if isinstance(stream, SessionInMemory) and isinstance(command, AcceptChat | Cancel):
            text = stream.partial_text() if with_partial else ""
            told = stream.unrecorded_usage(), stream.first_delta_ms()
            command = changed(command, partial=text, usage=told[0], first_delta_ms=told[1])
        self._run_ahead.request(offset, stream, command, found)
        done = self._run_ahead.groups[-1].done
        if isinstance(command, ReceiveForward):
            refused = isinstance(stream, SessionInMemory) and refuses(stream.state, command)
            done.append(partial(self._forwarder.receipt, stream.kind, stream.stream_id, command, refused=refused))
        elif (
            isinstance(command, Query)
            and isinstance(command.query, ResetRunner)
            and isinstance(stream, SessionInMemory)
        ):
            done.append(stream.reset_runner)

    def _trace(self, active: "Tracing", record: RequestRecord, item: ForStream) -> None:
        """A span, once what was decided is in the log."""
        context, place = self._context, (self._context.topics.requests, record.partition, record.offset)
        told = partial(active.requested, item.command, record.timestamp_ms, context.now_ms)
        self._run_ahead.groups[-1].done.append(
            partial(told, stream_id=item.stream_id, deployment=context.topics_id, place=place)
        )

    async def _unstorable(self, request: TakenRequest, error: RecordsRefusedError) -> None:
        """The log does not take what the request leads to. It takes a refusal, or a dead letter at least."""
        record, item = request.record, request.item
        assert record is not None
        assert isinstance(item, ForStream)
        refused = refused_command(item, "too_long", f"what it leads to cannot be stored: {error}")
        if refused is None or isinstance(item.command, Refuse):
            await self._park(record, "too_long", f"what it leads to cannot be stored: {error}", refused)
        else:
            await self.decide(TakenRequest(request.offset, record, refused))

    def _nothing(self, offset: int) -> None:
        self._run_ahead.nothing(offset)
        self._note(partial(self._nothing, offset))

    def _lost(self, first: int, last: int, reason: str) -> None:
        self._run_ahead.lost(first, last, reason)
        self._note(partial(self._lost, first, last, reason))

    def _note(self, again: Callable[[], None]) -> None:
        """What was decided is as small as can be: a log that does not take it is not one to serve on."""

        async def decide_again() -> None:
            again()

        async def give_up(error: RecordsRefusedError) -> None:
            raise error

        self._run_ahead.note(Decision(decide_again, give_up))

    async def _park(self, record: RequestRecord, code: str, reason: str, told: ForStream | None = None) -> None:
        await self._store_letters([(record, code, reason)])
        self._parked(record.offset, code, reason, told)

    async def _store_letters(self, parked: Sequence[Parked]) -> None:
        """Bytes first, then the events: a crash in between parks them twice, never not at all."""
        if not parked:
            return
        for record, code, reason in parked:
            log.warning("dead letter (%s): %s", code, reason, extra=self._place(record.offset))
        letters = [(record, code, _printable(reason)) for record, code, reason in parked]
        await persistently(partial(self._context.sender.dead_letters, letters))

    def _parked(self, offset: int, code: str, reason: str, told: ForStream | None = None) -> None:
        self._run_ahead.dead_letter(offset, code, _printable(reason))
        if told is not None:
            self._run_ahead.groups[-1].done.append(partial(tell, self._context, told, self._run_ahead.epoch))
        self._note(partial(self._parked, offset, code, reason, told))

    def _place(self, offset: int | None = None) -> dict[str, Any]:
        return at(topic=self._context.topics.requests, partition=self._partition, offset=offset)


def refused_command(item: ForStream, code: str, reason: str) -> ForStream | None:
    """The refusal of a request, where somebody waits for its answer."""
    command = item.command
    if isinstance(command, ReceiveForward | ReceiveReceipt):
        return None
    digest = command.command_hash
    refuse = Refuse(
        request_id=command.request_id, command_hash=digest, code=code, reason=reason[:1000], reply=command.reply
    )
    return replace(item, command=refuse)


def tell(context: WorkerContext, refused: ForStream, epoch: int) -> None:
    """Tell the sender of a parked request; where its stream is at home, as it reads its answers there."""
    if not isinstance(refused.command, Refuse):
        return
    context.sender.reply(
        unrecorded_refusal(refused.kind, refused.stream_id, refused.command),
        stream_id=refused.stream_id,
        partition=partition_of(refused.stream_id.encode(), context.partition_count),
        epoch=epoch,
        frame_seq=0,
    )


def _printable(reason: str) -> str:
    """It may quote half an emoji, which no encoding takes."""
    return reason.encode(errors="backslashreplace").decode()
