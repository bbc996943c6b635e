"""How large a request may be: judged as it is unpacked, before any work on it, field by field."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from turnlog_schemas import commands as cmd
from turnlog_schemas import limits
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.errors import InvalidCommandError
from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_schemas.json_text import MAX_VALUES
from turnlog_schemas.parts import ContentPart, NewSession, text_content
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import AcceptChat
from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.intake.request_reader import ForStream, Incoming, Misrouted, RequestReader, Unreadable
from turnlog_workers.kafka.dead_letters import SIZES, dead_letter

MIB = 1024 * 1024
CODEC = RequestCodec()
PARTITIONS = 12
HOME = partition_of(b"web-1", PARTITIONS)


def read(value: bytes | None, *, key: bytes | None = b"web-1", partition: int = HOME, **more: Any) -> Incoming:
    reader = RequestReader(
        CODEC,
        Topics(),
        partition_count=PARTITIONS,
        reply_prefix="chat.replies",
        reply_topic_exists=lambda topic: topic.endswith(".mine"),
    )
    return reader.read(RequestRecord(partition=partition, offset=7, key=key, value=value, **more))


def in_json(text: str, **fields: Any) -> bytes:
    command = {"type": "chat", "text": text}
    return json.dumps({"session_id": "web-1", "request_id": "r", "command": command} | fields).encode()


def in_avro(text: str, **fields: Any) -> bytes:
    header = cmd.RequestHeader(session_id="web-1", request_id="r", **fields)
    return CODEC.encode(header, cmd.Chat(content=text_content(text)))


def refused(item: Incoming | None, code: str = "too_long") -> Refuse:
    assert isinstance(item, ForStream)
    assert isinstance(item.command, Refuse)
    assert item.command.code == code
    return item.command


@pytest.mark.parametrize("value", [in_json("x" * 3 * MIB), in_avro("x" * 3 * MIB)], ids=["json", "avro"])
@pytest.mark.parametrize("key", [b"web-1", None], ids=["key", "no key"])
def test_the_sender_of_a_long_record_is_told(value: bytes, key: bytes | None) -> None:
    command = refused(read(value, key=key))
    assert command.request_id == "r"
    assert command.reply.framing == ("json" if value[:1] == b"{" else "avro")
    size = len(value) + len(key or b"")
    assert command.reason == (f"the record has {size} bytes, unpacked and with its headers; at most {MIB} are accepted")


@pytest.mark.parametrize("value", [in_json("x" * 3 * MIB), in_avro("x" * 3 * MIB)], ids=["json", "avro"])
def test_a_long_record_in_the_wrong_partition_is_parked_there_and_its_sender_is_told(value: bytes) -> None:
    item = read(value, key=None, partition=(HOME + 1) % PARTITIONS)
    assert isinstance(item, Unreadable)
    assert item.code == "too_long"
    assert refused(item.told).request_id == "r"


def test_a_long_record_is_answered_where_it_wants_it() -> None:
    assert refused(read(in_json("x" * 2 * MIB, reply_to="chat.replies.mine"))).reply.reply_to == "chat.replies.mine"
    assert refused(read(in_avro("x" * 2 * MIB, reply_to="chat.replies.mine"))).reply.reply_to == "chat.replies.mine"


def test_of_a_channel_too() -> None:
    command = {"type": "create_session", "new_session": {"instructions": "x" * 2 * MIB}}
    value = json.dumps({"command": command, "channel": "web", "request_id": "r"}).encode()
    item = read(value, key=b"web", partition=partition_of(b"web", PARTITIONS))
    refused(item)
    assert isinstance(item, ForStream)
    assert (item.kind, item.stream_id) == (CHANNEL, "web")


LONG = "x" * 2 * MIB
NOBODY = {
    "garbage": b"\x07" * 9 * MIB,
    "garbage that begins like JSON": b"{" + b"\x07" * 9 * MIB,
    "garbage that begins like Avro": in_avro("x")[:10] + b"\x07" * 2 * MIB,
    "blanks": b" " * 9 * MIB,
    "no id": json.dumps({"request_id": "r", "text": LONG}).encode(),
    "another's key": in_json(LONG, session_id="web-2"),
    "an id that is none": in_json(LONG, session_id="a b"),
    "an id that is there twice": b'{"session_id":"web-1",' + in_json(LONG)[1:],
    "an id behind a hundred thousand lists": b'{"a":[' + b"[]," * 700_000 + b'[]],"session_id":"web-1"}',
    "lists in lists": b'{"a":' + b"[" * 2 * MIB,
    "quotes": b'{"a":"' + b'\\"' * MIB,
    "a number": b'{"a":' + b"1" * 2 * MIB + b"}",
    "two roots": in_json("x") + in_json(LONG),
    "too long to be searched": in_json("x" * 17 * MIB),
    "metadata above all bounds": in_avro("x", metadata={"a": LONG}),
}


@pytest.mark.parametrize("name", NOBODY)
def test_nobody_is_told_where_nobody_is_found(name: str) -> None:
    item = read(NOBODY[name])
    if name == "two roots":  # the first one is the record's, as far as its beginning tells
        refused(item)
        return
    assert isinstance(item, Unreadable)
    assert (item.code, item.told) == ("too_long", None)
    assert str(len(NOBODY[name]) + len(b"web-1")) in item.reason


def test_headers_and_key_count() -> None:
    headers = (("x-big", b"h" * MIB),)
    refused(read(in_json("Hi"), headers=headers))
    assert isinstance(read(in_json("Hi"), headers=tuple((f"x-{n}", b"h") for n in range(200))), ForStream)
    item = read(in_json("Hi"), key=b"k" * 2 * MIB)
    assert isinstance(item, Unreadable)


def test_what_just_fits_is_read() -> None:
    empty = len(in_json("")) + len(b"web-1")
    item = read(in_json("x" * (MIB - empty)))
    assert isinstance(item, ForStream)
    assert isinstance(item.command, AcceptChat)
    refused(read(in_json("x" * (MIB - empty + 1))))


def test_one_that_grows_on_its_way_to_the_right_partition_can_be_answered() -> None:
    header = cmd.RequestHeader(session_id="web-1")
    value = CODEC.encode(header, cmd.Chat(content=text_content("x" * (MIB - 200))))
    item = read(value, partition=(HOME + 1) % PARTITIONS)
    assert isinstance(item, Misrouted)
    assert refused(item.told).request_id == f"chat.requests-{(HOME + 1) % PARTITIONS}-7"


# ---- fields


def avro(command: Any, **header: Any) -> bytes:
    return CODEC.encode(cmd.RequestHeader(session_id="s", channel="c", **header), command)


def text_of(limit: int, more: int = 0) -> str:
    """As many bytes, of characters of two."""
    return "ö" * (limit // 2) + "x" * (limit % 2 + more)


def many(count: int) -> dict[str, str]:
    return {f"k{n}": "v" for n in range(count)}


CHAT = cmd.Chat(content=text_content("x"))


def chat(**fields: Any) -> cmd.Chat:
    return cmd.Chat(**({"content": text_content("x")} | fields))


def new(**fields: Any) -> NewSession:
    return NewSession(**fields)


FIELDS = {
    "model": (limits.MAX_MODEL_BYTES, lambda n: avro(chat(model="m" * n))),
    "content": (limits.MAX_CONTENT_PARTS, lambda n: avro(chat(content=(ContentPart(text="x"),) * n))),
    "title": (limits.MAX_TITLE_BYTES, lambda n: avro(cmd.CreateSession(new_session=new(title=text_of(n))))),
    "title of a chat": (limits.MAX_TITLE_BYTES, lambda n: avro(chat(new_session=new(title=text_of(n))))),
    "instructions": (
        limits.MAX_INSTRUCTIONS_BYTES,
        lambda n: avro(cmd.ResolveSession(new_session=new(instructions=text_of(n)))),
    ),
    "instructions of a chat": (
        limits.MAX_INSTRUCTIONS_BYTES,
        lambda n: avro(chat(new_session=new(instructions="x" * n))),
    ),
    "model of a session": (limits.MAX_MODEL_BYTES, lambda n: avro(cmd.RotateSession(new_session=new(model="m" * n)))),
    "entries of metadata": (limits.MAX_METADATA_ENTRIES, lambda n: avro(CHAT, metadata=many(n))),
    "metadata": (limits.MAX_METADATA_BYTES, lambda n: avro(CHAT, metadata={"k": "v" * (n - 1)})),
    "key of metadata": (limits.MAX_METADATA_BYTES, lambda n: avro(CHAT, metadata={"k" * (n - 1): "v"})),
    "entries of a session's": (
        limits.MAX_METADATA_ENTRIES,
        lambda n: avro(cmd.CreateSession(new_session=new(metadata=many(n)))),
    ),
    "metadata of a session": (
        limits.MAX_METADATA_BYTES,
        lambda n: avro(chat(new_session=new(metadata={"k": "v" * (n - 1)}))),
    ),
    "turn_id": (limits.MAX_TURN_ID_BYTES, lambda n: avro(cmd.CancelTurn(turn_id="t" * n))),
    "what": (
        limits.MAX_WORD_BYTES,
        lambda n: avro(cmd.Forwarded(source_kind=SESSION, source_id="s", target_kind=CHANNEL, seq=1, what="w" * n)),
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_has_its_bound(name: str) -> None:
    limit, made = FIELDS[name]
    CODEC.decode_request(made(limit))
    with pytest.raises(InvalidCommandError, match=rf"has {limit + 1} .* at most {limit} are accepted") as caught:
        CODEC.decode_request(made(limit + 1))
    assert caught.value.code == "too_long"
    assert "Header" in type(caught.value.header).__name__


@pytest.mark.parametrize(
    ("request_id", "answered_as"),
    [("r" * 257, "r" * 257), ("r" * 1025, None), ("a\0b", None), ("\0", None)],
    ids=["long", "very long", "NUL inside", "NUL"],
)
def test_a_request_id_that_cannot_be(request_id: str, answered_as: str | None) -> None:
    for value in (in_json("Hi", request_id=request_id), avro(CHAT, request_id=request_id)):
        with pytest.raises(InvalidCommandError, match="request_id: 1 to 256 characters, no NUL") as caught:
            CODEC.decode_request(value)
        assert isinstance(caught.value.header, cmd.RequestHeader)
        assert caught.value.header.request_id == answered_as


def test_a_forward_from_nowhere_is_refused() -> None:
    for source_id in ("", "a b", "x" * 129):
        receipt = cmd.ForwardReceipt(
            source_kind=SESSION, source_id=source_id, target_kind=CHANNEL, target_id="c", seq=1
        )
        with pytest.raises(InvalidCommandError, match="source_id is not a valid id"):
            CODEC.decode_request(avro(receipt))


def test_the_documented_sizes_are_those_of_the_code() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "wire.md").read_text(encoding="utf-8")
    sizes = page[page.index("## Sizes") : page.index("## The event log")]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", sizes, re.MULTILINE))
    told = {
        "`request_id`": f"{limits.MAX_REQUEST_ID_CHARS} characters",
        "`model`": f"{limits.MAX_MODEL_BYTES // 1024} KiB",
        "`title`": f"{limits.MAX_TITLE_BYTES // 1024} KiB",
        "`instructions` of a session": f"{limits.MAX_INSTRUCTIONS_BYTES // 1024} KiB",
        "`metadata`": f"{limits.MAX_METADATA_ENTRIES} entries, {limits.MAX_METADATA_BYTES // 1024} KiB",
        "parts of `content`": f"{limits.MAX_CONTENT_PARTS:,}",
        "`turn_id`": f"{limits.MAX_TURN_ID_BYTES} bytes",
        "`tools` of a chat": f"{limits.MAX_TOOLS}, {limits.MAX_TOOLS_BYTES // 1024} KiB together",
        "`new_session.messages`": f"{limits.MAX_INITIAL_MESSAGES:,}, {limits.MAX_INITIAL_BYTES // 1024} KiB together",
        "objects, lists and items of a JSON request": f"{MAX_VALUES:,}",
    }
    assert {name: rows.get(name) for name in told} == told


# ---- time and structure


def test_a_json_request_of_too_many_values_is_not_even_parsed() -> None:
    value = in_json("Hi", command=[[]] * MAX_VALUES)
    assert len(value) < MIB
    assert refused(read(value), "too_long").reason == "more than 50000 objects, lists and items"
    nobody = b'{"a":[' + b"[]," * MAX_VALUES + b'[]],"session_id":"web-1"}'
    item = read(nobody)
    assert isinstance(item, Unreadable)


@pytest.mark.parametrize("part", [ContentPart(kind=""), ContentPart(text="x")])
def test_an_avro_request_of_too_many_values_is_not_read_to_its_end(part: ContentPart) -> None:
    header = cmd.RequestHeader(session_id="web-1", request_id="r")
    most = CODEC.encode(header, cmd.Chat(content=(ContentPart(text="x" * 30),) * limits.MAX_CONTENT_PARTS))
    assert len(most) > 100_000
    assert isinstance(read(most), ForStream)
    assert CODEC.decode_request(most)[0] == header
    value = CODEC.encode(header, cmd.Chat(content=(part,) * 80_000))
    assert refused(read(value)).reason == "more values than the largest request has"
    metadata = {f"{n:x}": "" for n in range(100_000)}
    value = CODEC.encode(cmd.RequestHeader(session_id="web-1", metadata=metadata), cmd.GetSession())
    item = read(value)  # whom to answer cannot be found before them
    assert isinstance(item, Unreadable)


def test_brackets_in_a_text_are_text() -> None:
    for text in ("[{," * 60_000, '\\",[' * 30_000, '"' * 1000 + "," * 60_000):
        assert len(in_json(text)) < MIB
        item = read(in_json(text))
        assert isinstance(item, ForStream)
        assert isinstance(item.command, AcceptChat)
        assert item.command.chat.content == text_content(text)


# ---- dead letters


def record(**fields: Any) -> RequestRecord:
    return RequestRecord(
        **({"partition": 3, "offset": 9, "key": b"k", "value": b"v", "headers": (("x", b"1"),)} | fields)
    )


def bytes_of(letter: Any) -> int:
    key, value, headers = letter
    return len(key or b"") + len(value or b"") + sum(len(name) + len(content) for name, content in headers)


def test_a_dead_letter_keeps_everything_that_fits() -> None:
    for value in (None, b"", b"v", b"v" * MIB):
        key, kept, headers = dead_letter(record(value=value), "chat.requests", "c", "r", limit_bytes=SIZES[0])
        assert (key, kept) == (b"k", value)
        assert dict(headers) == {
            "x": b"1",
            "x-turnlog-topic": b"chat.requests",
            "x-turnlog-partition": b"3",
            "x-turnlog-offset": b"9",
            "x-turnlog-code": b"c",
            "x-turnlog-reason": b"r",
        }


@pytest.mark.parametrize("limit", SIZES)
@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({"value": b"v" * 9 * MIB}, {"value"}),
        ({"headers": (("big", b"h" * 9 * MIB), ("x", b"1"))}, {"headers"}),
        ({"headers": tuple((f"x-{n}", b"h" * 100) for n in range(90_000))}, {"headers"}),
        ({"key": b"k" * 9 * MIB}, {"key"}),
        (
            {"key": b"k" * 9 * MIB, "value": b"v" * 9 * MIB, "headers": (("b", b"h" * MIB),)},
            {"key", "value", "headers"},
        ),
    ],
    ids=["value", "a header", "headers", "key", "all"],
)
def test_a_dead_letter_that_is_cut_fits_and_says_so(limit: int, fields: dict[str, Any], cut: set[str]) -> None:
    whole = record(**fields)
    letter = dead_letter(whole, "chat.requests", "too_long", "ö" * 5000, limit_bytes=limit)
    assert bytes_of(letter) <= limit
    headers = dict(letter[2])
    assert set(headers["x-turnlog-truncated"].decode().split(",")) == cut
    size = int(headers["x-turnlog-original-bytes"])
    assert bytes_of((whole.key, whole.value, whole.headers)) <= size
    assert headers["x-turnlog-code"] == b"too_long"
    assert headers["x-turnlog-reason"]
    if cut == {"value"}:
        assert limit // 4 < len(letter[1] or b"") < limit
