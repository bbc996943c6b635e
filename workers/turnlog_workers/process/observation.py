"""A worker seen from outside: its port, its numbers, its watchdog."""

import asyncio

from prometheus_client import CollectorRegistry

from turnlog_workers.base.config import Settings
from turnlog_workers.base.tasks import end, kept_running
from turnlog_workers.kafka.record_sender import KafkaRecordSender
from turnlog_workers.observe import tracing
from turnlog_workers.observe.health import Health
from turnlog_workers.observe.port import PortOfSettings
from turnlog_workers.observe.turn_times import TurnMetrics
from turnlog_workers.observe.watchdog import LoopMetrics, Progress, Watchdog
from turnlog_workers.observe.worker_metrics import PartitionNow, WorkerCollector, WorkerNow
from turnlog_workers.process.service import WorkerService
from turnlog_workers.shard.partition import Shard
from turnlog_workers.shard.worker_context import WorkerContext


class Observation:
    """Of one worker. Without a port there are no numbers, and the watchdog writes to the log all the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.registry = CollectorRegistry()
        self.turn_metrics = TurnMetrics(self.registry) if settings.metrics_port is not None else None
        self._health = Health(hang_after_s=settings.watchdog_timeout_s)
        self._port = PortOfSettings(settings, self._health, self.registry)
        self._task: asyncio.Task[None] | None = None

    def start(self, service: WorkerService) -> None:
        """Answer and watch from now on. Raises :class:`UsageError` when the port is taken."""
        settings = self._settings
        tracing.start("turnlog-worker", service.owner)
        self._health.not_ready = lambda: not_ready(service)
        self._port.open(WorkerCollector(lambda: worker_now(service)))
        loop = LoopMetrics(self.registry) if self._port.served is not None else None
        watchdog = Watchdog(self._health, lambda: progress(service), timeout_s=settings.watchdog_timeout_s, loop=loop)
        self._task = kept_running(watchdog.run, "the watchdog", gave_up=lambda _: None)

    async def stop(self) -> None:
        """Answer no more."""
        await end(self._task)
        await asyncio.to_thread(self._port.close)
        if tracing.active is not None:
            await asyncio.to_thread(tracing.stop)


def not_ready(service: WorkerService) -> str:
    """Why it is not ready, in words; empty: it serves what the group has assigned to it, be it nothing."""
    context = service.context
    if context is None:
        return "it is connecting"
    if context.draining:
        return "it is stopping"
    if context.membership.generation < 0:
        return "the group has assigned nothing yet"
    if silent := broker_is_silent(context):
        return silent
    waiting = sorted((number, shard.held_up) for number, shard in list(service.shards.items()) if not shard.claims)
    if not waiting:
        return ""
    names = ", ".join(str(number) for number, _ in waiting)
    why = next((held_up for _, held_up in waiting if held_up), "")
    return f"partitions {names} are not served yet" + (f": {why}" if why else "")


def broker_is_silent(context: WorkerContext) -> str:
    """Why nothing is served by one who has partitions, in words; empty: the broker answers, or nobody asks it.

    An idle worker does not notice otherwise: without requests there is nothing to append.
    """
    since = context.membership.unanswered_since
    silent_s = 0.0 if since is None else context.now() - since
    return "" if silent_s <= context.limits.session_timeout_s else f"the broker has not answered for {silent_s:.0f} s"


def progress(service: WorkerService) -> Progress:
    """Of every partition that should get on: not of a worker that drains, or has as many turns as it may have.

    Nor one that waits for what a new process would not have either: the broker, room on a disk.
    """
    context = service.context
    if context is None or context.draining or context.open_turns() >= context.limits.max_queued_turns:
        return {}
    if broker_is_silent(context):
        return {}
    return {number: (shard.lag, shard.done_so_far) for number, shard in service.shards.items() if not shard.held_up}


def worker_now(service: WorkerService) -> WorkerNow:
    """Its state; asked from another thread, so nothing is iterated that the event loop changes."""
    context, replies = service.context, service.replies
    silent = context is not None and bool(broker_is_silent(context))
    sender = context.sender if context is not None else None
    ours = sender if isinstance(sender, KafkaRecordSender) else None
    return WorkerNow(
        partitions={number: _partition_now(shard, silent) for number, shard in list(service.shards.items())},
        appends=context.counts.appends if context is not None else 0,
        claims=context.counts.claims if context is not None else 0,
        releases=dict(context.counts.releases) if context is not None else {},
        frames_sent=replies.sent,
        frames_joined=replies.joined,
        frames_dropped=replies.dropped + replies.given_up,
        misrouted=dict(ours.misrouting) if ours is not None else {},
        dead_letters=dict(ours.parked) if ours is not None else {},
    )


def _partition_now(shard: Shard, silent: bool) -> PartitionNow:
    serving = shard.serving
    running = serving.running_turns if serving is not None else 0
    open_turns = serving.open_turns if serving is not None else 0
    return PartitionNow(
        serving=serving is not None and not silent,
        running_turns=running,
        queued_turns=max(0, open_turns - running),
        lag=shard.lag,
        unsaved_events=len(serving.unsaved) if serving is not None else 0,
        saved_at=serving.unsaved.saved_at if serving is not None else None,
        save_failed_at=serving.unsaved.failed_at if serving is not None else None,
    )
