"""A bare Faust agent that sends as many records of the same sizes per request as a turn of Turnlog: what Faust costs.

Run as a process: ``python -m benchmarks.bare_faust MODE SIZES``. The modes differ in what is awaited:

    confirmed  each record, until the broker has it, one after the other
    sent       each record, until Faust's producer has taken it (what ``await topic.send()`` does)
    batched    a batch of requests: all their records at once, then all confirmations together
"""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import faust
import uvloop

from turnlog_workers.base.config import Settings
from turnlog_workers.base.readiness_file import mark_ready

MODES = ("confirmed", "sent", "batched")
_BATCH = 200
_WITHIN_S = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSize:
    """One record that a turn sends."""

    topic: str  #: ``events`` or ``replies``
    value_bytes: int
    headers: tuple[tuple[str, int], ...]  #: name, bytes


def command(mode: str, sizes: Path) -> tuple[str, ...]:
    """The command line of a process. ``sizes``: what :func:`write_sizes` stored."""
    return sys.executable, "-m", "benchmarks.bare_faust", mode, str(sizes)


def write_sizes(path: Path, sizes: list[RecordSize]) -> None:
    """Store what each request shall lead to."""
    path.write_text(json.dumps([asdict(size) for size in sizes]))


def read_sizes(path: Path) -> list[RecordSize]:
    """What :func:`write_sizes` stored."""
    return [
        RecordSize(**{**entry, "headers": tuple((name, size) for name, size in entry["headers"])})
        for entry in json.loads(path.read_text())
    ]


def build_app(settings: Settings, mode: str, sizes: list[RecordSize]) -> faust.App:
    """The agent's app. Intake settings as the worker's, so that only the work differs."""
    app = faust.App(
        f"{settings.prefix}.bare",
        broker=f"kafka://{settings.bootstrap_server}",
        broker_commit_interval=settings.commit_interval_s,
        broker_max_poll_records=500,
        stream_buffer_maxsize=4096,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        producer_max_batch_size=1024 * 1024,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        datadir=settings.data_dir / "faust",
        web_enabled=False,
        autodiscover=False,
    )
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    topics = {name: app.topic(getattr(settings.topics, name), **raw) for name in ("requests", "events", "replies")}
    records = [(topics[s.topic], b"x" * s.value_bytes, {name: b"x" * n for name, n in s.headers}) for s in sizes]

    def send(key: bytes, partition: int) -> list[Awaitable[Any]]:
        return [
            topic.send(key=key, value=value, partition=partition, headers=headers) for topic, value, headers in records
        ]

    async def one_by_one(stream: Any) -> None:
        async for event in stream.events():
            for sending in send(event.message.key, event.message.partition):
                sent = await sending
                if mode == "confirmed":
                    await sent

    async def batched(stream: Any) -> None:
        async for events in stream.take_events(_BATCH, within=_WITHIN_S):
            sendings = [s for event in events for s in send(event.message.key, event.message.partition)]
            await asyncio.gather(*await asyncio.gather(*sendings))

    app.agent(topics["requests"], name="bare")(batched if mode == "batched" else one_by_one)

    async def assigned(_app: Any, partitions: Any, **_: Any) -> None:
        if partitions:
            mark_ready()

    cast(Any, app.on_partitions_assigned).connect(assigned)
    return app


async def _serve(app: faust.App) -> None:
    stopping = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    await app.start()
    try:
        await stopping.wait()
    finally:
        await app.stop()


def main(mode: str, sizes: Path) -> None:
    """Serve until SIGTERM."""
    settings = Settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def serve() -> None:
            app = build_app(settings, mode, read_sizes(sizes))
            app.finalize()
            await _serve(app)

        runner.run(serve())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
