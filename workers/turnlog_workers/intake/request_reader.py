"""From the bytes of a request record to what the shard does with it: decide, refuse, park, or send on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from turnlog_schemas.codec import FRAMING_AVRO, FRAMING_JSON, Codec, RequestCodec
from turnlog_schemas.commands import (
    ActiveSession,
    ArchiveSession,
    CancelTurn,
    CompactHistory,
    CreateSession,
    EraseSession,
    Forwarded,
    ForwardReceipt,
    GetHistory,
    GetSession,
    HideTurn,
    RequestHeader,
    ResetRunner,
    ResolveSession,
    RotateSession,
    UpdateSession,
    is_for_channel,
)
from turnlog_schemas.errors import InvalidCommandError, UndecodableError, UnknownFingerprintError
from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_schemas.json_text import is_json
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.channel.commands import ChangeChannel
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import AcceptChat, Archive, Cancel, Erase, Hide, RequestHistoryCompaction, Update
from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.base.trace_context import trace_of
from turnlog_workers.intake.command_hash import command_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A request that only asks: it is answered by the owner and leaves no event."""

    query: GetSession | GetHistory | ResetRunner | ActiveSession
    request_id: str
    command_hash: str
    reply: ReplyAddress


StreamCommand = (
    AcceptChat
    | Refuse
    | Cancel
    | Archive
    | Hide
    | Update
    | Erase
    | RequestHistoryCompaction
    | ChangeChannel
    | Query
    | ReceiveForward
    | ReceiveReceipt
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForStream:
    """A command for a session or a channel of this partition."""

    kind: str
    stream_id: str
    command: StreamCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Goes to the dead letters."""

    code: str
    reason: str
    told: "ForStream | None" = None  #: the refusal that its sender gets, where one is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Misrouted:
    """Belongs to another partition (or has no key): it is produced again with this key and value."""

    key: bytes
    value: bytes
    told: ForStream | None = None  #: the refusal that its sender gets if it cannot be sent on


DEFAULT_MAX_REQUEST_BYTES = 1024 * 1024
_MAX_TOPIC_CHARS = 249  #: of any topic's name, for Kafka
Incoming = ForStream | Unreadable | Misrouted


def record_bytes(record: RequestRecord) -> int:
    """Key, value and headers, unpacked: a record of this size may have been a few KiB on its way."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, content in record.headers:
        size += len(name) + len(content or b"")
    return size


class UnknownReplyTopicError(Exception):
    """A request names a reply topic that was not there when we looked last."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic


class RequestReader:
    """Reads requests of one deployment. ``reply_topic_exists`` knows what the broker told last."""

    def __init__(
        self,
        codec: RequestCodec,
        topics: Topics,
        *,
        partition_count: int,
        reply_prefix: str,
        reply_topic_exists: Callable[[str], bool],
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    ) -> None:
        self._codec = codec
        self._topics = topics
        self._partition_count = partition_count
        self._reply_prefix = reply_prefix
        self._reply_topic_exists = reply_topic_exists
        self._max_request_bytes = max_request_bytes

    def read(self, record: RequestRecord, *, last_try: bool = False) -> Incoming:
        """The verdict on a record.

        Unless it is the last try, raises :class:`UnknownFingerprintError` (look for new schemas, then ask again) or
        :class:`UnknownReplyTopicError` (look for new topics, then ask again).
        """
        if record.problem is not None:
            return Unreadable(code="unreadable_record", reason=record.problem)
        if (size := record_bytes(record)) > self._max_request_bytes:  # before any work on it
            return self._too_long(record, size, last_try=last_try)
        framing = FRAMING_JSON if record.value and is_json(record.value) else FRAMING_AVRO
        refusal: InvalidCommandError | None = None
        command: Any = None
        try:
            header, command, framing = self._codec.decode_request(record.value)
        except InvalidCommandError as error:
            if not isinstance(error.header, RequestHeader):
                return Unreadable(code=error.code, reason=error.reason)
            header, refusal = error.header, error
        except UnknownFingerprintError as error:
            if not last_try:
                raise
            return Unreadable(code=error.code, reason=str(error))
        except UndecodableError as error:
            return Unreadable(code=error.code, reason=str(error))
        subject = _subject(record, header, command)
        if subject is None:
            reason = refusal.reason if refusal else "the command names neither the session nor the channel it is for"
            return Unreadable(code="no_session_id", reason=reason)
        kind, stream_id = subject
        elsewhere = self._elsewhere(record, stream_id.encode(), header, command, framing)
        if isinstance(elsewhere, Misrouted):
            return self._with_refusal(elsewhere, record, subject, header, framing)
        if elsewhere is not None:
            return elsewhere
        reply_to, wrong_topic = self._reply_topic(header.reply_to, last_try=last_try)
        if refusal is None and wrong_topic is not None:
            refusal = InvalidCommandError("reply_topic", wrong_topic, header)
        return ForStream(
            kind=kind,
            stream_id=stream_id,
            command=self._command(record, header, command, refusal, _address(record, framing, reply_to)),
        )

    def _too_long(self, record: RequestRecord, size: int, *, last_try: bool) -> Incoming:
        """A record that is not read: refused where it says who wants the answer, else a dead letter.

        One that is in the wrong partition cannot be sent on: its dead letter is here, its sender is told all the same.
        """
        limit = self._max_request_bytes
        reason = f"the record has {size} bytes, unpacked and with its headers; at most {limit} are accepted"
        unreadable = Unreadable(code="too_long", reason=reason)
        value = record.value or b""
        header = self._codec.address(value)
        subject = None if header is None else _subject(record, header, None)
        if header is None or subject is None or record.key not in (None, subject[1].encode()):
            return unreadable
        framing = FRAMING_JSON if is_json(value) else FRAMING_AVRO
        refused = self._refusal(record, subject, header, framing, reason, last_try=last_try)
        if partition_of(subject[1].encode(), self._partition_count) == record.partition:
            return refused
        return replace(unreadable, told=refused)

    def _refusal(
        self,
        record: RequestRecord,
        subject: tuple[str, str],
        header: RequestHeader,
        framing: str,
        reason: str,
        *,
        last_try: bool,
    ) -> ForStream:
        """That the record is too long, to where its sender reads; by default where it wants a topic that is not."""
        reply_to, _ = self._reply_topic(header.reply_to, last_try=last_try)
        request_id = header.request_id or self.default_request_id(record)
        command = _refused(
            record,
            request_id,
            None,
            InvalidCommandError("too_long", reason, header),
            _address(record, framing, reply_to),
        )
        return ForStream(kind=subject[0], stream_id=subject[1], command=command)

    def _elsewhere(
        self, record: RequestRecord, subject: bytes, header: RequestHeader, command: Any, framing: str
    ) -> Unreadable | Misrouted | None:
        if record.key is not None and record.key != subject:
            reason = "the record's key differs from the session_id (or channel) that its body is for"
            return Unreadable(code="key_mismatch", reason=reason)
        if partition_of(subject, self._partition_count) == record.partition:
            return None
        value = record.value or b""
        if header.request_id is None and command is not None:
            # Its place is its identity; the place changes now, so the identity must be written down.
            header = replace(header, request_id=self.default_request_id(record))
            codec: Codec = self._codec
            value = codec.encode(header, command) if framing == FRAMING_AVRO else codec.encode_json(header, command)
        return Misrouted(key=subject, value=value)

    def _with_refusal(
        self, misrouted: Misrouted, record: RequestRecord, subject: tuple[str, str], header: RequestHeader, framing: str
    ) -> Misrouted:
        """Unpacked, and with its id, it may be longer than its topic takes: then its sender is told so."""
        reason = "too long to be sent on to its right partition"
        told = self._refusal(record, subject, header, framing, reason, last_try=True)
        return replace(misrouted, told=told)

    def default_request_id(self, record: RequestRecord) -> str:
        """The identity of a request whose producer gave it none: protects against redelivery only."""
        return f"{self._topics.requests}-{record.partition}-{record.offset}"

    def _command(
        self,
        record: RequestRecord,
        header: RequestHeader,
        command: Any,
        refusal: InvalidCommandError | None,
        address: ReplyAddress,
    ) -> StreamCommand:
        request_id = header.request_id or self.default_request_id(record)
        if refusal is not None:
            return _refused(record, request_id, command, refusal, address)
        match command:
            case Forwarded():
                return _forward(command)
            case ForwardReceipt():
                return ReceiveReceipt(seq=command.seq, refused=command.refused)
            case GetSession() | GetHistory() | ResetRunner() | ActiveSession():
                return Query(query=command, request_id=request_id, command_hash=command_hash(command), reply=address)
            case CancelTurn():
                return Cancel(
                    request_id=request_id,
                    command_hash=command_hash(command),
                    turn_id=command.turn_id,
                    reply=address,
                )
            case HideTurn():
                return Hide(
                    request_id=request_id,
                    command_hash=command_hash(command),
                    turn_id=command.turn_id,
                    of_request=command.of_request,
                    reply=address,
                )
            case UpdateSession():
                return Update(request_id=request_id, command_hash=command_hash(command), update=command, reply=address)
            case EraseSession():
                return Erase(request_id=request_id, command_hash=command_hash(command), reply=address)
            case CompactHistory():
                return _compacting(command, request_id, address)
            case ArchiveSession() if header.channel is None:
                return Archive(request_id=request_id, command_hash=command_hash(command), reply=address)
            case CreateSession() | ResolveSession() | RotateSession() | ArchiveSession():
                return ChangeChannel(
                    request_id=request_id,
                    command_hash=command_hash(command, header.session_id),
                    command=command,
                    session_id=header.session_id,
                    new_ids=_new_ids(record, header.channel or ""),
                    reply=address,
                )
            case _:
                return AcceptChat(
                    request_id=request_id,
                    command_hash=command_hash(command),
                    turn_id=f"t-{record.partition}-{record.offset}",
                    chat=command,
                    reply=address,
                )

    def _reply_topic(self, wanted: str | None, *, last_try: bool) -> tuple[str | None, str | None]:
        """The reply topic to use (``None``: the default one), and why the wanted one cannot be."""
        if wanted is None or wanted == self._topics.replies:
            return None, None
        others = {*self._topics.all, self._topics.keys} - {self._topics.replies}
        if not wanted.startswith(self._reply_prefix) or wanted in others or len(wanted) > _MAX_TOPIC_CHARS:
            return None, f"reply_to must start with {self._reply_prefix!r} and be none of Turnlog's own topics"
        if not self._reply_topic_exists(wanted):
            if not last_try:
                raise UnknownReplyTopicError(wanted)
            return None, f"reply topic {wanted[:200]!r} does not exist"
        return wanted, None


def _compacting(command: CompactHistory, request_id: str, address: ReplyAddress) -> RequestHistoryCompaction:
    return RequestHistoryCompaction(
        request_id=request_id,
        command_hash=command_hash(command),
        instructions=command.instructions,
        reply=address,
        summary=command.summary,
        to_seq=command.to_seq,
    )


def _forward(command: Forwarded) -> ReceiveForward:
    return ReceiveForward(
        source_kind=command.source_kind,
        source_id=command.source_id,
        seq=command.seq,
        what=command.what,
        new_session=command.new_session,
        request_id_of_origin=command.request_id_of_origin,
    )


def _refused(
    record: RequestRecord, request_id: str, command: Any, refusal: InvalidCommandError, address: ReplyAddress
) -> Refuse:
    digest = hashlib.sha256(record.value or b"").hexdigest()[:32]
    return Refuse(
        request_id=request_id,
        command_hash=digest if command is None else command_hash(command),
        code=refusal.code,
        reason=refusal.reason,
        reply=address,
    )


def _subject(record: RequestRecord, header: RequestHeader, command: Any) -> tuple[str, str] | None:
    """Which stream decides: kind and id. Of a command that cannot be read, the one that the key names."""
    session, channel = header.session_id, header.channel
    match command:
        case Forwarded():
            for_session = command.target_kind == SESSION
        case ForwardReceipt():
            for_session = command.source_kind == SESSION
        case None:
            named = record.key.decode(errors="replace") if record.key is not None else None
            for_session = session is not None and (channel is None or named != channel)
        case _:
            for_session = not is_for_channel(command, channel)
    if for_session:
        return (SESSION, session) if session is not None else None
    return (CHANNEL, channel) if channel is not None else None


def _new_ids(record: RequestRecord, channel: str) -> tuple[str, ...]:
    """Ids for a session that this request may open: made of its place, so that deciding it again gives the same."""
    seed = f"{channel}/{record.partition}/{record.offset}".encode()
    digest = hashlib.sha256(seed).hexdigest()
    return tuple(f"{channel[:119]}-{digest[start : start + 8]}" for start in range(0, 32, 8))


def _address(record: RequestRecord, framing: str, reply_to: str | None) -> ReplyAddress:
    trace = trace_of(record.headers)
    if trace is None:
        return ReplyAddress(reply_to=reply_to, framing=framing)
    return ReplyAddress(reply_to=reply_to, framing=framing, traceparent=trace.traceparent, tracestate=trace.tracestate)
