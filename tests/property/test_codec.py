"""Two Avro packages and our writer, one contract; no bytes in the world get anything but a verdict from the decoder."""

import io
import json
from functools import cache
from typing import Any

import avro.io
import avro.schema
import pytest
from fastavro import schemaless_writer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from tests.strategies import any_record, of_family, records
from turnlog_schemas import commands as cmd
from turnlog_schemas.avro_reader import framed_reader
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.errors import InvalidCommandError, UndecodableError
from turnlog_schemas.json_writer import json_writer
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.parts import ContentPart
from turnlog_schemas.registry import COMMANDS, EVENTS, FAMILIES, Family, packaged
from turnlog_streams.reader_rule import SkimmedRecord

CODECS = {name: Codec(family) for name, family in FAMILIES.items()}
REQUESTS = RequestCodec()
ALL = [(family, payload) for family in FAMILIES.values() for payload in family.payloads]
IDS = [f"{family.name}.{payload.__name__}" for family, payload in ALL]
Record = tuple[Family, Any, Any]


@cache
def authority(family: str, name: str) -> avro.schema.Schema:
    schema = packaged().current(family, name)
    assert schema is not None
    return avro.schema.parse(schema.text)


def plain(header: Any, payload: Any) -> dict[str, Any]:
    header_type: Any = type(header)
    payload_type: Any = type(payload)
    return to_dict(header_type)(header) | to_dict(payload_type)(payload)


def write_with_avro(schema: avro.schema.Schema, datum: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    avro.io.DatumWriter(schema).write(datum, avro.io.BinaryEncoder(buffer))
    return buffer.getvalue()


def write_with_fastavro(family: str, name: str, datum: dict[str, Any]) -> bytes:
    schema = packaged().current(family, name)
    assert schema is not None
    buffer = io.BytesIO()
    schemaless_writer(buffer, schema.parsed, datum)
    return buffer.getvalue()


def read_with_avro(schema: avro.schema.Schema, body: bytes) -> object:
    return avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(io.BytesIO(body)))


@pytest.mark.parametrize(("family", "payload"), ALL, ids=IDS)
@settings(max_examples=25)
@given(data=st.data())
def test_both_packages_and_our_writer_write_the_same_bytes_and_read_each_other(
    family: Family, payload: type, data: st.DataObject
) -> None:
    header, record = data.draw(records(family.header)), data.draw(records(payload))
    codec, schema = CODECS[family.name], authority(family.name, payload.__name__)
    datum = plain(header, record)
    framed = codec.encode(header, record)
    by_avro = write_with_avro(schema, datum)
    assert framed[10:] == by_avro
    assert write_with_fastavro(family.name, payload.__name__, datum) == by_avro
    assert read_with_avro(schema, framed[10:]) == datum
    assert codec.decode(framed[:10] + by_avro) == (header, record)
    assert framed_reader(family.header, payload)(framed) == (header, record)
    assert codec._decode_with_library(framed) == (header, record)


