"""Sealed records: which fields are texts, what a record says without its key, and which keys count."""

import typing
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from turnlog_schemas import events as ev
from turnlog_schemas.blanking import TEXTS, blanked, subject_of
from turnlog_schemas.codec import Codec
from turnlog_schemas.errors import UnknownFingerprintError
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import ContentPart, NewSession, text_content
from turnlog_schemas.registry import EVENTS
from turnlog_workers.base.ports import Headers, LogBrokenError
from turnlog_workers.kafka.sealing import SEALED, SealBrokenError, SessionKey
from turnlog_workers.kafka.session_keys import KeyMissingError, SessionKeys

CODEC = Codec(EVENTS)
HEADER = ev.EventHeader(
    stream_kind=ev.SESSION, stream_id="s-1", stream_version=1, epoch=0, n=0, accepted=0, replied=0, turn_id="t-1"
)
SAID = ev.MessageStored(message_seq=1, role="user", content=text_content("My name is Ada"), name="ada")
#: Names of things, words of ours, and addresses: no text of anybody. A new field belongs here or into ``TEXTS``.
NAMES = {
    *("owner", "incarnation", "requests_topic_id", "code", "request_id", "model", "cause", "role", "tool_call_id"),
    *("outcome", "session_id", "by", "active", "target_kind", "target_id", "what", "request_id_of_origin"),
    *("source_kind", "source_id", "history_compaction_id", "method", "trigger", "kind", "media_type", "call_id"),
    *("idempotency_key", "reply_to", "framing", "traceparent", "tracestate", "channel"),
}
NAMES_OF = {
    ev.RequestDeadLettered: {"reason"},  # of a record that nobody could read: it never quotes it
    ev.RequestsLost: {"reason"},
    ev.SessionErased: {"command_hash"},  # of a command without fields
}


def texts_in(hint: Any) -> bool:
    """Can a value of this type hold a text of its own?"""
    return hint is str or any(texts_in(inner) for inner in typing.get_args(hint))


def records_in(hint: Any) -> list[type]:
    inner = [record for each in typing.get_args(hint) for record in records_in(each)]
    return [hint] if is_dataclass(hint) and isinstance(hint, type) else inner


def every_record() -> set[type]:
    found: set[type] = set()
    waiting = list(ev.EVENTS)
    while waiting:
        record = waiting.pop()
        if record not in found:
            found.add(record)
            for hint in typing.get_type_hints(record).values():
                waiting += records_in(hint)
    return found


@pytest.mark.parametrize("record", sorted(every_record(), key=lambda record: record.__qualname__))
def test_each_field_of_an_event_is_known_as_a_text_or_as_none(record: type) -> None:
    hints = typing.get_type_hints(record)
    texts = set(TEXTS.get(record, ()))
    plain = NAMES | NAMES_OF.get(record, set())
    if record.__name__ in ("ToolCall", "ClientTool", "GenerationParams"):
        plain = plain | {"name"}  # of a tool
    unknown = {field.name for field in fields(record) if texts_in(hints[field.name])} - texts - plain
    assert unknown == set(), f"{record.__name__}: is it somebody's text? Say so in blanking.TEXTS, or here"
    assert texts <= {field.name for field in fields(record)}


def test_a_blank_event_keeps_everything_but_texts() -> None:
    blank = blanked(SAID, str.upper)
    assert blank == replace(SAID, content=(ContentPart(text=""),), name=None)
    new = NewSession(title="T", metadata={"a": "b"}, params=GenerationParams(temperature=1.0, stop=("x",)))
    assert blanked(ev.SessionCreated(new_session=new, request_id="r"), str.upper) == ev.SessionCreated(
        new_session=NewSession(title="", metadata={}, params=GenerationParams(temperature=1.0)), request_id="r"
    )
    archived = ev.SessionArchived()
    assert blanked(archived, str.upper) is archived


def keys() -> SessionKeys:
    reader: Any = None
    return SessionKeys("chat.keys", 1, reader, None)


def sealed(of: SessionKeys, event: Any = SAID, header: ev.EventHeader = HEADER) -> tuple[bytes, Headers]:
    value, part = of.sealed(CODEC, header, event, header.stream_id.encode())
    return value, [] if part is None else [(SEALED, part)]


def test_a_sealed_record_says_nothing_in_the_clear_and_opens_whole() -> None:
    ours = keys()
    value, headers = sealed(ours)
    assert b"Ada" not in value + headers[0][1]
    assert CODEC.decode(ours.opened(CODEC, 0, value, headers)) == (HEADER, SAID)
    assert CODEC.decode(value) == (HEADER, blanked(SAID, str))


def test_a_hash_is_another_one_for_each_command_and_tells_nothing() -> None:
    ours = keys()
    told = [ev.TurnHidden(request_id="r", command_hash=each) for each in ("a", "b", "a")]
    one, other, again = (CODEC.decode(sealed(ours, each)[0])[1].command_hash for each in told)
    assert one == again != other
    assert one != CODEC.decode(sealed(keys(), told[0])[0])[1].command_hash


def test_what_is_sealed_opens_beside_its_own_record_only() -> None:
    ours = keys()
    value, _ = sealed(ours)
    _, headers = sealed(ours, header=replace(HEADER, n=1))
    with pytest.raises(LogBrokenError, match="does not open"):
        ours.opened(CODEC, 0, value, headers)
    with pytest.raises(SealBrokenError):
        SessionKey.new().open(headers[0][1], value)


