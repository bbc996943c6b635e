"""What the producers of a run send: chats of every kind, retries, conflicts, and whatever else a topic may hold."""

import json
import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tests.checker.history import SentRequest
from tests.simulation.world import World
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import RequestRecord

MODELS = (
    "script:1?tools=0&words=3",
    "script:2?tools=1&words=2&tool_ms=150",
    "script:3?tools=2&words=2&tool_ms=80&idempotent=true",
    "script:4?tools=3&words=1&tool_ms=40&calls_per_message=2",
    "script:5?tools=3&words=1&tool_ms=120&calls_per_message=3&idempotent=true",
    "script:6?tools=0&words=5&delta_ms=60",
    "script:7?tools=1&words=2&tool_ms=900",
    "script:8?tools=1&words=2&tool_ms=60&fail_attempts=1&fail_at=text",
    "script:9?tools=2&words=1&tool_ms=60&fail_attempts=1&fail_at=tool:2",
    "script:10?tools=0&words=2&fail_attempts=1&fatal=true",
    "script:11?tools=1&words=2&reasoning=true&delta_ms=20&tool_ms=30&idempotent=true",
)
#: Turns that fill a history: many steps, or many words.
LONG_MODELS = (
    "script:12?tools=4&words=30&tool_ms=60",
    "script:13?tools=6&words=8&tool_ms=30&calls_per_message=2&idempotent=true",
    *["script:14?tools=0&words=120"] * 3,
    "script:18?tools=1&words=200&tool_ms=20",
    "script:15?tools=3&words=20&tool_ms=150&idempotent=true",
    "script:16?tools=5&words=10&tool_ms=50&fail_attempts=1&fail_at=tool:4",
    "script:17?tools=4&words=10&tool_ms=80&calls_per_message=4",
)
#: Turns that end in calls of tools that their request brought.
CLIENT_MODELS = (
    "script:21?tools=0&words=2&client_calls=1",
    "script:22?tools=1&words=2&tool_ms=60&client_calls=2",
    "script:23?tools=2&words=1&tool_ms=80&calls_per_message=2&client_mixed=true&client_calls=1",
    "script:24?tools=2&words=1&tool_ms=80&calls_per_message=2&idempotent=true&client_mixed=true&client_calls=2",
    "script:25?tools=2&words=2&tool_ms=60&fail_attempts=1&fail_at=tool:2&client_mixed=true&client_calls=1",
)
SAID = [
    {"role": "user", "text": "Before?"},
    {"role": "assistant", "text": "Long ago.", "tool_calls": [{"call_id": "b", "name": "look", "arguments": "{}"}]},
    {"role": "tool", "tool_call_id": "b", "text": "seen"},
]
CHANNEL = "web"
LIFECYCLE = ("create_session", "resolve_session", "rotate_session", "archive_session")
KINDS = (
    *["plain"] * 9,
    *["retried"] * 3,
    "conflict",
    "empty",
    "forbidden",
    "reject",
    *["cancel"] * 3,
    "interrupt",
    *["compact"] * 2,
    *LIFECYCLE,
    "garbage",
    "no session",
    "other key",
    "wrong partition",
    "no key",
    "hole",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One record to send."""

    at_s: float
    partition: int
    key: bytes | None
    value: bytes | None  #: ``None``: the offset stays without a record
    session_id: str | None
    request_id: str | None
    command: str
    text: str | None

    @classmethod
    def chat(cls, session_id: str, *, text: str, model: str, at_s: float, partition: int = 0) -> "Planned":
        """A plain one."""
        body = {"session_id": session_id, "command": _command(text, model, "enqueue")}
        return cls(
            at_s=at_s,
            partition=partition,
            key=session_id.encode(),
            value=json.dumps(body).encode(),
            session_id=session_id,
            request_id=None,
            command=json.dumps(body["command"]),
            text=text,
        )


@cache
def session_ids(partition: int, partition_count: int) -> tuple[str, ...]:
    """Some session ids of a partition."""
    names = (f"web-{number:08x}" for number in range(1, 100))
    return tuple(name for name in names if partition_of(name.encode(), partition_count) == partition)[:3]


class Workload:
    """Plans by seed, then sends."""

    def __init__(
        self, rng: random.Random, partitions: int, count: int, *, last_at_s: float, long_histories: bool = False
    ) -> None:
        self.plan: list[Planned] = []
        self._rng = rng
        self._partitions = partitions
        self._long = long_histories
        self._kinds = (*KINDS, *["plain"] * 6, *["compact"] * 5) if long_histories else KINDS
        for number in range(count):
            self._add(number, rng.uniform(0.0, last_at_s))
        self.plan.sort(key=lambda planned: planned.at_s)

    def _add(self, number: int, at_s: float) -> None:
        rng = self._rng
        partition = rng.randrange(self._partitions)
        names = session_ids(partition, self._partitions)
        session_id = rng.choice((names[0], names[0], *names) if self._long else names)
        kind = rng.choice(self._kinds)
        if kind == "compact":
            self._add_compact(number, at_s, session_id)
            return
        if kind in LIFECYCLE:
            self._add_lifecycle(number, kind, at_s, session_id)
            return
        request_id = f"r{number}" if rng.random() < 0.6 or kind in ("retried", "conflict") else None
        text = "" if kind == "empty" else f"question {number}"
        if self._long and text and rng.random() < 0.4:
            text += ", which is a long one" * rng.choice((10, 30))
        models = (*MODELS, *LONG_MODELS * 4) if self._long else MODELS
        model = "echo:" if kind == "forbidden" else rng.choice(models)
        on_busy = kind if kind in ("reject", "interrupt") else "enqueue"
        key: bytes | None = session_id.encode()
        readable: str | None = session_id
        body = {"session_id": session_id, "command": _command(text, model, on_busy)}
        if self._long and rng.random() < 0.4:
            body["command"] |= {"new_session": self._bounds()}  # type: ignore[operator]
        _in_channel(body["command"], rng.random() < 0.6)
        if request_id is not None:
            body["request_id"] = request_id
        value: bytes | None = json.dumps(body).encode()
        if kind == "garbage":
            value, readable = b"\xc3\x01garbage-of-%d" % number, None
        elif kind == "no session":
            value, readable = json.dumps({"command": body["command"]}).encode(), None
        elif kind == "other key":
            key, readable = b"somebody-else", None
        elif kind == "wrong partition":
            partition = rng.randrange(self._partitions)
        elif kind == "no key":
            key = None
            partition = rng.randrange(self._partitions)
        elif kind == "hole":
            value = None
        planned = Planned(
            at_s=at_s,
            partition=partition,
            key=key,
            value=value,
            session_id=readable,
            request_id=request_id,
            command=json.dumps(body["command"]),
            text=text,
        )
        self.plan.append(planned)
        if kind == "cancel":
            self._add_cancel(number, planned)
        if kind == "retried":
            for _ in range(rng.randint(1, 2)):
                self._again(planned, text)
        elif kind == "conflict":
            self._again(planned, f"another question {number}")

    def add_clients(self, count: int, *, last_at_s: float) -> None:
        """Chats with tools that their senders run: they answer the calls in time, late, twice, wrongly, or never."""
        rng = self._rng
        for number in range(count):
            partition = rng.randrange(self._partitions)
            session_id = rng.choice(session_ids(partition, self._partitions))
            at_s, model = rng.uniform(0.0, last_at_s), rng.choice(CLIENT_MODELS)
            calls = int(model.partition("client_calls=")[2][0])
            chat: dict[str, Any] = _command(f"client {number}", model, "enqueue") | {"tools": [{"name": "look"}]}
            if rng.random() < 0.4:
                chat["new_session"] = {"messages": SAID}
            self._of_client(session_id, f"k{number}", chat, at_s)
            for again in range(rng.choice((0, 1, 1, 2, 2, 3))):
                at_s += rng.choice((0.05, 0.4, 1.0, 2.5))
                outputs = [
                    {"call_id": f"client_{at}", "output": f"{number}.{again}.{at}"} for at in range(1, calls + 1)
                ]
                outputs = rng.choice((outputs, outputs, outputs, outputs[1:], [{"call_id": "no", "output": "?"}]))
                command = {"type": "chat", "tool_outputs": outputs, "model": rng.choice((*MODELS[:2], model))}
                if not outputs or rng.random() < 0.2:
                    command["text"] = f"client {number} again {again}"
                for _ in range(rng.choice((1, 1, 2))):
                    self._of_client(session_id, f"o{number}-{again}", command, at_s)
                    at_s += rng.choice((0.0, 0.3))
        self.plan.sort(key=lambda planned: planned.at_s)

    def add_erasures(self, count: int, *, last_at_s: float) -> None:
        """Somebody wants sessions erased, asks again, under the same id or another, and somebody else talks on."""
        rng = self._rng
        for number in range(count):
            partition = rng.randrange(self._partitions)
            session_id = rng.choice(session_ids(partition, self._partitions))
            at_s = rng.uniform(0.2, 1.0) * last_at_s
            for again in range(rng.choice((1, 1, 2, 3))):
                request_id = f"x{number}" if rng.random() < 0.6 else f"x{number}-{again}"
                self._of_client(session_id, request_id, {"type": "erase_session"}, at_s)
                at_s += rng.choice((0.0, 0.05, 0.6, 3.0))
            if rng.random() < 0.6:
                chat = _command(f"too late {number}", rng.choice(MODELS), "enqueue")
                self._of_client(session_id, f"y{number}", chat, at_s)
        self.plan.sort(key=lambda planned: planned.at_s)

    def _of_client(self, session_id: str, request_id: str, command: dict[str, Any], at_s: float) -> None:
        body = {"session_id": session_id, "request_id": request_id, "command": command}
        planned = Planned(
            at_s=at_s,
            partition=partition_of(session_id.encode(), self._partitions),
            key=session_id.encode(),
            value=json.dumps(body).encode(),
            session_id=session_id,
            request_id=request_id,
            command=json.dumps(command),
            text=command.get("text", ""),
        )
        self.plan.append(planned)

    def _add_cancel(self, number: int, planned: Planned) -> None:
        """Somebody changes their mind, perhaps twice."""
        rng = self._rng
        command = {"type": "cancel_turn"}
        body = {"session_id": planned.session_id, "request_id": f"c{number}", "command": command}
        for _ in range(rng.choice((1, 1, 2))):
            cancel = replace(
                planned,
                at_s=planned.at_s + rng.choice((0.002, 0.05, 0.2, 0.6, 1.0)),
                value=json.dumps(body).encode(),
                request_id=f"c{number}",
                command=json.dumps(command),
                text=None,
            )
            self.plan.append(cancel)

    def _bounds(self) -> dict[str, object]:
        """What a session says for itself, if this is the request that makes it."""
        rng = self._rng
        bounds: dict[str, object] = {"history_max_tokens": rng.choice((150, 250, 400, -1))}
        if rng.random() < 0.5:
            bounds["history_keep_tail"] = rng.choice((1, 2, 4))
        if rng.random() < 0.3:
            bounds["instructions"] = "Be brief, and say what you have looked up."
        return bounds

    def _add_compact(self, number: int, at_s: float, session_id: str) -> None:
        """Somebody wants a history compacted, or has a summary; asks again, or for something else under the same id."""
        rng = self._rng
        request_id = f"h{number}" if rng.random() < 0.8 else f"r{rng.randrange(number + 1)}"  # perhaps that of a chat
        commands: list[dict[str, object]] = [{"type": "compact_history"}]
        if rng.random() < 0.3:
            commands[0]["instructions"] = rng.choice(("Keep the numbers.", "Keep the names. " * 400))
        elif int(at_s * 1000) % 3 == 0:
            commands[0] |= {"summary": f"What was said before {number}.", "to_seq": 1 + number % 2}
        commands += [commands[0]] * rng.choice((0, 0, 1, 2))
        if rng.random() < 0.15:
            commands.append({"type": "compact_history", "instructions": f"Keep what was asked in {number}."})
        for command in commands:
            body = {"session_id": session_id, "request_id": request_id, "command": command}
            planned = Planned(
                at_s=at_s,
                partition=partition_of(session_id.encode(), self._partitions),
                key=session_id.encode(),
                value=json.dumps(body).encode(),
                session_id=session_id,
                request_id=request_id,
                command=json.dumps(command),
                text=None,
            )
            self.plan.append(planned)
            at_s += rng.choice((0.0, 0.01, 0.1, 0.6, 3.0))

    def _add_lifecycle(self, number: int, kind: str, at_s: float, session_id: str) -> None:
        """A request to the channel; an archive may as well go to the session."""
        command: dict[str, object] = {"type": kind}
        body: dict[str, object] = {"channel": CHANNEL, "request_id": f"l{number}", "command": command}
        if kind == "archive_session":
            body["session_id"] = session_id
        elif self._rng.random() < 0.3:
            command["new_session"] = {"title": f"title {number}"} | (self._bounds() if self._long else {})
        stream = CHANNEL
        if kind == "archive_session" and self._rng.random() < 0.5:
            stream = session_id
            del body["channel"]
        lifecycle = Planned(
            at_s=at_s,
            partition=partition_of(stream.encode(), self._partitions),
            key=stream.encode(),
            value=json.dumps(body).encode(),
            session_id=stream,
            request_id=f"l{number}",
            command=json.dumps(body),
            text=None,
        )
        self.plan.append(lifecycle)
        if self._rng.random() < 0.3:
            self.plan.append(replace(lifecycle, at_s=at_s + self._rng.choice((0.01, 0.3, 3.0))))

    def _again(self, planned: Planned, text: str) -> None:
        """The same request id once more, perhaps with another command."""
        assert planned.value is not None
        body = json.loads(planned.value)
        body["command"]["text"] = text
        again = Planned(
            at_s=planned.at_s + self._rng.choice((0.001, 0.05, 0.6, 3.0)),
            partition=planned.partition,
            key=planned.key,
            value=json.dumps(body).encode(),
            session_id=planned.session_id,
            request_id=planned.request_id,
            command=json.dumps(body["command"]),
            text=text,
        )
        self.plan.append(again)

    def start(self, world: World) -> list[SentRequest]:
        """Schedule all of it; the list fills up as the broker acknowledges."""
        sent: list[SentRequest] = []
        for planned in self.plan:
            self.send_later(world, planned, sent)
        return sent

    def send_later(self, world: World, planned: Planned, sent: list[SentRequest]) -> None:
        """Schedule one."""
        world.loop.in_world(planned.at_s, self._send, world, planned, sent)

    def _send(self, world: World, planned: Planned, sent: list[SentRequest]) -> None:
        if planned.value is None:
            world.requests[planned.partition].records.append(None)
            return

        def record(partition: int, offset: int) -> RequestRecord:
            return RequestRecord(partition=partition, offset=offset, key=planned.key, value=planned.value)

        offset = world.produce_request(record, planned.partition)
        sent.append(
            SentRequest(
                partition=planned.partition,
                offset=offset,
                session_id=planned.session_id,
                request_id=planned.request_id,
                command=planned.command,
                text=planned.text,
            )
        )
        what = planned.session_id, planned.request_id, planned.command
        world.trace(f"requests[{planned.partition}]@{offset}", *what)


def _command(text: str, model: str, on_busy: str) -> dict[str, object]:
    return {"type": "chat", "text": text, "model": model, "on_busy": on_busy}


def _in_channel(command: Any, belongs: bool) -> None:
    """If it is this chat that opens its session: one of the channel, or one of none."""
    if belongs:
        command.setdefault("new_session", {})["channel"] = CHANNEL
