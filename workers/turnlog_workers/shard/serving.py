"""Serving a partition under one claim: decide, append, confirm, and only then let anybody see it.

Commit order of a group, each step only after the one before: (1) its records are appended, (2) the append is
confirmed, (3) frames go out and runners start, (4) requests are acknowledged, (5) whoever waits is told.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import partial
from itertools import count

from turnlog_schemas import frames as fr
from turnlog_schemas.events import SESSION, TurnCancelled, TurnCompleted, TurnFailed
from turnlog_streams.folding.fold import FoldedEvent
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.session.commands import ResumeTurn, SessionCommand
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.linger import linger_s
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import RecordsRefusedError
from turnlog_workers.base.tasks import describe
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.intake.request_reader import ForStream
from turnlog_workers.observe import tracing
from turnlog_workers.observe.turn_times import TurnTimes
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.sessions.streamed_text import Waiting
from turnlog_workers.shard.containment import Containment
from turnlog_workers.shard.epoch import Epoch
from turnlog_workers.shard.forwarder import Forwarder
from turnlog_workers.shard.frame_sender import FrameSender
from turnlog_workers.shard.group_commit import GroupCommit
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.run_ahead import Decision, Effect, Group, RunAhead
from turnlog_workers.shard.served_outcomes import ServedOutcomes
from turnlog_workers.shard.served_requests import ServedRequests
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.session_reads import SessionReads
from turnlog_workers.shard.unsaved import Unsaved
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import PartitionStore, StoreError, UnreadableStoreError

log = logging.getLogger(__name__)
_SAVE_AGAIN = Backoff(0.5, 5.0)
_MAX_UNSAVED_COMMITS = 8  #: then the partition waits for its store
_MANY_DECISIONS = 2  #: of one step: with more, the pause between two appends is longer
_BACKLOG_REQUESTS = 20
_TERMINAL = (TurnCompleted, TurnFailed, TurnCancelled)


class Serving(SessionReads):
    """One epoch of one partition. Everything in it is thrown away at release."""

    def __init__(
        self,
        context: WorkerContext,
        partition: int,
        *,
        epoch: Epoch,
        store: PartitionStore,
        inbox: Inbox,
        first: int,
        confirmed_at: float,
    ) -> None:
        super().__init__(context, Resident(context, store), epoch)
        self.confirmed_at = confirmed_at  #: nobody else had claimed then, for sure; later the process may have slept
        self._partition = partition
        self._store = store
        self._inbox = inbox
        self._tail_end = 0
        self._decided_at_once = 0  #: requests and outcomes in the last step
        self._closed = self._waits_for_store = False
        self._wake = asyncio.Event()
        self._doubts: list[asyncio.Future[None]] = []
        self._frames = FrameSender(
            context.sender,
            partition,
            epoch=epoch.epoch,
            replied=epoch.position.replied,
            joins_deltas=context.actor_limits.delta_interval_s > 0,
        )
        self.unsaved = Unsaved(store, many_events=context.limits.store_commit_events)
        self._forwarder = Forwarder(context.sender, context.now)
        self._containment = Containment(self.resident, context.topics.events, partition)
        self._run_ahead = RunAhead(
            context.event_log,
            partition,
            epoch=epoch.epoch,
            accepted=first - 1,
            replied=lambda: self._frames.replied.upto(epoch.position.next_offset),
            policy=context.policy,
            now_ms=context.now_ms,
            max_batch_bytes=context.limits.max_batch_bytes,
        )
        self._group_commit = GroupCommit(self._run_ahead, self._commit, now=context.now, partition=partition)
        self._turn_times = TurnTimes(context.turn_metrics) if context.turn_metrics is not None else None
        self._outcomes = ServedOutcomes(self._run_ahead, self.resident, self._containment)
        self._requests = ServedRequests(
            context,
            partition,
            inbox=inbox,
            first=first,
            run_ahead=self._run_ahead,
            resident=self.resident,
            forwarder=self._forwarder,
            wake=self.wake,
        )

    # ---- what others call

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
        """An actor's outcome: decided as one, returns when it is confirmed."""
        done = self._waiter()
        self._outcomes.put(session_id, commands, done)
        await done

    def failed(self, session_id: str, outcome: SessionCommand) -> None:
        """An actor's work died: this is its outcome."""
        self._outcomes.put_last(session_id, outcome, self._waiter())

    def _waiter(self) -> asyncio.Future[None]:
        """What an actor waits for; cancelled already for one that asks after the release."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            waiter.cancel()
        self._wake.set()
        return waiter

    async def confirm_ownership(self) -> None:
        """If nothing was confirmed for a session timeout (a pause, perhaps), read the tail before going on."""
        if self._context.now() - self.confirmed_at <= self._context.limits.session_timeout_s:
            return
        sure = self._waiter()
        self._doubts.append(sure)
        await sure

    def doubt(self) -> None:
        """Somebody else may have claimed: the tail is read before the next append, runner or tool."""
        self.confirmed_at = -math.inf
        self._doubts.append(self._waiter())

    def send_delta(self, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> Waiting | None:
        """An ephemeral frame of the running attempt."""
        stream = self.resident.sessions.get(turn.session_id)
        return None if stream is None else self._frames.delta(stream, turn, frame)

    def notice(self, events_end: int, requests_end: int, *, patience_s: float) -> None:
        """What the topics' ends are: foreign records in the log, and requests that nobody delivers, show here.

        A request that is not delivered for ``patience_s`` is read from the topic.
        """
        if events_end > self._epoch.position.next_offset:
            self._tail_end = max(self._tail_end, events_end)
            self._wake.set()
        if self._requests.notice(requests_end, patience_s):
            self._wake.set()

    @property
    def open_turns(self) -> int:
        """Turns that are accepted and not ended."""
        return self._run_ahead.open_turns

    @property
    def running_turns(self) -> int:
        """Sessions with a turn at work."""
        return sum(stream.turn_at_work for stream in list(self.resident.sessions.values()))

    @property
    def held_up(self) -> str:
        """What it waits for that only somebody else can mend; empty: nothing of that kind."""
        if self._waits_for_store:
            return "its store cannot be written"
        return "requests wait for the broker" if self._requests.waiting else ""

    # ---- the loop

    async def resume(self) -> None:
        """Take over: answer again what may not have been heard, go on with everything unfinished."""
        unanswered = await self._store.unanswered()
        waiting_streams = await self._store.unfinished()
        streams = dict.fromkeys([*((waiting.kind, waiting.stream_id) for waiting in unanswered), *waiting_streams])
        await self.resident.use(streams)
        unfinished = [self.resident.sessions[name] for kind, name in waiting_streams if kind == SESSION]
        self._run_ahead.open_turns = sum(stream.open_turns for stream in unfinished)
        for waiting in unanswered:
            with self._containment.around(self.resident.get(waiting.kind, waiting.stream_id), "its answers"):
                await self._answer_again(waiting)
        for stream in unfinished:
            with self._containment.around(stream, "its unfinished turn"):
                self._resume_turn(stream)
        await self._group_commit.everything()
        for kind, name in streams:
            source = self.resident.get(kind, name)
            with self._containment.around(source, "what it has to forward"):
                self._forwarder.note(kind, name, source.outbox)
        for stream in unfinished:
            with self._containment.around(stream, "a history compaction that it owes"):
                for owed in stream.state.owed_runs if stream.closed is None else ():
                    self._actor(stream).compact(owed)
        self.resident.release()

    def _resume_turn(self, stream: SessionInMemory) -> None:
        session = stream.state
        turn_id = session.running or next(iter(session.queue), None)
        if turn_id is not None and stream.closed is None:
            resume = ResumeTurn(turn_id=turn_id, attempt=session.turns[turn_id].attempt)
            self._run_ahead.outcome(stream, [resume])
            self._run_ahead.note(Decision(partial(self._resume_again, stream), partial(self._not_resumed, stream)))

    async def _resume_again(self, stream: SessionInMemory) -> None:
        with self._containment.around(stream, "its unfinished turn"):
            self._resume_turn(stream)

    async def _not_resumed(self, stream: SessionInMemory, error: RecordsRefusedError) -> None:
        self._containment.set_aside(stream, "its unfinished turn", error)

    async def _answer_again(self, waiting: Unanswered) -> None:
        stream = self.resident.get(waiting.kind, waiting.stream_id)
        request = waiting.request_id, waiting.command_hash
        found = await self.resident.find(stream, partial(stream.answer_needs, *request))
        reply = stream.answer_of(*request, found)
        if reply is not None:
            # Until it is sent, the next owner must do the same: ``replied`` stays below its event.
            self._frames.send(stream, reply, offset=waiting.log_offset)

    async def run(self) -> None:
        """Serve until something raises: :class:`FencedError` or a ``LogError``."""
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            more = True
            while more:
                more = await self._step()
                came, least_s = self._decided_at_once, self._context.limits.append_linger_s
                if came and least_s:  # what arrives in this moment goes into one append
                    await asyncio.sleep(linger_s(least_s, came, many=_MANY_DECISIONS))

    async def _step(self) -> bool:
        """Everything that waits now, as few appends as it fits into. True: look again at once."""
        if self.unsaved.damage is not None:
            raise self.unsaved.damage  # released, and claimed again with a new store
        await self._look_at_tail()
        outcomes = self._outcomes.take()
        requests = await self._requests.take() if self._context.may_take_requests(self.wake) else []
        self._decided_at_once = len(outcomes) + len(requests)
        wanted = {(SESSION, outcome.session_id) for outcome in outcomes}
        wanted |= {(item.kind, item.stream_id) for _, _, item in requests if isinstance(item, ForStream)}
        await self.resident.use(wanted)
        for outcome in outcomes:
            self._outcomes.decide(outcome)
        await self._requests.fetch(requests)
        for request in requests:
            await self._requests.decide(request)
        await self._group_commit.everything()
        self.resident.release()
        self._context.turns_may_have_ended()
        if self.unsaved.exceed(_MAX_UNSAVED_COMMITS):
            await self._until_saved()
        return bool(self._outcomes or (requests and self._requests.more))

    async def _until_saved(self) -> None:
        """The store is far behind: wait for it. A release would not help, the next claim needs the store at once."""
        for failures in count(1):
            try:
                await self.save()
                self._waits_for_store = False
                return
            except UnreadableStoreError:
                raise  # it is made anew at the next claim
            except StoreError as error:
                self._waits_for_store = True
                log.error("the partition waits for its store: %s", error, extra=at(partition=self._partition))
                await asyncio.sleep(_SAVE_AGAIN.next_delay(failures))

    async def _look_at_tail(self) -> None:
        doubts, self._doubts = self._doubts, []
        asked_at = self._context.now()
        if doubts:
            self._tail_end = (await self._context.event_log.bounds(self._partition))[1]
        if self._tail_end > self._epoch.position.next_offset:
            await self._epoch.read_to(self._tail_end)
        if doubts:
            self.confirmed_at = asked_at
            for sure in doubts:
                if not sure.done():
                    sure.set_result(None)

    # ---- commit and effects

    async def _commit(self, group: Group) -> None:
        base = -1
        if group.records:
            asked_at = self._context.now()
            base = await self._epoch.append(group.records)
            self.confirmed_at = asked_at
            self._context.counts.appends += 1
            self._confirmed(group, base)
        for effect in group.effects:
            try:
                self._take_effect(effect, base)
            except Exception as error:
                self._containment.set_aside(effect.stream, "an effect of what was decided", error)
        crash_point("shard.before_ack")
        if group.covered >= 0:
            self._inbox.cover(group.covered)
        for done in group.done:
            try:
                done()
            except Exception as error:
                log.error("somebody who waited was not told: %s", describe(error), extra=at(partition=self._partition))
        for (kind, name), outbox in group.outboxes.items():
            with self._containment.around(self.resident.get(kind, name), "what it has to forward"):
                self._forwarder.note(kind, name, outbox)

    def _take_effect(self, effect: Effect, base: int) -> None:
        if effect.cancel is not None and isinstance(effect.stream, SessionInMemory):
            effect.stream.cancel_turn(effect.cancel)
        if effect.reply is not None:
            self._frames.send(effect.stream, effect.reply, offset=base + effect.index if effect.index >= 0 else None)
        if effect.start is not None and isinstance(effect.stream, SessionInMemory):
            self._start(effect.stream, effect.start)
        if effect.reset and isinstance(effect.stream, SessionInMemory):
            effect.stream.reset_runner()
        if effect.compact is not None and isinstance(effect.stream, SessionInMemory):
            self._actor(effect.stream).compact(effect.compact)

    def _confirmed(self, group: Group, base: int) -> None:
        for offset, record, touched in zip(count(base), group.records, group.touched, strict=False):
            header, payload = record.header, record.payload
            event = LoggedEvent(partition=self._partition, offset=offset, header=header, payload=payload)
            if touched is not None:
                event = FoldedEvent.of(event, touched.after, touched.written)
                touched.stream.last_offset = offset
            self.unsaved.append(event, record.size_bytes)
            if self._turn_times is not None:
                self._turn_times.confirmed(header, payload)
            if tracing.active is not None:
                tracing.active.confirmed(header, payload, self._context.topics_id)
        crash_point("shard.after_accept")
        if any(isinstance(record.payload, _TERMINAL) for record in group.records):
            crash_point("shard.after_terminal")

    def _start(self, stream: SessionInMemory, turn_id: str) -> None:
        turn = stream.state.turns.get(turn_id)
        if turn is None or stream.state.running != turn_id:
            return
        trace = tracing.attempt(stream.stream_id, turn, self._context.topics_id)
        next_seq, failures = stream.state.messages + 1, turn.runner_failures
        self._actor(stream).start(turn_id, turn.attempt, next_message_seq=next_seq, failures=failures, trace=trace)

    def _actor(self, stream: SessionInMemory) -> SessionActor:
        if stream.actor is None:
            stream.actor = SessionActor(
                stream.state.session_id,
                host=self,
                make_runner=self._context.make_runner,
                running=self._context.running,
                limits=self._context.actor_limits,
                toolbox=self._context.toolbox,
                files=self._context.files,
            )
        stream.last_used = self._context.now()
        return stream.actor

    # ---- upkeep

    async def save(self) -> None:
        """Write what is confirmed to the store."""
        self.resident.saved(await self.unsaved.save(lambda: self._epoch.position))

    async def upkeep(self) -> None:
        """What is to be done now and then: forwards that nobody received, streams that nobody uses."""
        if len(self._inbox) < _BACKLOG_REQUESTS:  # else what we wait for waits behind others, here or there
            self._forwarder.resend()
        self._frames.replied.forget_sent()
        await self.resident.reap()

    async def close(self) -> None:
        """Stop every turn; whoever waits for a confirmation is cancelled."""
        actors = [stream.actor for stream in self.resident.sessions.values() if stream.actor is not None]
        for actor in actors:
            actor.begin_to_stop()
        self._closed = True  # not before: a turn that waits must know that it was we who cancelled
        self._outcomes.close(self._doubts)
        await self._requests.close()
        await asyncio.gather(*(actor.stop() for actor in actors), return_exceptions=True)
        self._frames.close()
        self.resident.close()
        self._context.waiting_for_turns.discard(self.wake)
        self._context.turns_may_have_ended()  # ours are the next owner's now