@pytest.mark.parametrize("payload", EVENTS.payloads, ids=lambda payload: payload.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_a_skimmed_header_has_what_the_rule_asks_and_nothing_else(payload: type, data: st.DataObject) -> None:
    header, record = data.draw(records(EVENTS.header)), data.draw(records(payload))
    codec = CODECS[EVENTS.name]
    framed = codec.encode(header, record)
    skim = codec.skimmer(SkimmedRecord)
    assert skim(framed) == SkimmedRecord(
        epoch=header.epoch, n=header.n, accepted=header.accepted, replied=header.replied
    )
    assert codec.skimmer(SkimmedRecord, but=(payload,))(framed) is None
    assert skim(framed[: data.draw(st.integers(0, 16))]) is None, "whoever decodes it says what it is"


@pytest.mark.parametrize("payload", EVENTS.payloads, ids=lambda payload: payload.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_our_json_of_an_event_is_the_librarys(payload: type, data: st.DataObject) -> None:
    record = data.draw(records(payload))
    assert json_writer(payload)(record) == to_json(to_dict(payload)(record)).decode()


def test_our_json_escapes_what_the_library_does() -> None:
    text = "".join(map(chr, range(0x300))) + "\u2028\uffff\U0001f600"
    part = ContentPart(kind="text", text=text)
    assert json_writer(ContentPart)(part) == to_json(to_dict(ContentPart)(part)).decode()
    lone = json_writer(ContentPart)(ContentPart(kind="text", text="\ud800"))
    assert json.loads(lone)["text"] == "\ud800"


@given(any_record())
def test_json_and_back(record: Record) -> None:
    family, header, payload = record
    codec = CODECS[family.name]
    assert codec.from_json(codec.encode_json(header, payload)) == (header, payload)


# ---- bad bytes


def verdict(data: bytes | None) -> str:
    """What the decoder says; whatever it raises besides its two errors fails the test."""
    try:
        header, command, framing = REQUESTS.decode_request(data)
    except (InvalidCommandError, UndecodableError) as error:
        return of_error(error)
    # What is accepted can be written to the log, and forwarded as it is.
    assert REQUESTS.decode_request(REQUESTS.encode(header, command))[:2] == (header, command)
    assert framing in ("avro", "json")
    return "accepted"


def of_error(error: InvalidCommandError | UndecodableError) -> str:
    """Its code, once it is certain that a refusal knows whom to answer and that all of it can be written."""
    str(error).encode()
    if isinstance(error, InvalidCommandError):
        header = error.header
        assert isinstance(header, cmd.RequestHeader)
        assert header.session_id or header.channel
        REQUESTS.encode(header, cmd.Chat(content=()))
    return error.code


CHAT_BYTES = REQUESTS.encode(
    cmd.RequestHeader(request_id="r", session_id="s", metadata={"k": "v"}),
    cmd.Chat(content=(ContentPart(text="x"),)),
)


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b"\xc3\x01")
@example(b"\x00" * 5)
def test_random_bytes_get_a_verdict(data: bytes) -> None:
    assert verdict(data) != "accepted"


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_random_bodies_get_a_verdict(body: bytes) -> None:
    verdict(CHAT_BYTES[:10] + body)


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid record with a few bytes changed, removed, added, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "remove", "insert", "cut", "stretch"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "remove":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=12))
            case "cut":
                del data[at:]
            case "stretch":
                data[at:at] = b"\xff" * draw(st.integers(1, 12))
    return bytes(data)


@settings(max_examples=100)  # make fuzz: 100,000
@given(st.data())
def test_mutated_avro_gets_a_verdict(data: st.DataObject) -> None:
    header, command = data.draw(of_family(COMMANDS))
    verdict(data.draw(mutated(REQUESTS.encode(header, command))))


@settings(max_examples=50)  # make fuzz: 100,000
@given(st.data())
def test_our_reader_takes_only_what_the_library_reads_in_the_same_way(data: st.DataObject) -> None:
    family, header, payload = data.draw(any_record())
    framed = CODECS[family.name].encode(header, payload)
    record = framed[:10] + data.draw(mutated(framed[10:]))
    try:
        read = framed_reader(family.header, type(payload))(record)
    except Exception:  # the library is asked
        return
    # By their texts: what is not a number equals nothing.
    assert repr(CODECS[family.name]._decode_with_library(record)) == repr(read)


@settings(max_examples=120)
@given(st.data())
def test_mutated_json_gets_a_verdict(data: st.DataObject) -> None:
    header, command = data.draw(of_family(COMMANDS))
    verdict(data.draw(mutated(REQUESTS.encode_json(header, command))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def object_with(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), JSON, max_size=len(names))


@settings(max_examples=300)
@given(
    object_with(["request_id", "channel", "reply_to", "sent_at", "metadata", "other"]),
    object_with(["text", "content", "model", "on_busy", "new_session", "other"]),
    st.sampled_from(["s", "web-1a2b3c4d", None, "", 7]),
)
def test_any_json_values_get_a_verdict(top: dict[str, Any], body: dict[str, Any], session_id: object) -> None:
    request = top | {"session_id": session_id, "command": {"type": "chat"} | body}
    verdict(json.dumps(request).encode())


@settings(max_examples=200)
@given(JSON)
def test_any_command_gets_a_verdict(command: object) -> None:
    verdict(json.dumps({"session_id": "s", "command": command}).encode())


@given(any_record())
def test_records_of_other_families_get_a_verdict(record: Record) -> None:
    family, header, payload = record
    told = verdict(CODECS[family.name].encode(header, payload))
    assert family is COMMANDS or told == "undecodable"


def test_the_verdicts_are_not_all_the_same() -> None:
    assert verdict(CHAT_BYTES) == "accepted"
    assert verdict(CHAT_BYTES[:-1]) == "undecodable"
    assert verdict(b"\xc3\x01" + bytes(9)) == "unknown_fingerprint"
    assert verdict(b'{"session_id":"s","command":{"type":"x"}}') == "unknown_command"
