"""What a shard needs from the outside. The real parts speak Kafka and DuckDB; the simulation has its own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from turnlog_schemas.direct_init import direct_init

if TYPE_CHECKING:  # a client, too, imports this module: for its errors, not for the core of the sessions
    from turnlog_schemas.commands import Forwarded, ForwardReceipt, RequestHeader
    from turnlog_schemas.events import EventHeader
    from turnlog_streams.reader_rule import LoggedEvent
    from turnlog_streams.reply import Reply

Headers = Sequence[tuple[str, bytes]]


class LogError(Exception):
    """The event log could not be written or read as it must be. The partition is released."""


class AppendUncertainError(LogError):
    """No answer, or a bad one: the records may be in the log, may yet come, or may be lost."""


class RecordsRefusedError(LogError):
    """The broker has the records and does not take them, now or later: too long, or against a rule of the topic.

    Nothing of them is stored. Whoever wrote them makes them smaller, or says what becomes of them instead.
    """


class LogAuthorizationError(LogError):
    """The broker refuses us. Retrying cannot help: the worker stops."""


class LogBrokenError(LogError):
    """The log is not what it must be (records are missing, it was re-created). The worker stops with the sentence."""


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """An event that is about to be appended, already encoded."""

    header: "EventHeader"
    payload: Any
    key: bytes
    value: Any  #: bytes on Kafka
    headers: Headers = ()
    size_bytes: int = 0


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A record of the requests topic, as delivered or as read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default=())
    problem: str | None = None  #: why it cannot be read as a request although its bytes are here
    timestamp_ms: int | None = None  #: when Kafka got it, since 1970; absent: it was not delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRange:
    """Offsets whose records cannot be told apart; both ends are inclusive."""

    first: int
    last: int
    reason: str


class EventLog(Protocol):
    """The event log of this deployment."""

    def encode(self, header: "EventHeader", payload: Any, key: bytes, trace: Headers = ()) -> NewRecord:
        """A record ready to append (its size is known before it is)."""
        ...

    async def append(self, partition: int, records: Sequence[NewRecord]) -> int:
        """Append as one batch; the broker's base offset, -1 if it did not tell.

        Raises :class:`AppendUncertainError` after the deadline or on failure, :class:`RecordsRefusedError`.
        """
        ...

    def read(self, partition: int, start: int, end: int) -> AsyncIterator[list["LoggedEvent"]]:
        """Every record from ``start`` to ``end`` (exclusive). Raises :class:`LogBrokenError` on a hole."""
        ...

    async def bounds(self, partition: int) -> tuple[int, int]:
        """First offset, and the one after the last record."""
        ...


class RequestLog(Protocol):
    """The requests topic, read past Faust where Faust left a gap. Transactions count once they are committed."""

    def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[RequestRecord | UnreadableRange]]:
        """Records from ``start`` to ``end`` (exclusive), in order; an offset without a record is ignored.

        Nothing in the topic's bytes makes it raise. ``end`` is at most the stable end: what is behind it is not there
        yet. Raises :class:`LogError`, at once where a transaction is open before ``end``.
        """
        ...

    async def bounds(self, partition: int) -> tuple[int, int]:
        """First offset, and the one after the last record, be it of an open transaction."""
        ...

    async def stable_ends(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """By partition: the offset up to which everything is decided, committed or aborted. Raises :class:`LogError`.

        It is what deliveries are compared with.
        """
        ...


Parked = tuple[RequestRecord, str, str]  #: a request that becomes a dead letter, the code and the reason


class RecordSender(Protocol):
    """Everything else that leaves the worker."""

    def reply(
        self,
        reply: "Reply",
        *,
        stream_id: str,
        partition: int,
        epoch: int,
        frame_seq: int,
        may_wait: bool = False,
    ) -> "Sent":
        """Queue a frame; never blocks. ``stream_id``: of the session or channel that answers.

        ``may_wait``: a delta that takes up what its turn says next, while its lane is busy.

        A terminal frame is given up only where it can never be stored: its reply topic cannot be written.
        """
        ...

    def request(self, header: "RequestHeader", command: "Forwarded | ForwardReceipt") -> "Sent":
        """Queue a request of our own to the partition of its target; never blocks.

        It may be given up, and what is stored may be lost: its owner sends it again.
        """
        ...

    def known_reply_topic(self, topic: str) -> bool:
        """Did this reply topic exist when the broker was asked last?"""
        ...

    async def look_for_reply_topics(self) -> None:
        """Ask the broker for its topics. Raises :class:`LogError`."""
        ...

    async def dead_letters(self, parked: Sequence[Parked]) -> None:
        """Park the bytes of requests; returns when they are stored: as many of them as the broker takes.

        Raises :class:`LogError`; never :class:`RecordsRefusedError`.
        """
        ...

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        """Produce a request again, to the partition of its key; returns when it is stored.

        Raises :class:`LogError`, :class:`RecordsRefusedError`.
        """
        ...


class Sent(Protocol):
    """A frame, or a request of our own, that was queued: on its way, then either stored or given up, for good."""

    def on_its_way(self) -> bool:
        """May it still be stored? False: the broker has it, or nobody here tries it any more."""
        ...

    def stored(self) -> bool:
        """Has the broker got it?"""
        ...

    def join(self, text: str) -> bool:
        """Take up what the turn says next, if this is a delta that waits. False: that needs a frame of its own."""
        ...

    def withdraw(self) -> None:
        """Do not send it, if this is a delta that waits."""
        ...