def test_events_without_texts_and_of_partitions_are_as_ever() -> None:
    of_partition = replace(HEADER, stream_kind=ev.PARTITION)
    lost = ev.RequestsLost(from_offset=1, to_offset=2, reason="gone")
    assert sealed(keys(), ev.SessionArchived()) == (CODEC.encode(HEADER, ev.SessionArchived()), [])
    assert sealed(keys(), lost, of_partition) == (CODEC.encode(of_partition, lost), [])


def test_a_lost_key_is_told_and_an_erased_one_is_not_missed() -> None:
    value, headers = sealed(keys())
    reader = keys()
    with pytest.raises(KeyMissingError, match="session:s-1 is neither in"):
        reader.opened(CODEC, 0, value, headers)
    reader.of_partition(0).take(b"session:s-1", b"{}")
    assert reader.opened(CODEC, 0, value, headers) == value


def test_a_type_that_nobody_knows_yet_is_not_taken_for_erased() -> None:
    """Only the event tells whose key is missing: its schema is looked for, and then it is."""
    value, headers = sealed(keys())
    unknown = value[:2] + bytes(8) + value[10:]
    with pytest.raises(UnknownFingerprintError):
        keys().opened(CODEC, 0, unknown, headers)


@pytest.mark.parametrize("order", ["an owner that died behind the mark", "a zombie that came behind it"])
async def test_keys_that_were_left_are_dropped_with_the_next_append(order: str) -> None:
    ours = keys()
    sealed(ours)
    (key_id,) = ours.of_partition(0).unstored
    stored = ours.of_partition(0).record_of(key_id)
    sent: list[tuple[bytes | None, bytes | None]] = []

    async def send(topic: str, partition: int, records: Any) -> int:
        sent.extend((name, value) for name, value, _ in records)
        return 0

    reader: Any = None
    next_owner = SessionKeys("chat.keys", 1, reader, send)
    for name, content in sorted([stored, (b"session:s-1", b"{}")], reverse="died" in order):
        next_owner.of_partition(0).take(name, content)
    await next_owner.before_append(0, [])
    assert sent == [(stored[0], None)]
    await next_owner.before_append(0, [])
    assert len(sent) == 1
    told = keys().of_partition(0)
    for name, content in [stored, (b"session:s-1", b"{}"), *sent]:
        told.take(name, content)
    assert not told.left


@pytest.mark.parametrize("late", [False, True])
def test_no_key_of_an_erased_session_counts_wherever_it_stands(late: bool) -> None:
    """A zombie's may come behind the mark, and one that the broker has not cleaned away yet before it."""
    ours = keys()
    value, headers = sealed(ours)
    mine = ours.of_partition(0)
    (key_id,) = mine.unstored
    record = mine.record_of(key_id)
    reader = keys()
    for name, content in sorted([record, (b"session:s-1", b"{}")], reverse=late):
        reader.of_partition(0).take(name, content)
    assert reader.opened(CODEC, 0, value, headers) == value
    assert sealed(reader)[1] == []  # and what comes later is not stored in any way
    assert not reader.of_partition(0).unstored


async def test_keys_are_stored_before_what_they_seal_and_dropped_before_the_receipt() -> None:
    sent: list[tuple[bytes | None, bytes | None]] = []

    async def send(topic: str, partition: int, records: Any) -> int:
        assert (topic, partition) == ("chat.keys", 0)
        sent.extend((name, value) for name, value, _ in records)
        return 0

    reader: Any = None
    ours = SessionKeys("chat.keys", 1, reader, send)
    value, headers = sealed(ours)
    await ours.before_append(0, [])
    ((name, secret),) = sent
    assert name is not None
    assert secret is not None
    other = keys()
    other.of_partition(0).take(name, secret)
    assert CODEC.decode(other.opened(CODEC, 0, value, headers)) == (HEADER, SAID)
    sent.clear()
    receipt: Any = golden_record(ev.SessionErased(request_id="r", command_hash="h"))
    await ours.before_append(0, [receipt])
    assert [(each, value is None) for each, value in sent] == [(b"session:s-1", False), (name, True)]
    assert ours.opened(CODEC, 0, value, headers) == value


async def test_a_key_that_could_not_be_stored_is_tried_again() -> None:
    failing = True
    stored: list[Any] = []

    async def send(topic: str, partition: int, records: Any) -> int:
        if failing:
            raise LogBrokenError("the broker is away")
        stored.extend(records)
        return 0

    reader: Any = None
    ours = SessionKeys("chat.keys", 1, reader, send)
    sealed(ours)
    with pytest.raises(LogBrokenError):
        await ours.before_append(0, [])
    failing = False
    await ours.before_append(0, [])
    await ours.before_append(0, [])
    assert len(stored) == 1


def golden_record(event: Any) -> Any:
    class Record:
        header, payload = HEADER, event

    return Record()


def test_what_a_channel_knows_of_a_session_is_that_session_s() -> None:
    of_channel = replace(HEADER, stream_kind=ev.CHANNEL, stream_id="room")
    opened = ev.ChannelSessionOpened(session_id="s-1", by="chat", new_session=NewSession(title="T"))
    decided = ev.RequestDecided(request_id="r", command_hash="h", session_id="s-1", created=True)
    assert subject_of(of_channel, opened) == "channel:room:s-1"
    assert subject_of(of_channel, decided) == "channel:room"
