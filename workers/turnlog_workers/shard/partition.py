"""A shard: one owned partition, from claim to release.

    assigned --> claim --> catch up --> serve --.
                   ^                            | fenced, append failed or overdue
                   `---- release <--------------'     (crash-only: there is one way in)

The inbox belongs to the assignment, not to the epoch: a request leaves it only when it is confirmed.
"""

import asyncio
import contextlib
import logging

from turnlog_streams.folding.fold import FoldError
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.counted import counted
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import LogAuthorizationError, LogBrokenError, LogError, RequestRecord
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.base.tasks import describe, end, frames, kept_running, was_cancelled, watched
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.shard.catch_up import CatchUp
from turnlog_workers.shard.epoch import Claim, Epoch, FencedError
from turnlog_workers.shard.saver import Saver, StoreTrouble
from turnlog_workers.shard.serving import Serving
from turnlog_workers.shard.shard_store import ShardStore
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import DamagedStoreError, NoRoomError, StoreError, UnreadableStoreError

log = logging.getLogger(__name__)
_AGAIN = Backoff(0.1, 2.0)
_RETRY_AT_ONCE_S = 0.5
_STEADY_S = 10.0
_CANCEL_AGAIN_S = 10.0  #: longer than an orderly release takes
_MAX_CANCELS = 6
_NO_ROOM_AGAIN = Backoff(1.0, 15.0)  # each try may leave a claim in the log
_MAX_STORE_FAILURES = 3  #: in a row: then the store is made anew
_MAX_REBUILDS = 3  #: of files that were damaged: then the disk is


class ShardStuckError(Exception):
    """A shard does not end although it was cancelled again and again."""


