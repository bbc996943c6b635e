"""The simulated world outside of the workers: topics, the consumer group, and what goes wrong with them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.checker.history import Anomaly, GroupCommit, SeenFrame, ToolRun
from tests.simulation.loop import SimLoop
from turnlog_schemas.frames import FrameHeader
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base.ports import Headers, NewRecord, RequestRecord, UnreadableRange


@dataclass(slots=True, kw_only=True)
class Chaos:
    """How likely things go wrong, each from 0 to 1, and how long they take. All zero once the faults have ended."""

    append_lost_answer: float = 0.0  #: the batch lands, nobody says so
    append_late: float = 0.0  #: it lands after its deadline
    append_rejected: float = 0.0  #: it never lands
    append_refused: float = 0.0  #: the broker takes no batch with several streams: definitely not, as one too long
    append_no_offset: float = 0.0  #: it lands and is answered with -1
    append_twice: float = 0.0  #: it lands twice
    read_fails: float = 0.0  #: reads of topics, and of their ends
    store_fails: float = 0.0
    parking_fails: float = 0.0  #: dead letters and forwards
    frames_lost: float = 0.0  #: a batch of frames is not taken by the broker
    delivery_twice: float = 0.0  #: some requests are delivered again
    delivery_skips: float = 0.0  #: fetched requests are thrown away
    delivery_unreadable: float = 0.0  #: the consumer cannot read on: it is set aside, and the shard reads itself
    in_transaction: float = 0.0  #: some requests are in a transaction that stays open for a while
    wrong_start: float = 0.0  #: an assignment starts somewhere else than at the committed offset
    join_takes_s: float = 0.0  #: how long a join waits for members that are dead
    slowness: float = 1.0  #: factor of all latencies
    news_slowness: float = 1.0  #: factor of how late members hear of a rebalance

    def calm(self) -> None:
        """No more faults."""
        for name in self.__dataclass_fields__:
            setattr(self, name, 0.0)
        self.slowness = self.news_slowness = 1.0


@dataclass(slots=True)
class Topic:
    """One partition of the requests."""

    records: list[RequestRecord | None] = field(default_factory=list)  #: ``None``: the offset has no record
    start: int = 0  #: what lies below was deleted
    open: list[int] = field(default_factory=list)  #: where the open transactions begin
    unreadable: dict[int, UnreadableRange] = field(default_factory=dict)  #: by offset: batches that nobody can parse

    @property
    def stable_end(self) -> int:
        """What lies above is not committed yet, or behind something that is not."""
        return max(self.start, min(self.open, default=len(self.records)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A record of the keys topic."""

    key: bytes | None
    value: bytes | None


