"""Carries out a case with a client against a running deployment."""

import asyncio
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients import cases
from tests.clients.adapter import Adapter, AdapterError
from tests.clients.adapters.lines import Batch, InRecord, OutRecord
from tests.clients.cases import Becomes, Bulk, Case, Comes, End, Keys, OneTurn, Request, Send, Silent, Step, Streams
from tests.clients.catalog import Client
from tests.deployment import Deployment
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.events import TurnAccepted
from turnlog_schemas.frames import TERMINAL_FRAMES, FrameHeader, RequestRefused, TextDelta, TurnCompleted
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import FRAMES
from turnlog_schemas.type_names import snake
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.request_log import KafkaRequestLog
from turnlog_workers.kafka.topic_reader import TopicReader

PATIENCE_S = 90.0
_BATCH = struct.Struct(">qiibIH")  #: base offset, length, leader epoch, magic, checksum, attributes
_LENGTH_AFTER = 12  #: a batch's length counts from behind it
_CODEC_BITS = 0x07
_OTHER_PARTITION = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFrame:
    """A frame as the client consumed it."""

    record: InRecord
    header: FrameHeader
    payload: Any

    @property
    def kind(self) -> str:
        return snake(type(self.payload).__name__)

    @property
    def outcome(self) -> str:
        """As cases name it."""
        return cases.refused(self.payload.code) if isinstance(self.payload, RequestRefused) else self.kind


class Kit:
    """One deployment, and what is needed to look at it."""

    def __init__(self, deployment: Deployment, broker: DevBroker) -> None:
        self.deployment = deployment
        self.topics = deployment.topics
        self.partitions = deployment.settings.partitions
        self.codec = Codec(FRAMES)
        self._logs = broker.data_dir / "kafka-logs"

    def events(self) -> list[LoggedEvent]:
        """All events that count."""
        log = asyncio.run(self.deployment.accepted())
        return [event for events in log.values() for event in events]

    def dump(self, topic: str) -> list[Any]:
        """All records of a topic."""
        return asyncio.run(self.deployment.dump(topic))

    def requests(self, since: dict[int, int]) -> list[RequestRecord]:
        """The requests from these offsets on, as workers read them: whatever others have put there before."""
        return asyncio.run(self._requests(since))

    async def _requests(self, since: dict[int, int]) -> list[RequestRecord]:
        reader = TopicReader(self.deployment.settings)
        log = KafkaRequestLog(self.deployment.settings, reader)
        try:
            ends = await log.stable_ends(list(since))
            return [
                item
                for partition, start in since.items()
                async for batch in log.read(partition, start, ends[partition])
                for item in batch
                if isinstance(item, RequestRecord)
            ]
        finally:
            await reader.close()

    def ends(self, topic: str) -> dict[int, int]:
        """By partition: the offset behind its last batch, as its files say."""
        return {p: max((end for _, end, _ in self._batches(topic, p)), default=0) for p in range(self.partitions)}

    def codecs(self, topic: str, since: dict[int, int]) -> set[str]:
        """The codecs of the batches from these offsets on."""
        return {
            cases.CODECS[codec]
            for partition, start in since.items()
            for base, _, codec in self._batches(topic, partition)
            if base >= start
        }

    def _batches(self, topic: str, partition: int) -> Iterator[tuple[int, int, int]]:
        """Of each batch: its base offset, the offset behind it, its codec."""
        for path in sorted((self._logs / f"{topic}-{partition}").glob("*.log")):
            yield from batches_of(path)


def batches_of(path: Path) -> Iterator[tuple[int, int, int]]:
    """The batches of a segment; the file may be longer than what was written to it."""
    data = path.read_bytes()
    at = 0
    while at + _BATCH.size + 4 <= len(data):
        base, length, _, _, _, attributes = _BATCH.unpack_from(data, at)
        if length <= 0:
            return
        (last_delta,) = struct.unpack_from(">i", data, at + _BATCH.size)
        yield base, base + last_delta + 1, attributes & _CODEC_BITS
        at += _LENGTH_AFTER + length


class ClientUnderTest:
    """An adapter of a deployment's own, and the frames that it has consumed."""

    def __init__(self, kit: Kit, client: Client, adapter: Adapter) -> None:
        self.kit, self.client, self.adapter = kit, client, adapter
        self._next = kit.ends(kit.topics.replies)
        self._frames: dict[int, list[SeenFrame]] = {partition: [] for partition in self._next}

    def read(self, partition: int) -> list[SeenFrame]:
        """The frames of a partition, those that came since included."""
        records = self.adapter.consume(self.kit.topics.replies, partition, self._next[partition])
        for record in records:
            assert record.offset == self._next[partition], "the client passed over a frame"
            self._next[partition] += 1
            value = record.value or b""
            decode = self.kit.codec.from_json if value[:1] == b"{" else self.kit.codec.decode
            header, payload = decode(value)
            self._frames[partition].append(SeenFrame(record=record, header=header, payload=payload))
        return self._frames[partition]

    def wait_for(self, partition: int, found: Callable[[list[SeenFrame]], Any], what: Callable[[], str]) -> Any:
        """Read until something is found."""
        deadline = time.monotonic() + PATIENCE_S
        answer = found(self._frames[partition])
        while not answer:
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what()}"
            answer = found(self.read(partition))
        return answer


