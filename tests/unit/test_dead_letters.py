"""Dead letters: read out of their records, filtered, and made into what is sent again."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from turnlog.cli.dead_letters import document_of, line_of
from turnlog.client import dead_letters
from turnlog.client.dead_letters import (
    DeadLetter,
    DeadLetterReader,
    LetterFilter,
    Mark,
    letter_id,
    mark_headers,
    read_mark,
)
from turnlog.client.dead_letters import read_letter as read
from turnlog.client.redriving import LetterDesk, Prepared, Redrive
from turnlog.errors import BrokerUnreachableError, UsageError
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.parts import text_content
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import RequestRecord, UnreadableRange
from turnlog_workers.kafka.dead_letters import SIZES, dead_letter
from turnlog_workers.materializer.log_follower import _dead_letter as bytes_of_letter

SETTINGS = Settings(prefix="chat")
TOPIC = "chat.requests"
PARTITIONS = 3


@dataclass(kw_only=True)
class Record:
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 1_000


def chat(session_id: str = "web-1", **fields: Any) -> bytes:
    return json.dumps({"session_id": session_id, **fields, "command": {"type": "chat", "text": "hello"}}).encode()


def parked(offset: int, *, partition: int = 0, limit: int = SIZES[0], at: int = 1_000, **request: Any) -> Record:
    """A record as a worker writes it; ``offset``: in its own topic, and of the request."""
    given = {"key": b"web-1", "value": chat(), "headers": (("traceparent", b"t"),), **request}
    code = given.pop("code", "undecidable")
    asked = RequestRecord(partition=partition, offset=offset, **given)
    key, value, headers = dead_letter(asked, TOPIC, code, "a reason", limit_bytes=limit)
    return Record(offset=offset, key=key, value=value, headers=tuple(headers), timestamp=at)


def letter(**request: Any) -> DeadLetter:
    found = read(parked(7, **request), 0)
    assert found is not None
    return found


def mark(offset: int, of: DeadLetter, kind: str, sent_to: str = "") -> Record:
    return Record(offset=offset, key=of.id.encode(), headers=mark_headers(of, kind, sent_to), timestamp=5_000)


# ---- records


def test_a_letter_is_what_the_worker_parked() -> None:
    found = letter(partition=2, code="key_mismatch")
    assert (found.id, found.code, found.reason, found.topic) == ("2@7", "key_mismatch", "a reason", TOPIC)
    assert (found.key, found.value, found.headers) == (b"web-1", chat(), (("traceparent", b"t"),))
    assert (found.parked_at_ms, found.cut, found.state, found.subject) == (1_000, None, "waiting", "web-1")


def test_what_the_producer_says_in_such_headers_counts_for_nothing() -> None:
    faked = (("x-turnlog-truncated", b"value"), ("x-turnlog-original-bytes", b"9"), ("x-turnlog-partition", b"99"))
    found = letter(headers=faked)
    assert (found.id, found.cut) == ("0@7", None)
    pretended = mark_headers(found, "discarded")
    assert read_mark(parked(8, key=None, value=None, headers=pretended)) is None
    assert read(Record(offset=1, value=b"x", headers=(("x-turnlog-partition", b"0"),)), 0) is None


def test_one_that_was_cut_says_so() -> None:
    found = letter(value=b"x" * 5_000, limit=SIZES[-1])
    assert found.cut == "value"
    assert found.original_bytes is not None
    assert found.original_bytes > 5_000 > found.size_bytes


def test_a_mark_is_no_letter_and_the_materializer_passes_over_it() -> None:
    record = mark(9, letter(partition=2), "redriven", "chat.requests[1]@3")
    assert read(record, 0) is None
    found = read_mark(record)
    assert found is not None
    assert found[0] == (2, 7)
    assert (found[1].kind, found[1].at_ms, found[1].sent_to) == ("redriven", 5_000, "chat.requests[1]@3")
    assert bytes_of_letter(record) is None
    assert bytes_of_letter(parked(7, partition=2)) == (2, 7, chat())


# ---- reading


class Topic:
    """The partition of a topic, in batches of two."""

    def __init__(self, *records: Any) -> None:
        self.records = records

    async def bounds(self, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self.records))}

    async def offset_at(self, topic: str, partition: int, since_ms: int) -> int | None:
        return next((n for n, each in enumerate(self.records) if getattr(each, "timestamp", 0) >= since_ms), None)

    async def read_leniently(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        for at in range(start, end, 2):
            yield list(self.records[at : min(at + 2, end)])


async def listed(topic: Topic, **wanted: Any) -> list[tuple[str, str]]:
    reader = DeadLetterReader(SETTINGS, topic, [0], PARTITIONS)  # type: ignore[arg-type]
    return [(each.id, each.state) async for each in reader.letters(LetterFilter(**wanted))]


def some() -> Topic:
    first, second, third = parked(0), parked(1, at=2_000, code="too_long"), parked(2, partition=1, at=3_000)
    gone = read(second, 0)
    assert gone is not None
    unreadable = UnreadableRange(first=3, last=3, reason="nobody knows")
    return Topic(first, second, third, unreadable, mark(4, gone, "redriven", "x"), mark(5, gone, "discarded"), second)


async def test_those_that_wait_are_listed_in_their_order() -> None:
    assert await listed(some()) == [("0@0", "waiting"), ("1@2", "waiting")]


async def test_all_are_listed_once_with_what_was_done_last() -> None:
    assert await listed(some(), done=True) == [("0@0", "waiting"), ("0@1", "discarded"), ("1@2", "waiting")]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"codes": {"undecidable"}, "done": True}, ["0@0", "1@2"]),
        ({"partitions": {1}}, ["1@2"]),
        ({"since_ms": 2_000, "done": True}, ["0@1", "1@2"]),
        ({"before_ms": 2_000}, ["0@0"]),
        ({"ids": {(0, 1)}, "done": True}, ["0@1"]),
        ({"session": "web-1"}, ["0@0", "1@2"]),
        ({"session": "web-2"}, []),
    ],
)
async def test_filters(wanted: dict[str, Any], ids: list[str]) -> None:
    assert [found for found, _ in await listed(some(), **wanted)] == ids


async def test_a_session_is_found_by_the_body_where_there_is_no_key() -> None:
    topic = Topic(parked(0, key=None, value=chat("web-9")), parked(1, key=b"web-9", value=b"garbage"), parked(2))
    assert await listed(topic, session="web-9") == [("0@0", "waiting"), ("0@1", "waiting")]


async def test_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_MARKS", 1)
    letters = [read(parked(n), 0) for n in range(2)]
    topic = Topic(*(mark(n, each, "discarded") for n, each in enumerate(letters) if each is not None))
    with pytest.raises(UsageError, match="--since"):
        await listed(topic)
    assert await listed(topic, ids={(0, 1)}) == []


@pytest.mark.parametrize("wrong", ["", "7", "1@", "@1", "-1@2", "1@2@3", "a@b", "²@1"])
def test_a_place_that_is_none(wrong: str) -> None:
    with pytest.raises(UsageError, match="PARTITION@OFFSET"):
        letter_id(wrong)


# ---- what is sent again


def prepared(found: DeadLetter, *, force: bool = False) -> Prepared:
    made = Redrive(SETTINGS, partition_count=PARTITIONS).prepare(found, force=force)
    assert isinstance(made, Prepared), made
    return made


def refused(found: DeadLetter, *, force: bool = False) -> str:
    made = Redrive(SETTINGS, partition_count=PARTITIONS).prepare(found, force=force)
    assert isinstance(made, str)
    return made


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_it_is_the_same_and_goes_where_its_key_belongs(partition: int) -> None:
    value = chat(request_id="r-1")
    made = prepared(letter(partition=partition, value=value, headers=(("a", b"1"), ("x-turnlog-code", b"2"))))
    assert made == Prepared(
        partition=partition_of(b"web-1", PARTITIONS),
        key=b"web-1",
        value=value,
        headers=(("a", b"1"),),
        request_id="r-1",
    )


@pytest.mark.parametrize("partition", range(PARTITIONS))
@pytest.mark.parametrize("avro", [False, True])
def test_one_without_an_id_keeps_its_place_as_its_id(partition: int, avro: bool) -> None:
    value = chat()
    if avro:
        value = RequestCodec().encode(RequestHeader(session_id="web-1"), Chat(content=text_content("hello")))
    made = prepared(letter(partition=partition, value=value))
    assert made.request_id == f"{TOPIC}-{partition}-7"
    header, command, framing = RequestCodec().decode_request(made.value)
    assert (header.request_id, header.session_id) == (made.request_id, "web-1")
    assert command == RequestCodec().decode_request(value)[1]
    assert framing == ("avro" if avro else "json")


def test_one_without_a_key_gets_that_of_its_body() -> None:
    made = prepared(letter(key=None, value=chat("web-2", request_id="r")))
    assert (made.key, made.partition) == (b"web-2", partition_of(b"web-2", PARTITIONS))


def test_one_that_was_cut_is_not_sent_whatever_is_said() -> None:
    found = letter(value=b"x" * 5_000, limit=SIZES[-1])
    for force in (False, True):
        assert "it was cut when it was parked (value; " in refused(found, force=force)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"value": b"garbage"}, "undecodable"),
        ({"value": None}, "undecodable"),
        ({"key": b"web-2"}, "key_mismatch"),
        ({"key": b""}, "key_mismatch"),
    ],
)
def test_what_would_be_parked_again_is_sent_by_force_only(request_: dict[str, Any], code: str) -> None:
    found = letter(**request_)
    assert f"parked again ({code}: " in refused(found)
    made = prepared(found, force=True)
    assert made.key == found.key
    assert made.partition == (partition_of(found.key, PARTITIONS) if found.key else found.partition)
    assert made.headers == found.headers


def test_one_of_a_partition_that_is_gone_goes_to_one_that_is_there() -> None:
    found = replace(letter(value=b"garbage", key=None), partition=PARTITIONS + 1)
    assert prepared(found, force=True).partition == 1


# ---- as people see them


class MarkProducer:
    """Takes marks, which are stored when the test says so."""

    def __init__(self) -> None:
        self.marks: list[asyncio.Future[None]] = []

    async def send(self, *_: Any, **__: Any) -> asyncio.Future[None]:
        self.marks.append(asyncio.get_running_loop().create_future())
        return self.marks[-1]

    async def stop(self) -> None:
        """There is no connection."""


async def test_one_is_said_to_be_discarded_once_that_is_stored() -> None:
    desk, producer = LetterDesk(Settings(), partition_count=3), MarkProducer()
    desk._producer = producer  # type: ignore[assignment]
    letters = [replace(letter(), offset=number) for number in range(4)]
    for each in letters:
        await desk.discard(each)
    assert desk.outcomes() == []
    producer.marks[0].set_result(None)
    assert [outcome.letter.offset for outcome in desk.outcomes()] == [0]
    assert desk.outcomes() == []
    producer.marks[1].set_result(None)
    producer.marks[2].set_exception(KafkaError("not stored"))
    producer.marks[3].set_result(None)
    with pytest.raises(BrokerUnreachableError, match="what was done is not recorded in"):
        await desk.flush()
    assert [outcome.letter.offset for outcome in desk.outcomes()] == [1, 3], "and nothing of the one that is not stored"


def test_a_line_says_what_it_is_and_what_was_done() -> None:
    found = letter(code="undecidable")
    assert line_of(found) == f"0@7 1970-01-01T00:00:01Z undecidable web-1 {found.size_bytes} bytes: a reason"
    done = replace(found, cut="value", mark=Mark(kind="redriven", at_ms=5_000, sent_to="chat.requests[1]@3"))
    assert "bytes [cut] [redriven at 1970-01-01T00:00:05Z to chat.requests[1]@3]: a reason" in line_of(done)
    document = document_of(done)
    assert (document["state"], document["decided_at"], document["sent_to"]) == (
        "redriven",
        "1970-01-01T00:00:05Z",
        "chat.requests[1]@3",
    )
    assert "value" not in document