class World:
    """Everything that outlives a worker."""

    def __init__(self, rng: random.Random, loop: SimLoop, *, partitions: int, verbose: bool = False) -> None:
        self.rng = rng
        self.loop = loop
        self.chaos = Chaos()
        self.partition_count = partitions
        self.requests_topic_id = "topic-1"
        self.events_start = 0
        self.max_append_bytes: int | None = None  #: the event log takes no larger batch; None: any
        self.requests = [Topic() for _ in range(partitions)]
        self.events: list[list[LoggedEvent]] = [[] for _ in range(partitions)]
        self.sealed = False
        self.as_stored: list[list[tuple[bytes, Headers]]] = [[] for _ in range(partitions)]  #: of a sealed log
        self.keys: list[list[KeyRecord]] = [[] for _ in range(partitions)]
        self.frames: list[SeenFrame] = []
        self.tool_runs: list[ToolRun] = []
        self.parked: list[tuple[int, int]] = []
        self.commits: list[GroupCommit] = []
        self.findings: list[Anomaly] = []  #: what was seen to be wrong at once
        self.closed = False  #: the recording has ended
        self.on_request: Callable[[int], None] = lambda partition: None
        self.on_land: Callable[[str, Sequence[LoggedEvent]], None] = lambda worker, events: None
        self._verbose = verbose
        self._ids = 0

    # ---- chance

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def latency(self, typical_s: float = 0.005) -> float:
        """Mostly short, sometimes long."""
        roll = self.rng.random()
        factor = 0.2 + roll if roll < 0.9 else 1 + 40 * (roll - 0.9)
        return typical_s * factor * self.chaos.slowness

    def new_id(self) -> str:
        self._ids += 1
        return f"i{self._ids}"

    def trace(self, what: str, *values: object) -> None:
        """Tell what happens, for a replay."""
        if self._verbose and not self.closed:
            print(f"{self.loop.now:9.4f}  {what}", *values)

    def finds(self, kind: str, where: str, text: str) -> None:
        """Somebody inside saw what must not be."""
        if not self.closed:
            self.findings.append(Anomaly(kind=kind, where=where, text=text))
            self.trace(f"found: {kind}", where, text)

    # ---- topics

    def produce_request(self, record_of: Callable[[int, int], RequestRecord], partition: int) -> int:
        """Append to the requests; the offset."""
        topic = self.requests[partition]
        offset = len(topic.records)
        topic.records.append(record_of(partition, offset))
        if self.happens(self.chaos.in_transaction):
            self._open_transaction(partition, offset, aborted=False)
        self.on_request(partition)
        return offset

    def abort_request(self, record_of: Callable[[int, int], RequestRecord], partition: int) -> None:
        """Append to the requests, in a transaction that will be aborted."""
        topic = self.requests[partition]
        topic.records.append(record_of(partition, len(topic.records)))
        self._open_transaction(partition, len(topic.records) - 1, aborted=True)

    def damaged_requests(self, partition: int, count: int) -> None:
        """A batch arrives that nobody can take apart."""
        topic = self.requests[partition]
        first = len(topic.records)
        batch = UnreadableRange(first=first, last=first + count - 1, reason="simulated: the checksum is wrong")
        topic.unreadable.update(dict.fromkeys(range(first, first + count), batch))
        topic.records += [None] * count
        self.trace(f"requests[{partition}]: {first} to {first + count - 1} cannot be read")
        self.on_request(partition)

    def _open_transaction(self, partition: int, offset: int, *, aborted: bool) -> None:
        """The record at ``offset`` is in a transaction that ends after a while."""
        self.begin_transaction(partition, offset)
        lasts_s = self.rng.choice((0.01, 0.1, 1.0, 4.0)) * (0.5 + self.rng.random())
        self.loop.in_world(lasts_s, lambda: self.end_transaction(partition, offset, aborted=aborted))

    def begin_transaction(self, partition: int, offset: int) -> None:
        """The record at ``offset`` is in a transaction from now on."""
        self.requests[partition].open.append(offset)
        self.trace(f"a transaction begins at requests[{partition}]@{offset}")

    def end_transaction(self, partition: int, offset: int, *, aborted: bool) -> None:
        """It ends, with a marker in the topic."""
        topic = self.requests[partition]
        topic.open.remove(offset)
        if aborted:
            topic.records[offset] = None
        topic.records.append(None)
        self.trace(f"the transaction of requests[{partition}]@{offset} is", "aborted" if aborted else "committed")
        self.on_request(partition)

    def land(self, worker: str, partition: int, records: Sequence[NewRecord]) -> int:
        """A batch arrives in the event log; the offset of its first record."""
        log = self.events[partition]
        base = len(log)
        for record in records:
            if self.sealed:
                self.as_stored[partition].append((record.value, record.headers))
            log.append(LoggedEvent(partition=partition, offset=len(log), header=record.header, payload=record.payload))
            if self._verbose:
                h = record.header
                self.trace(
                    f"{worker} events[{partition}]@{len(log) - 1}",
                    f"e{h.epoch}.{h.n} acc{h.accepted} rep{h.replied} {h.stream_id} v{h.stream_version}",
                    type(record.payload).__name__,
                    h.turn_id or "",
                    h.attempt or "",
                    getattr(record.payload, "role", "") or getattr(record.payload, "generation", ""),
                    getattr(record.payload, "to_seq", ""),
                )
        self.on_land(worker, log[base:])
        return base

    def store_keys(self, partition: int, records: Sequence[tuple[bytes | None, bytes | None, Headers]]) -> int:
        """A batch arrives in the keys topic; the offset of its first record."""
        base = len(self.keys[partition])
        self.keys[partition] += [KeyRecord(key=key, value=value) for key, value, _ in records]
        for key, value, _ in records:
            self.trace(f"keys[{partition}]", (key or b"").decode(), "dropped" if value is None else "")
        return base

    def is_marked(self, partition: int, subject: str) -> bool:
        """Does the keys topic say that it is erased?"""
        return any(record.key == subject.encode() for record in self.keys[partition])

    def frame(self, partition: int, header: FrameHeader, frame: Any) -> None:
        """A reply frame arrives."""
        seen = SeenFrame(
            topic="chat.replies",
            partition=partition,
            offset=len(self.frames),
            header=header,
            frame=frame,
            log_end=len(self.events[partition]),
        )
        self.frames.append(seen)
        attempt = f"e{header.epoch} {header.turn_id}#{header.attempt}.{header.frame_seq}"
        self.trace(f"replies[{partition}]", attempt, frame)

    def commit(self, partition: int, offset: int) -> None:
        """The group's offset is set."""
        self.commits.append(GroupCommit(partition=partition, offset=offset, log_end=len(self.events[partition])))
        self.trace(f"group offset of {partition}:", offset)