class Shard:
    """Owns one assigned partition until :meth:`stop`."""

    def __init__(self, context: WorkerContext, partition: int) -> None:
        self.partition = partition
        self.inbox = Inbox(limit=context.limits.max_inbox_requests, ack=self._acknowledge)
        self.serving: Serving | None = None
        self.claims = 0  #: opened by this shard
        self.requests_end = 0  #: of the topic, when it was looked at last
        self._held_up = ""  #: why it is not served, where a new process would not help
        self._caught_up = 0  #: events that were read on the way to serving
        self._context = context
        self._place = at(topic=context.topics.events, partition=partition)
        self._store = ShardStore(context, partition, self._place, self._catches_up)
        self._store_failures = 0  #: in a row, of what the store holds
        self._store_trouble = StoreTrouble(context.now, self._place)
        self._rebuild = ""  #: why the store is to be made anew; empty: it is not
        self._rebuilds = 0  #: in this assignment
        self._damage: DamagedStoreError | None = None  #: that the claim before has left
        self._task: asyncio.Task[None] | None = None

    # ---- what the worker calls

    def start(self, after: asyncio.Task[None] | None = None) -> None:
        """Begin with a claim; ``after`` is the release of the partition's last shard in this worker."""
        name = f"the shard of partition {self.partition}"
        self._task = watched(
            self._run(after), name, died=lambda error: self._context.fatal(f"{name} died: {describe(error)}")
        )

    async def stop(self) -> None:
        """Release for good: stop the turns, save what is confirmed, close the store."""
        self._context.counts.released("handed_over")
        await self._cancel_run()
        await self._store.close()

    async def doubt(self) -> None:
        """Others may have owned the partition meanwhile; then the log has their claim: look before all else."""
        if self.serving is not None:
            self.serving.doubt()
            return
        await self._cancel_run()
        self.start()

    def deliver(self, record: RequestRecord) -> None:
        """A request from Faust."""
        self.inbox.deliver(record)
        if self.serving is not None:
            self.serving.wake()

    def skip(self, start: int, end: int) -> None:
        """Faust goes on at ``end``: what is before it is read from the topic."""
        self.inbox.skip(start, end)
        if self.serving is not None:
            self.serving.wake()

    @property
    def held_up(self) -> str:
        """What it waits for that only others can mend (the broker, room on a disk); empty: nothing of that kind."""
        return self.serving.held_up if self.serving is not None else self._held_up

    @property
    def done_so_far(self) -> int:
        """A number that changes as long as it gets on: towards serving, or deciding requests."""
        return self.inbox.covered if self.serving is not None else -2 - self._caught_up

    @property
    def running_turns(self) -> int:
        """Turns that have a runner at work."""
        return self.serving.running_turns if self.serving is not None else 0

    @property
    def lag(self) -> int:
        """Requests that are there and not decided, as far as we know."""
        if self.serving is None and self.inbox.covered < 0:
            return len(self.inbox)
        return max(0, self.requests_end, self.inbox.known_end) - self.inbox.covered - 1

    @property
    def open_turns(self) -> int:
        """Turns that are accepted and not ended."""
        return self.serving.open_turns if self.serving is not None else 0

    def _acknowledge(self, offset: int) -> None:
        """Tell the group, for those who look at its lag: what is to be done is in the log."""
        try:
            self._context.ack(self.partition, offset)
        except Exception as error:
            log.warning("request %d is not acknowledged: %s", offset, describe(error), extra=self._place)

    # ---- the life of an assignment

    async def _cancel_run(self) -> None:
        """End what runs. Raises :class:`ShardStuckError` when it does not end."""
        task, self._task = self._task, None
        for _ in range(_MAX_CANCELS):
            if task is None or task.done():
                return
            # Again after a while: libraries that we call have been seen to swallow a cancellation.
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)
        if task is not None and not task.done():
            raise ShardStuckError(f"partition {self.partition} is not released: something in it does not end")

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        failures = 0
        while True:
            await self._until_settled()
            began = self._context.now()
            try:
                await self._own()
            except FencedError as fenced:
                self._context.counts.released("fenced")
                log.warning("%s", fenced, extra=self._place)
                if fenced.newest_generation > self._context.membership.generation:
                    await self._wait_for_assignment()
                else:
                    failures = self._failed_again(failures, began)
                    if fenced.by_namesake:
                        await self._until_name_is_ours()
                    retry_s = _AGAIN.next_delay(failures)
                    if retry_s > _RETRY_AT_ONCE_S:  # two owners of one generation must not fence each other for ever
                        await asyncio.sleep(retry_s * self._context.jitter())
            except LogAuthorizationError as error:
                self._context.fatal(str(error))
                return
            except LogBrokenError as error:
                self._context.fatal(str(error))
                return
            except (LogError, SettingsError) as error:  # or the file of a secret is not there for a moment
                log.warning("released: %s", error, extra=self._place)
                self._context.counts.released("log")
                self._held_up = str(error)
                failures = self._failed_again(failures, began)
                await asyncio.sleep(_AGAIN.next_delay(failures))
            except NoRoomError as error:
                self._store_trouble.writing.is_there(f"released, and not served here while there is no room: {error}")
                self._context.counts.released("failure")
                self._held_up = str(error)
                failures = self._failed_again(failures, began)
                await asyncio.sleep(_NO_ROOM_AGAIN.next_delay(failures))
            except (Exception, asyncio.CancelledError) as error:
                if was_cancelled(error):
                    raise
                # A defect: crash-only, as after any other failure, but bounded in its pace.
                self._context.counts.released("failure")
                log.error("released: %s%s", describe(error), frames(error), extra=self._place)
                if not self._blame_the_store(error, began):
                    await asyncio.sleep(_AGAIN.max_s)

    def _blame_the_store(self, error: BaseException, began: float) -> bool:
        """A partition that fails again and again for what its store holds is served from a new one, once; with a file
        that is damaged some times, and never again with that one. Is it to be made anew now?
        """
        if self._context.now() - began > _STEADY_S:
            self._store_failures = 0
        damaged = isinstance(error, DamagedStoreError)
        if damaged or isinstance(error, FoldError):
            self._store_failures = _MAX_STORE_FAILURES
        elif isinstance(error, UnreadableStoreError) or not isinstance(error, StoreError):
            self._store_failures += 1
        if self._rebuild or self._store_failures < _MAX_STORE_FAILURES:
            return False
        if self._rebuilds >= (_MAX_REBUILDS if damaged else 1):
            return False
        self._rebuild = f"the partition could not be served with it ({describe(error)})"
        self._rebuilds += 1
        return True

    def _failed_again(self, failures: int, began: float) -> int:
        """Failures in a row, this one too; a time without trouble ends a row."""
        return 1 if self._context.now() - began > _STEADY_S else failures + 1

    async def _until_settled(self) -> None:
        """No claim while the group rebalances: the partition may be somebody else's in a moment."""
        while self._context.membership.rebalancing:
            await self._wait_for_assignment()

    async def _until_name_is_ours(self) -> None:
        """Two processes of one name have the same generation: the group knows which of them it means, nobody else.

        The one whom it does not mean never claims again; it ends as soon as it hears so.
        """
        asked = 0
        while not await self._context.name_is_ours():
            asked += 1
            await asyncio.sleep(_AGAIN.next_delay(asked))

    async def _wait_for_assignment(self) -> None:
        """Until the next assignment; at most a session timeout (generations restart when a group is deleted).

        The next one from now on: many may have come since the claim, each of which left us the partition.
        """
        limit_s = self._context.limits.session_timeout_s * (1 + self._context.jitter())
        # Not asyncio.wait_for: in Python 3.11 it forgets a cancellation that comes together with the assignment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._context.membership.assigned.wait()

    async def _own(self) -> None:
        """Claim, catch up, serve; whatever ends it, everything folded is thrown away."""
        damage, self._damage = self._damage, None
        if damage is not None:
            self._blame_the_store(damage, self._context.now())
        store, events_end = await self._store.open(fresh=self._rebuild)
        self._rebuild = ""
        epoch = Epoch(self._context.event_log, self.partition, store.position)
        catch_up = CatchUp(store, self._context.limits.store_batch_events, self._catches_up)
        # Most of it before the claim: whoever serves now goes on meanwhile, and a refusal leaves no trace in the log.
        await epoch.read_ahead(events_end, catch_up.take)
        first = await self._check_deployment(epoch.position)
        claimed_at = self._context.now()
        before = epoch.position.newest_generation
        claim = Claim(
            owner=self._context.owner,
            process=self._context.process,
            incarnation=f"{self._context.process}.{self._context.random_id()}",
            generation=self._context.membership.generation,
            partition_count=self._context.partition_count,
            requests_topic_id=self._context.topics_id,
        )
        await epoch.open(claim, self._context.now_ms(), catch_up.take)
        await catch_up.finish(epoch.position)
        self.claims += 1
        self._context.counts.claims += 1
        self.inbox.cover(epoch.position.accepted)
        # Nothing accepted yet: what is gone before anybody could decide it is lost, and the log will say so.
        next_request = epoch.position.accepted + 1
        serving = Serving(
            self._context,
            self.partition,
            epoch=epoch,
            store=store,
            inbox=self.inbox,
            first=next_request,
            confirmed_at=claimed_at,
        )
        # What lies between the log's work list and the first delivery is ours to read: Faust may stand further on.
        self.inbox.known_end = max(self.inbox.known_end, next_request, first)
        # The group gives a partition to one member in each generation.
        back = ", back in its place" if before == claim.generation else ""
        log.info("serving from request %d under claim %d%s", next_request, epoch.epoch, back, extra=self._place)
        await self._serve(serving)

    async def _serve(self, serving: Serving) -> None:
        """Until something ends it; then its turns are stopped, and what is confirmed is saved."""
        saver = Saver(
            serving,
            interval_s=self._context.limits.store_commit_interval_s,
            now=self._context.now,
            trouble=self._store_trouble,
        )
        saving = kept_running(saver.run, f"the saver of partition {self.partition}", gave_up=self._context.fatal)
        try:
            self.serving, self._held_up = serving, ""
            await serving.resume()
            await serving.run()
        finally:
            self.serving = None
            try:
                await end(saving)
            finally:  # a release in this very moment cancels us here: no turn must go on without an owner
                await serving.close()
            await saver.save()  # what is confirmed stays so: the next epoch (ours or another's) has less to catch up
            self._damage = serving.unsaved.damage  # perhaps it shows only now

    def _catches_up(self, events: int) -> None:
        self._caught_up += events
        self._held_up = ""

    async def _check_deployment(self, position: LogPosition) -> int:
        """Does the deployment fit what the log says of it? Where the requests topic begins.

        Raises :class:`LogBrokenError`.
        """
        if position.partition_count and position.partition_count != self._context.partition_count:
            raise LogBrokenError(
                f"partition {self.partition}: the log was written with "
                f"{counted(position.partition_count, 'partition')}, now there are {self._context.partition_count}: "
                "sessions would change their place. "
                "Use a new prefix (TURNLOG_PREFIX)"
            )
        if position.requests_topic_id and position.requests_topic_id != self._context.topics_id:
            raise recreated(
                self.partition, f"its id was {position.requests_topic_id}, now it is {self._context.topics_id}"
            )
        # Asked after the log was read: what is accepted there was in the topic before.
        first, end = await self._context.request_log.bounds(self.partition)
        if position.accepted >= end:
            raise recreated(self.partition, f"accepted up to {position.accepted}, it ends at {end}")
        return first


def recreated(partition: int, how_we_know: str) -> LogBrokenError:
    """The error for a requests topic that is another one than before."""
    return LogBrokenError(
        f"partition {partition}: the requests topic was re-created ({how_we_know}): new requests would be "
        "skipped as known. Use a new prefix (TURNLOG_PREFIX)"
    )
