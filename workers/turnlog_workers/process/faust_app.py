"""The Faust application: ``turnlog worker`` and ``faust -A turnlog_workers.process.faust_app worker`` run the same one.

Faust brings the consumer group, the fetching and the committing. It gets acknowledgements strictly in offset order,
and only of requests that the log has (see ``intake.inbox``).
"""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine, Iterable
from typing import Any, cast

import faust
import faust.tables
import uvloop
from faust.types import TP

from turnlog_workers.base.config import Settings
from turnlog_workers.base.garbage import GarbagePasses
from turnlog_workers.base.ports import Headers, RequestRecord
from turnlog_workers.base.tasks import describe
from turnlog_workers.intake.faust_consumer import IntakeConsumer, IntakeTransport
from turnlog_workers.kafka.compiled_structs import compile_structs
from turnlog_workers.kafka.connections import faust_broker, faust_credentials
from turnlog_workers.kafka.request_log import request_headers
from turnlog_workers.membership.worker_name import WorkerName, take_name
from turnlog_workers.process.observation import Observation
from turnlog_workers.process.service import WorkerService

log = logging.getLogger(__name__)
_STOP_LIMIT_S = 20.0  #: beside the drain: releasing partitions and leaving the group


class _Acked:
    """What Faust's consumer needs to see to take an acknowledgement."""

    __slots__ = ("__weakref__", "acked", "offset", "topic", "tp")

    def __init__(self, tp: TP, offset: int) -> None:
        self.tp = tp
        self.topic = tp.topic
        self.offset = offset
        self.acked = False


class NoTables(faust.tables.TableManager):
    """We have no tables, so nothing is waited for: Faust gives those that register late a second at each start."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class AsTheyAre(faust.Schema[Any, Any]):
    """Keys and values that nobody reads before the shard does: Faust would look for codecs, for each of them."""

    def compile(self, app: Any, **_: Any) -> Any:
        async def decode(message: Any, **_: Any) -> faust.Event:
            return faust.Event(app, message.key, message.value, message.headers, message)

        return decode


class TurnlogApp(faust.App):
    """The Faust app that feeds a :class:`WorkerService`."""

    turnlog_settings: Settings
    inside: WorkerService
    stop_reason: str | None = None
    under_faust = True  #: Faust's command line runs the app; it knows only crashes
    #: Where there is no sensor at all, Faust takes their state for lost, and warns twice at each rebalance.
    _rebalancing_sensor_state: Any = property(lambda self: {"no sensor": None}, lambda self, state: None)

    def connect(self, settings: Settings, name: WorkerName) -> None:
        """Bind the worker's inside to this app's consumer."""
        self.turnlog_settings = settings
        self.worker_name = name
        self.stopping = asyncio.Event()
        self._held: set[TP] = set()
        self._observation = Observation(settings)
        self.inside = WorkerService(
            settings,
            owner=name.name,
            ack=self._ack,
            stop=self._stop_for,
            name_is_ours=self._name_is_ours,
            turn_metrics=self._observation.turn_metrics,
        )
        self._garbage_passes = GarbagePasses(is_quiet=lambda: self.inside.running_turns == 0)

    def _new_transport(self) -> IntakeTransport:
        return IntakeTransport(self.conf.broker_consumer, self)

    def _new_consumer(self) -> IntakeConsumer:
        consumer = cast(IntakeConsumer, super()._new_consumer())
        consumer.read_past = self.inside.read_past
        return consumer

    def on_init_dependencies(self) -> Iterable[Any]:
        """Without Faust's monitor, which nobody can see here: it writes a dozen numbers for each message."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def _ack(self, partition: int, offset: int) -> None:
        tp = TP(self.turnlog_settings.topics.requests, partition)
        self.consumer.ack(cast(Any, _Acked(tp, offset)))
        # What is acknowledged has left its inbox. Faust itself lets go only if its own queue was full, too.
        if tp in self._held and self.inside.has_room(partition):
            self._held.discard(tp)
            self.consumer.on_buffer_drop(tp)

    def hold(self, tp: TP) -> None:
        """Fetch no more of a partition for now. Soft: what is fetched already still comes."""
        self._held.add(tp)
        self.consumer.on_buffer_full(tp)

    def forget_holds(self) -> None:
        """At a rebalance Faust fetches all of the new assignment."""
        self._held.clear()

    async def _name_is_ours(self) -> bool:
        try:
            async with asyncio.timeout(self.turnlog_settings.session_timeout_s):
                return await cast(IntakeConsumer, self.consumer).name_is_ours()
        except TimeoutError:
            return False

    @property
    def leaves_group(self) -> bool:
        """Others take over at once, unless whoever told this worker to stop starts it again."""
        told_to_stop = self.should_stop and self.stop_reason is None and self.crash_reason is None
        return not told_to_stop or self.turnlog_settings.on_stop == "leave"

    def fenced(self, sentence: str) -> None:
        """Our name is another process's: what we serve is its own in a moment."""
        self._stop_for(sentence)

    def _stop_for(self, reason: str) -> None:
        self.stop_reason = reason
        self.stopping.set()
        if self.under_faust:
            self.add_future(self.crash(RuntimeError(reason)))

    async def on_first_start(self) -> None:
        self.conf.datadir.parent.mkdir(parents=True, exist_ok=True)  # Faust makes one level only
        await super().on_first_start()

    async def on_start(self) -> None:
        self.worker_name.hold()
        self._garbage_passes.start()
        await super().on_start()
        self._observation.start(self.inside)
        await self.inside.start()

    async def on_stop(self) -> None:
        """Drain, release everything, and only then leave the group (or not: ``leaves_group``)."""
        await self.inside.drain()
        await self.inside.stop()
        await self._observation.stop()
        self._garbage_passes.stop()
        await super().on_stop()


