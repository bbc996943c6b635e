"""Load for the fault scenarios: sessions that chat without end through the public client, and noise beside them."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.deployment import Deployment
from tests.faults.channels import ChannelLoad, said
from turnlog import (
    BrokerUnreachableError,
    Client,
    FinishedTurn,
    HistoryCompaction,
    HistoryCompactionFailedError,
    SessionNotFoundError,
)
from turnlog_schemas.parts import NewSession
from turnlog_workers.kafka.connections import client_options

#: A dead worker and the next one's catch-up are silence of a few seconds; a broker's restart is a longer one.
RESEND_AFTER_S = 8.0
_RETRY_S = 0.5
_PAUSE_S = 0.2  #: of a session between two turns, on the average
_LONG_PAUSE_S = 1.5  #: of every fourth: it leaves its owner's memory meanwhile
_NOISE_INTERVAL_S = 0.4
#: By the slot of the worker: quick, slow, and one that never makes a summary.
SUMMARY_MODELS = (
    "script:summary?tools=0&words=20",
    "script:summary?tools=0&words=40&delta_ms=10",
    "script:summary?tools=0&words=20&fatal=true",
)
_NO_SUMMARY = {"scripted_failure"}
#: Every third session: a few turns, or the results of some tools, fill it.
_SMALL = NewSession(history_max_tokens=500, history_keep_tail=2)


@dataclass(slots=True)
class Load:
    """Chats until it is stopped. Every turn must end, each as its model says."""

    deployment: Deployment
    seed: str
    bootstrap_server: str  #: the client's way; others who send go directly
    sessions: int = 20
    channels: int = 3
    turn_timeout_s: float = 300.0  #: two of three workers die again and again, on whatever machine this is
    turns: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)  #: acknowledged records, beside those of the client
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self) -> None:
        """Chat until :meth:`stop`, and then until every turn has ended."""
        settings = self.deployment.settings.model_copy(update={"bootstrap_server": self.bootstrap_server})
        async with Client(settings, client_id="fault-load") as client:
            self._tasks = [asyncio.create_task(self._session(client, n)) for n in range(self.sessions)]
            self._tasks += [asyncio.create_task(self._channel(client, n)) for n in range(self.channels)]
            self._tasks.append(asyncio.create_task(self._noise()))
            try:
                await asyncio.gather(*self._tasks)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """No new turns."""
        self._stopping.set()

    async def _session(self, client: Client, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        session_id = f"s{number}-{chance.randrange(16**8):08x}"
        pause_s = _PAUSE_S if number % 4 else _LONG_PAUSE_S
        while not self._stopping.is_set():
            await asyncio.sleep(chance.uniform(0, 2 * pause_s))
            together = 2 if chance.random() < 0.2 else 1  # the second one waits for its turn
            new_session = None if number % 3 else _SMALL
            turns = (self.turn(client, session_id, chance, new_session=new_session) for _ in range(together))
            asked = [self._compact(client, session_id, chance)] if chance.random() < 0.1 else []
            await asyncio.gather(*turns, *asked)

    def next_number(self) -> int:
        """Of a request."""
        self.turns += 1
        return self.turns

    async def _compact(self, client: Client, session_id: str, chance: random.Random) -> None:
        """A history compaction on request, perhaps twice: one answer, and it is the same for ever."""
        request_id = f"h{self.next_number()}"
        wishes = "Keep the numbers." if chance.random() < 0.3 else None
        try:
            told = await self._compacted(client, session_id, request_id, wishes)
            again = await self._compacted(client, session_id, request_id, wishes) if chance.random() < 0.3 else told
        except Exception as error:
            self.problems.append(f"{session_id}, {request_id}: {type(error).__name__}: {error}")
            return
        if told != again:
            self.problems.append(f"{session_id}, {request_id}: first {told}, then {again}")

    async def _compacted(
        self, client: Client, session_id: str, request_id: str, wishes: str | None
    ) -> HistoryCompaction | str:
        """How it ended, or why there is none; asks again while there is no broker."""
        deadline = asyncio.get_running_loop().time() + self.turn_timeout_s
        while True:
            try:
                return await client.compact(
                    session_id,
                    instructions=wishes,
                    request_id=request_id,
                    timeout_s=self.turn_timeout_s,
                    resend_after_s=RESEND_AFTER_S,
                )
            except SessionNotFoundError:
                return "not_found"
            except HistoryCompactionFailedError as error:
                if error.code not in _NO_SUMMARY:
                    raise
                return error.code
            except BrokerUnreachableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def turn(
        self,
        client: Client,
        session_id: str,
        chance: random.Random,
        model: str | None = None,
        new_session: NewSession | None = None,
    ) -> FinishedTurn | None:
        """One chat and its end; ``None``: a problem, which is written down."""
        may_be_cancelled = model is not None
        request_id, model = f"r{self.next_number()}", model or pick_model(chance)
        text = said(request_id)
        deadline = asyncio.get_running_loop().time() + self.turn_timeout_s
        while True:
            try:
                left_s = max(deadline - asyncio.get_running_loop().time(), 0.1)
                turn = client.chat(
                    session_id,
                    text,
                    request_id=request_id,
                    model=model,
                    new_session=new_session,
                    timeout_s=left_s,
                    resend_after_s=RESEND_AFTER_S,
                )
                if chance.random() < 0.1:
                    again = await client.enqueue(
                        session_id, text, request_id=request_id, model=model, new_session=new_session
                    )
                    self.sent.append((again.partition, again.offset))
                result = await turn.result()
                self._take(model, result, may_be_cancelled=may_be_cancelled)
                return result
            except BrokerUnreachableError as error:
                if asyncio.get_running_loop().time() > deadline:
                    self.problems.append(f"{session_id}, {request_id}: {error}")
                    return None
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                self.problems.append(f"{session_id}, {request_id}: {type(error).__name__}: {error}")
                return None

    async def _channel(self, client: Client, number: int) -> None:
        chance = random.Random(f"{self.seed}/channel {number}")
        channel = ChannelLoad(self, client, f"c{number}", chance)
        while not self._stopping.is_set():
            await asyncio.sleep(chance.uniform(0, 2 * _PAUSE_S))
            try:
                await channel.round()
            except Exception as error:
                self.problems.append(f"channel c{number}: {type(error).__name__}: {error}")
                return

    def _take(self, model: str, result: FinishedTurn, *, may_be_cancelled: bool) -> None:
        self.ended[result.status] += 1
        wanted = "failed" if "fatal=true" in model else "completed"
        if result.status != wanted and not (may_be_cancelled and result.status == "cancelled"):
            self.problems.append(
                f"{result.session_id}, {result.request_id}: {result.status} ({result.reason}), {model}"
            )

    async def _noise(self) -> None:
        """Poison, plain JSON, no key and wrong partitions, by a producer that is none of ours."""
        chance = random.Random(f"{self.seed}/noise")
        settings = self.deployment.settings
        producer = AIOKafkaProducer(**client_options(settings, "fault-noise"), acks="all", request_timeout_ms=10_000)
        await producer.start()
        try:
            while not self._stopping.is_set():
                key, value = noise(chance, self.next_number())
                try:
                    partition = chance.randrange(settings.partitions)
                    stored = await producer.send_and_wait(
                        self.deployment.topics.requests, value, key=key, partition=partition
                    )
                    self.sent.append((stored.partition, stored.offset))
                except KafkaError:
                    await asyncio.sleep(_RETRY_S)
                await asyncio.sleep(_NOISE_INTERVAL_S)
        finally:
            await producer.stop()


def pick_model(chance: random.Random) -> str:
    """A scripted model: tools that may be repeated and tools that may not, now and then a failing attempt."""
    options = [
        f"tools={chance.randrange(4)}",
        f"tool_ms={chance.choice((0, 10, 40))}",
        f"words={chance.randrange(10, 120)}",
        "delta_ms=5",
    ]
    if chance.random() < 0.5:
        options.append("idempotent=true")
    if chance.random() < 0.2:
        options.append("calls_per_message=2")
    kind = chance.random()
    if kind < 0.05:
        options.append("fail_attempts=1")
    elif kind < 0.08:
        options.append("fatal=true")
    return f"script:{chance.randrange(1000)}?{'&'.join(options)}"


def noise(chance: random.Random, number: int) -> tuple[bytes | None, bytes]:
    """Key and value of a request that is not as it should be; it may also be on the wrong partition."""
    session_id = f"n{chance.randrange(6)}"
    body = {
        "session_id": session_id,
        "request_id": f"n{number}",
        "command": {"type": "chat", "text": f"noise {number}"},
    }
    value = json.dumps(body).encode()
    kind = chance.randrange(5)
    if kind == 0:
        return session_id.encode(), chance.randbytes(40)
    if kind == 1:
        return None, value
    if kind == 2:
        return session_id.encode(), value.replace(b'"chat"', b'"dance"')
    return session_id.encode(), value
