"""What the console's requests of one gateway share: readers of topics, statements at work, unawaited requests."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from turnlog.client.replies import Position
from turnlog.client.session_info import SessionInfo
from turnlog.serve.console.records import LogRecord, read_record
from turnlog.serve.console.sql_answer import Answer, ask
from turnlog.serve.console.transcripts import Transcript
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import too_many, unavailable
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka.topic_reader import TopicReader

log = logging.getLogger(__name__)
MAX_STATEMENTS = 2  #: at a time: each has a process and memory of its own
MAX_BEHIND = 32  #: requests whose answer nobody waits for any more
_ENDS_TIMEOUT_S = 5.0
_ANSWER_WAIT_S = 2.0


def published(path: Path) -> int:
    """Which snapshot it is: when it was published, nanoseconds since 1970. 0: there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Console:
    """Made with the first request that needs it, closed with the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reader = TopicReader(gateway.settings)
        self._statements = 0
        self._behind: set[asyncio.Task[Any]] = set()

    @classmethod
    def of(cls, gateway: Gateway) -> Self:
        """That of a gateway."""
        return gateway.part(cls)

    async def aclose(self) -> None:
        """End what goes on, and disconnect."""
        for task in self._behind:
            task.cancel()
        await asyncio.gather(*self._behind, return_exceptions=True)
        await self._reader.close()

    @staticmethod
    def now_ms() -> int:
        """Milliseconds since 1970."""
        return int(time.time() * 1000)

    def partition(self, session_id: str) -> int:
        """Where a session lives."""
        return partition_of(session_id.encode(), self._gateway.client.partition_count)

    async def record(self, session_id: str, offset: int) -> LogRecord:
        """A record of the session's partition of the event log."""
        partition = self.partition(session_id)
        try:
            return await read_record(self._reader, self._gateway.settings, session_id, partition, offset)
        except LogError as error:
            raise unavailable(f"The event log cannot be read: {error}") from error

    async def ends(self) -> tuple[Mapping[int, int] | None, Mapping[int, int] | None]:
        """Where the event log and the requests end, by partition; ``None``: the broker does not tell."""
        topics, partitions = self._gateway.settings.topics, range(self._gateway.client.partition_count)
        try:
            async with asyncio.timeout(_ENDS_TIMEOUT_S):
                log_ends = await self._reader.ends(topics.events, partitions)
                return log_ends, await self._reader.ends(topics.requests, partitions)
        except (LogError, TimeoutError) as error:
            log.info("the ends of topics are not known: %s", error)
            return None, None

    async def replies_since(self, partition: int, since_ms: int) -> Position | None:
        """The place before the first reply that is not older; ``None``: there is none, or it is not known."""
        topic = self._gateway.settings.topics.replies
        try:
            offset = await self._reader.offset_at(topic, partition, since_ms)
        except LogError as error:
            log.info("where the replies of a time begin is not known: %s", error)
            return None
        return None if offset is None else Position(partition=partition, offset=offset - 1)

    async def ask(self, statement: str) -> Answer:
        """A statement on the snapshot; a few at a time, then 429."""
        if self._statements >= MAX_STATEMENTS:
            raise too_many("busy", f"{MAX_STATEMENTS} statements are at work: try again in a moment.", 2.0)
        self._statements += 1
        try:
            return await asyncio.to_thread(ask, self._gateway.settings.snapshot, statement)
        finally:
            self._statements -= 1

    async def answer_soon(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """The answer of a request, if it comes at once; else ``None``, and it goes on behind. Raises what it raises."""
        if len(self._behind) >= MAX_BEHIND:
            asked.close()
            raise too_many("busy", "Too many requests of this kind are at work.", 10.0)
        task = asyncio.create_task(asked)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_WAIT_S):
                return await asyncio.shield(task)
        task.add_done_callback(_say)
        return None

    @staticmethod
    def unmaterialized(info: SessionInfo) -> Transcript:
        """A session that the snapshot does not have yet."""
        now = datetime.now(UTC)
        row: dict[str, Any] = {
            "session_id": info.session_id,
            "title": info.title,
            "channel": info.channel,
            "model": info.model,
            "instructions": info.instructions,
            "metadata": dict(info.metadata),
            "archived": info.archived,
            "running_turn_id": info.running_turn_id,
            "turns": info.turns or 0,
            "completed_turns": info.turns or 0,
            "failed_turns": 0,
            "cancelled_turns": 0,
            "messages": info.messages or 0,
            "input_tokens": 0,
            "output_tokens": 0,
            "created_at": now,
            "partition": "–",
            "last_offset": -1,
        }
        return Transcript(session=row, turns=(), before=None, snapshot_age_s=60.0)


def _say(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("a request of the console failed behind its answer: %s", type(error).__name__)