def build_app(settings: Settings) -> TurnlogApp:
    """The app for these settings. Nothing connects before it starts."""
    compile_structs()
    name = take_name(settings)
    app = TurnlogApp(settings.group_id, **_faust_settings(settings, name))
    app.connect(settings, name)
    topic = settings.topics.requests
    as_they_are = AsTheyAre(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    requests = app.topic(topic, schema=as_they_are)

    @app.agent(requests, name="turnlog.intake")
    async def intake(stream: Any) -> None:
        """Read and hand over, nothing else: no session is waited for here."""
        async for event in stream.noack().events():
            message = event.message
            record = RequestRecord(
                partition=message.partition,
                offset=message.offset,
                key=message.key,
                value=message.value,
                headers=_headers(message.headers),
                timestamp_ms=int(message.timestamp * 1000) if message.timestamp else None,
            )
            if not app.inside.deliver(record):
                app.hold(TP(message.topic, message.partition))

    async def revoked(*_args: Any, **_: Any) -> None:
        app.forget_holds()
        app.inside.revoked()

    async def assigned(_app: Any, *args: Any, **_: Any) -> None:
        app.forget_holds()
        partitions: set[TP] = args[0]
        mine = {tp.partition for tp in partitions if tp.topic == topic}
        await app.inside.assigned(mine, app.consumer_generation_id)

    cast(Any, app.on_partitions_revoked).connect(revoked)
    cast(Any, app.on_partitions_assigned).connect(assigned)
    return app


def _faust_settings(settings: Settings, name: WorkerName) -> dict[str, Any]:
    """Faust's settings for ours; docs/adr and the comments here say why they differ from its defaults."""
    turn_s = settings.turn_timeout_s
    return {
        "broker": faust_broker(settings),
        "broker_credentials": faust_credentials(settings),
        "broker_client_id": name.client_id,
        # A restarted worker takes its old place at once, and the others notice nothing.
        "consumer_group_instance_id": name.name,
        "broker_session_timeout": settings.session_timeout_s,
        "broker_rebalance_timeout": settings.rebalance_timeout_s,
        "broker_heartbeat_interval": settings.heartbeat_interval_s,
        "broker_commit_interval": settings.commit_interval_s,
        # Small buffers starve the group commit.
        "broker_max_poll_records": 500,
        "stream_buffer_maxsize": 4096,
        # These three only log or expel; a healthy long turn must trigger none of them.
        "broker_max_poll_interval": max(1000.0, 2 * turn_s),
        "broker_commit_livelock_soft_timeout": max(600.0, 2 * turn_s),
        "stream_processing_timeout": max(600.0, 2 * turn_s),
        # Turns in flight must not hold up a rebalance: the log fences whoever comes late.
        "stream_wait_empty": False,
        "consumer_auto_offset_reset": "earliest",
        "consumer_metadata_max_age_ms": 10_000,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "key_serializer": "raw",
        "value_serializer": "raw",
        "store": "memory://",
        "TableManager": NoTables,
        "datadir": settings.data_dir / "faust" / name.name,
        "web_enabled": False,
        "autodiscover": False,
        "processing_guarantee": "at_least_once",
    }


def _headers(headers: Any) -> Headers:
    if not headers:
        return ()
    return request_headers(headers.items() if hasattr(headers, "items") else headers)


async def _serve(settings: Settings) -> int:
    app = build_app(settings)
    app.under_faust = False
    app.finalize()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, app.stopping.set)
    asked = asyncio.create_task(app.stopping.wait())
    # The start ends with the first assignment: a stop may come before that.
    starting = asyncio.create_task(app.start())
    ended = asyncio.create_task(app.wait_until_stopped())
    try:
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left_in_order = await _stopped(app, settings.drain_timeout_s + _STOP_LIMIT_S)
        for task in (asked, starting, ended):
            task.cancel()
    if not left_in_order:
        _leave_at_once(1 if app.stop_reason else 0)
    if app.crash_reason is not None:
        log.critical("the worker crashed: %s", app.crash_reason)
        return 1
    return 1 if app.stop_reason else 0


async def _stopped(app: TurnlogApp, limit_s: float) -> bool:
    """Stop the app; false when it took too long (Faust waits for a broker that is away without end)."""
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait([stopping], timeout=limit_s)
    if not stopping.done():
        return False
    stopping.result()
    return True


def _leave_at_once(exit_code: int) -> None:
    """What hangs is Faust: its group membership expires by itself, and our partitions are the log's to give away."""
    log.warning("the consumer group was not left in order (is the broker away?): it will notice by itself")
    logging.shutdown()
    os._exit(exit_code)


def run_worker(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; the exit code. Raises before it serves when the topics are not right."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return run_to_its_end(runner.get_loop(), _serve(_in_place(settings)))


def run_to_its_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, int]) -> int:
    """Run it, whoever stops the loop meanwhile: a ``SystemExit`` in any task or callback of a plug-in does.

    Signals are not among them: they have handlers.
    """
    task = loop.create_task(work)
    own_pid = os.getpid()
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
            if os.getpid() != own_pid:
                os._exit(1)  # somebody's fork: the sockets and files that it shares are the worker's
            if task.done():
                raise
            log.error("the event loop was stopped by somebody's code (%s); the worker goes on", describe(error))


def _in_place(settings: Settings) -> Settings:
    """A plug-in may change the working directory: the data stay where they are."""
    return settings.model_copy(update={"data_dir": settings.data_dir.absolute()})


def __getattr__(name: str) -> Any:
    """``app`` is made from the environment when somebody (Faust's command line) asks for it."""
    if name == "app":
        app = build_app(Settings())
        globals()["app"] = app
        return app
    raise AttributeError(name)