class CaseUnderTest:
    """One case with one client: the names of its sessions, and where it is."""

    def __init__(self, client: ClientUnderTest, case: Case) -> None:
        self.client, self.kit, self.case = client, client.kit, case
        self._slug = re.sub(r"[^a-z0-9]+", "-", f"{client.client.name} {case.name}".lower()).strip("-")
        self._base = zlib.crc32(self._slug.encode())
        self._sent: dict[str, Request] = {}

    def play(self) -> None:
        """All steps. ``AssertionError``: it is not as it must be."""
        for step in self.case.steps:
            self._step(step)

    def _step(self, step: Step) -> None:
        match step:
            case Send():
                self._send(step)
            case End():
                self.client.adapter.end(step.how)
            case Comes():
                self._wait(step.id, lambda frame: frame.kind == step.frame, step.frame)
            case Becomes():
                self._becomes(step)
            case Streams():
                self._streams(step.id)
            case Silent():
                self._silent(step.id)
            case OneTurn():
                accepted = [e for e in self._events_of(step.id) if isinstance(e.payload, TurnAccepted)]
                assert len(accepted) == 1, f"{step.id} was accepted {len(accepted)} times"
            case Bulk():
                self._bulk(step)
            case Keys():
                self._keys(step.partitioner)

    # ---- names

    def session_id(self, session: str) -> str:
        """``a1`` → an id in the partition of ``a``."""
        wanted = (self._base + (ord(session[0]) - ord("a")) * _OTHER_PARTITION) % self.kit.partitions
        names = (f"{self._slug}-{session}-{number}" for number in range(10_000))
        return next(name for name in names if partition_of(name.encode(), self.kit.partitions) == wanted)

    def request_id(self, request: str) -> str:
        return f"{self._slug}-{request}"

    def _partition(self, session: str) -> int:
        return partition_of(self.session_id(session).encode(), self.kit.partitions)

    # ---- sending

    def _record(self, request: Request) -> OutRecord:
        session_id, request_id = self.session_id(request.session), self.request_id(request.id)
        if request.avro:
            header = RequestHeader(session_id=session_id, request_id=request_id)
            body = RequestCodec().encode(header, Chat(content=text_content(request.command["text"])))
        else:
            fields = {"session_id": session_id, "request_id": request_id, "command": request.command}
            body = json.dumps(fields, ensure_ascii=False).encode()
        partition = (self._partition(request.session) + 1) % self.kit.partitions if request.misrouted else None
        timestamp_ms = request.timestamp_ms
        if request.timestamp_s is not None:
            timestamp_ms = int((time.time() + request.timestamp_s) * 1000)
        return OutRecord(
            key={"session": session_id.encode(), "none": None, "empty": b""}[request.key],
            value=request.before + body if request.value == b"body" else request.value,
            headers=list(request.headers),
            partition=partition,
            timestamp_ms=timestamp_ms,
        )

    def _produce(
        self, records: Sequence[OutRecord], *, codec: str = "none", way: str = "java", transaction: str | None = None
    ) -> None:
        batch = Batch(self.kit.topics.requests, codec, way, transaction, list(records))
        self.client.adapter.produce(batch)

    def _send(self, step: Send) -> None:
        self._sent |= {request.id: request for request in step.requests}
        records = [self._record(request) for request in step.requests]
        try:
            self._produce(records, codec=step.codec, transaction=step.transaction)
        except AdapterError:
            if not step.broker_refuses:
                raise
        else:
            assert not step.broker_refuses, "the broker was expected to refuse it"

    # ---- what comes of it

    def _of(self, request: str, frames: list[SeenFrame]) -> list[SeenFrame]:
        return [frame for frame in frames if frame.header.request_id == self.request_id(request)]

    def _wait(self, request: str, found: Callable[[SeenFrame], bool], what: str, *, times: int = 1) -> SeenFrame:
        partition = self._partition(self._sent[request].session)

        def enough(frames: list[SeenFrame]) -> SeenFrame | None:
            matching = [frame for frame in self._of(request, frames) if found(frame)]
            return matching[times - 1] if len(matching) >= times else None

        def told() -> str:
            heard = [frame.outcome for frame in self._of(request, self.client.read(partition))]
            return f"{what} of {self.request_id(request)}; heard: {heard}"

        answer: SeenFrame = self.client.wait_for(partition, enough, told)
        return answer

    def _becomes(self, step: Becomes) -> None:
        letters = [outcome for outcome in step.outcomes if outcome.startswith("dead letter")]
        if not letters:
            outcome = self._wait(
                step.id, lambda f: isinstance(f.payload, TERMINAL_FRAMES), " or ".join(step.outcomes), times=step.times
            ).outcome
            assert outcome in step.outcomes, f"{step.id} became {outcome}, not {' or '.join(step.outcomes)}"
            return
        partition = self._partition(self._sent[step.id].session)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            frames = self._of(step.id, self.client.read(partition))
            answers = {frame.outcome for frame in frames if isinstance(frame.payload, TERMINAL_FRAMES)}
            found = self._dead_letters(step.id) | answers
            if found:
                assert found <= set(step.outcomes), f"{step.id} became {found}, not {' or '.join(step.outcomes)}"
                return
            assert time.monotonic() < deadline, f"nothing came of {step.id}"

    def _dead_letters(self, request: str) -> set[str]:
        session_id = self.session_id(self._sent[request].session).encode()
        letters = (
            record
            for record in self.kit.dump(self.kit.topics.dead_letters)
            if record.key == session_id or session_id in (record.value or b"")
        )
        return {cases.parked(dict(record.headers)["x-turnlog-code"].decode()) for record in letters}

    def _streams(self, request: str) -> None:
        session_id = self.session_id(self._sent[request].session)
        frames = self._of(request, self.client.read(self._partition(self._sent[request].session)))
        kinds = [frame.kind for frame in frames]
        pieces = [frame.payload.text for frame in frames if isinstance(frame.payload, TextDelta)]
        head, tail = ["turn_accepted", "turn_started"], ["message_stored", "turn_completed"]
        assert kinds == [*head, *["text_delta"] * len(pieces), *tail]
        last = frames[-1].payload
        assert isinstance(last, TurnCompleted)
        assert len(pieces) > 1
        assert "".join(pieces) == last.text == self._sent[request].command["text"]
        assert [frame.header.frame_seq for frame in frames[1:]] == list(range(len(frames) - 1))
        assert {frame.record.key for frame in frames} == {session_id.encode()}
        types = [dict(frame.record.headers)[b"ce_type"] for frame in frames]
        assert types == [f"turnlog.frames.{type(frame.payload).__name__}".encode() for frame in frames]

    def _events_of(self, request: str) -> list[LoggedEvent]:
        wanted = self.request_id(request)
        return [event for event in self.kit.events() if getattr(event.payload, "request_id", None) == wanted]

    def _silent(self, request: str) -> None:
        frames = self._of(request, self.client.read(self._partition(self._sent[request].session)))
        assert not frames, f"{request} was answered with {[frame.kind for frame in frames]}"
        events = self._events_of(request)
        assert not events, f"{request} is in the log: {events}"

    # ---- many

    def _bulk(self, step: Bulk) -> None:
        since = self.kit.ends(self.kit.topics.requests)
        wanted: dict[str, str] = {}
        for number in range(step.count):
            letter = chr(ord("a") + number % self.kit.partitions)
            wanted[f"r{number}"] = f"{letter}{number}"
        text = cases.chat(f"the same words again and again, compressed with {step.codec} " * 3)
        requests = [Request(id=name, session=session, command=text) for name, session in wanted.items()]
        self._sent |= {request.id: request for request in requests}
        self._produce([self._record(request) for request in requests], codec=step.codec)
        for name in sorted(wanted, key=lambda name: wanted[name]):  # partition by partition
            self._becomes(Becomes(id=name, outcomes=(cases.COMPLETED,)))
        codecs = self.kit.codecs(self.kit.topics.requests, since)
        assert step.codec in codecs, f"no batch was compressed with {step.codec}: {codecs}"

    def _keys(self, partitioner: str) -> None:
        if partitioner == "default":
            self._default_partitioner()
            return
        can_bytes = cases.ANY_BYTES not in self.client.client.cannot
        keys = [key for key in cases.ODD_KEYS if can_bytes or key != b"\xff\xfe"]
        value = json.dumps({"probe": self._slug}).encode()
        since = self.kit.ends(self.kit.topics.requests)
        self._produce([OutRecord(key, value, [], None, None) for key in keys])
        placed = self._placed(since, lambda record: record.value == value, len(keys))
        assert placed == {key: partition_of(key, self.kit.partitions) for key in keys}

    def _default_partitioner(self) -> None:
        requests = [Request(id=f"r{n}", session=f"{chr(ord('a') + n)}1") for n in range(self.kit.partitions)]
        self._sent |= {request.id: request for request in requests}
        records = [self._record(request) for request in requests]
        since = self.kit.ends(self.kit.topics.requests)
        self._produce(records, way="default")
        keys = {record.key for record in records}
        placed = self._placed(since, lambda record: record.key in keys, len(keys))
        right = all(partition == partition_of(key, self.kit.partitions) for key, partition in placed.items())
        assert right == self.client.client.default_is_java, "what the client does without a setting has changed"
        for request in requests:
            self._becomes(Becomes(id=request.id, outcomes=(cases.COMPLETED,)))

    def _placed(self, since: dict[int, int], mine: Callable[[RequestRecord], bool], count: int) -> dict[bytes, int]:
        """Where the producer put records. What it misplaced is there twice: a worker has sent it on."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            placed: dict[bytes, int] = {}
            for record in filter(mine, self.kit.requests(since)):
                key = record.key or b""
                if key not in placed or record.partition != partition_of(key, self.kit.partitions):
                    placed[key] = record.partition
            if len(placed) == count:
                return placed
            assert time.monotonic() < deadline, f"{len(placed)} of {count} records are there"
