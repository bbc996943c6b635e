"""Load for the fault scenarios: sessions that chat without end through the public client, and noise beside them."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.deployment import Deployment
from turnlog import BrokerUnreachableError, Client, FinishedTurn, SessionInfo
from workers.connections import client_options

#: A dead worker and the next one's catch-up are silence of a few seconds; a broker's restart is a longer one.
RESEND_AFTER_S = 8.0
_RETRY_S = 0.5
_PAUSE_S = 0.2  #: of a session between two turns, on the average
_NOISE_INTERVAL_S = 0.4


@dataclass(slots=True)
class Load:
    """Chats until it is stopped. Every turn must end, each as its model says."""

    deployment: Deployment
    seed: str
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
        async with Client(self.deployment.settings, client_id="fault-load") as client:
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
        while not self._stopping.is_set():
            await asyncio.sleep(chance.uniform(0, 2 * _PAUSE_S))
            together = 2 if chance.random() < 0.2 else 1  # the second one waits for its turn
            await asyncio.gather(*(self._turn(client, session_id, chance) for _ in range(together)))

    async def _turn(self, client: Client, session_id: str, chance: random.Random) -> None:
        self.turns += 1
        number = self.turns
        request_id, text, model = f"r{number}", f"message {number}", pick_model(chance)
        deadline = asyncio.get_running_loop().time() + self.turn_timeout_s
        while True:
            try:
                left_s = max(deadline - asyncio.get_running_loop().time(), 0.1)
                turn = client.chat(
                    session_id,
                    text,
                    request_id=request_id,
                    model=model,
                    timeout_s=left_s,
                    resend_after_s=RESEND_AFTER_S,
                )
                if chance.random() < 0.1:
                    again = await client.enqueue(session_id, text, request_id=request_id, model=model)
                    self.sent.append((again.partition, again.offset))
                self._take(model, await turn.result())
                return
            except BrokerUnreachableError as error:
                if asyncio.get_running_loop().time() > deadline:
                    self.problems.append(f"{session_id}, {request_id}: {error}")
                    return
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                self.problems.append(f"{session_id}, {request_id}: {type(error).__name__}: {error}")
                return

    async def _channel(self, client: Client, number: int) -> None:
        """Lifecycle requests, one after the other: each answer follows from those before."""
        chance = random.Random(f"{self.seed}/channel {number}")
        channel, active = f"c{number}", ""
        while not self._stopping.is_set():
            await asyncio.sleep(chance.uniform(0, 2 * _PAUSE_S))
            self.turns += 1
            request_id = f"c{self.turns}"
            rotate = chance.random() < 0.5
            verb = partial(
                client.rotate if rotate else client.resolve,
                channel,
                request_id=request_id,
                timeout_s=self.turn_timeout_s,
            )
            info = await self._ask(verb)
            if info is None:
                return
            if info.created != (rotate or not active) or (not info.created and info.session_id != active):
                self.problems.append(f"{channel}, {request_id}: {info}, and {active!r} was the active session")
            if chance.random() < 0.3:
                again = await self._ask(verb)
                if again is None or again.session_id != info.session_id:
                    self.problems.append(f"{channel}, {request_id}: first {info}, then {again}")
            active = info.session_id
            await self._turn(client, active, chance)

    async def _ask(self, ask: Callable[[], Awaitable[SessionInfo]]) -> SessionInfo | None:
        """Ask until the broker is there."""
        deadline = asyncio.get_running_loop().time() + self.turn_timeout_s
        while True:
            try:
                return await ask()
            except BrokerUnreachableError as error:
                if asyncio.get_running_loop().time() > deadline:
                    self.problems.append(f"a channel: {error}")
                    return None
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                self.problems.append(f"a channel: {type(error).__name__}: {error}")
                return None

    def _take(self, model: str, result: FinishedTurn) -> None:
        self.ended[result.status] += 1
        wanted = "failed" if "fatal=true" in model else "completed"
        if result.status != wanted:
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
                self.turns += 1
                key, value = noise(chance, self.turns)
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
