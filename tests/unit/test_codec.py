"""Records to bytes and back, newer writers, and the verdict on every kind of bad request."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_writer

from tests import golden
from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.codec import AVRO_MAGIC, FRAMING_AVRO, FRAMING_JSON, Codec, RequestCodec, UnknownPayload
from turnlog_schemas.errors import InvalidCommandError, UndecodableError, UnknownFingerprintError
from turnlog_schemas.mapping import avro_fields, to_dict
from turnlog_schemas.parts import ContentPart, NewSession, ToolCall, Usage, content_text, text_content
from turnlog_schemas.registry import COMMANDS, EVENTS, FRAMES, Family, Registry, Schema, load, packaged
from turnlog_schemas.type_names import snake

GOLDEN = list(golden.record_types())
GOLDEN_IDS = [path.stem for _, _, path in GOLDEN]


def fresh_registry() -> Registry:
    """The packaged schemas in a registry of the test's own."""
    registry = Registry()
    for schema in packaged().all_current():
        registry.add(schema, current=True)
    return registry


def changed(family: str, name: str, **changes: Any) -> dict[str, Any]:
    """A packaged schema with other top-level properties."""
    schema = packaged().current(family, name)
    assert schema is not None
    raw: dict[str, Any] = json.loads(schema.text)
    return raw | changes


# ---- golden bytes


@pytest.mark.parametrize(("family", "payload", "path"), GOLDEN, ids=GOLDEN_IDS)
def test_golden_bytes(family: Family, payload: type, path: Path) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept == golden.expected(family, payload), "read the diff after: python -m tests.golden"
    codec = Codec(family)
    for example, record in zip(kept, golden.examples(family, payload), strict=True):
        assert codec.decode(bytes.fromhex(example["avro"])) == record
        assert codec.from_json(json.dumps(example["json"])) == record


def test_there_are_no_golden_bytes_of_unknown_types() -> None:
    assert sorted(path.name for path in golden.FOLDER.iterdir()) == sorted(path.name for _, _, path in GOLDEN)


# ---- framing


CHAT_HEADER = cmd.RequestHeader(request_id="r-1", session_id="web-1a2b3c4d", sent_at=1)
CHAT = cmd.Chat(content=text_content("Hi"))
CODEC = RequestCodec()
CHAT_BYTES = CODEC.encode(CHAT_HEADER, CHAT)


def test_single_object_framing() -> None:
    schema = packaged().current("commands", "Chat")
    assert schema is not None
    assert CHAT_BYTES[:10] == b"\xc3\x01" + schema.fingerprint
    assert CODEC.decode_request(CHAT_BYTES) == (CHAT_HEADER, CHAT, FRAMING_AVRO)


def test_the_shortest_json_chat() -> None:
    data = b'{"session_id": "web-1a2b3c4d", "command": {"type": "chat", "text": "Hi"}}'
    header, command, framing = CODEC.decode_request(data)
    assert header == cmd.RequestHeader(session_id="web-1a2b3c4d")
    assert command == CHAT
    assert framing == FRAMING_JSON


def test_json_frames() -> None:
    codec = Codec(FRAMES)
    header = fr.FrameHeader(session_id="s", request_id="r", turn_id="t", attempt=1, epoch=7, frame_seq=3)
    assert json.loads(codec.encode_json(header, fr.TextDelta(text="Hallå"))) == {
        "session_id": "s",
        "request_id": "r",
        "turn_id": "t",
        "attempt": 1,
        "epoch": 7,
        "frame_seq": 3,
        "channel": None,
        "frame": {"type": "text_delta", "text": "Hallå"},
    }


@pytest.mark.parametrize(
    ("name", "expected"), [("Chat", "chat"), ("TextDelta", "text_delta"), ("PartitionClaimed", "partition_claimed")]
)
def test_type_names_of_the_json_form(name: str, expected: str) -> None:
    assert snake(name) == expected


def test_no_content_and_empty_text_differ() -> None:
    codec = Codec(EVENTS)
    header = golden.bare(ev.EventHeader)
    for content in (None, (), text_content("")):
        stored = ev.MessageStored(message_seq=1, role="assistant", content=content)
        assert codec.decode(codec.encode(header, stored))[1].content == content
        assert codec.from_json(codec.encode_json(header, stored))[1].content == content
    assert content_text(None) is None
    assert content_text(text_content("")) == ""


def test_arguments_of_a_tool_call_keep_every_character() -> None:
    arguments = '{ "a" : 1.0,\n"a": 1e0, "emoji": "\\u00e9" }'
    message = ev.MessageStored(
        message_seq=1, role="assistant", tool_calls=(ToolCall(call_id="c", name="f", arguments=arguments),)
    )
    codec = Codec(EVENTS)
    header = golden.bare(ev.EventHeader)
    assert codec.decode(codec.encode(header, message))[1].tool_calls[0].arguments == arguments


# ---- newer writers


def as_newer(schema: Schema, header: Any, payload: Any, **more: Any) -> bytes:
    """The record as a newer version writes it, its new fields filled in."""
    plain = fields_of(header) | fields_of(payload)
    for name, value in more.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    buffer = io.BytesIO()
    schemaless_writer(buffer, schema.parsed, plain)
    return AVRO_MAGIC + schema.fingerprint + buffer.getvalue()


def fields_of(record: Any) -> dict[str, Any]:
    cls: Any = type(record)
    return to_dict(cls)(record)


def test_a_newer_schema_of_a_known_type() -> None:
    raw = changed("events", "TurnFailed")
    raw["fields"].append({"name": "hint", "type": ["null", "string"], "default": None})
    usage = next(field for field in raw["fields"] if field["name"] == "usage")
    usage["type"]["fields"].append({"name": "cached_tokens", "type": "long", "default": 0})
    registry = fresh_registry()
    newer = load(json.dumps(raw))
    header = golden.full(ev.EventHeader, "header")
    failed = ev.TurnFailed(code="c", reason="r", usage=Usage(input_tokens=3), duration_ms=4)
    data = as_newer(newer, header, failed, hint="try again", usage={"cached_tokens": 9})

    with pytest.raises(UnknownFingerprintError, match=newer.fingerprint.hex()):
        Codec(EVENTS, registry).decode(data)
    registry.add(newer)
    assert Codec(EVENTS, registry).decode(data) == (header, failed)


def test_an_older_schema_of_a_known_type() -> None:
    raw = changed("events", "TurnStarted")
    raw["fields"] = [field for field in raw["fields"] if field["name"] != "error"]
    older = load(json.dumps(raw))
    registry = fresh_registry()
    registry.add(older)
    header = golden.full(ev.EventHeader, "header")
    started = ev.TurnStarted(model="echo:", cause="first")
    assert Codec(EVENTS, registry).decode(as_newer(older, header, started)) == (header, started)


ANY_PAYLOAD = Usage()  # the writer's schema says which of the fields count


def unknown_type(name: str, family: Family, fields: list[dict[str, Any]]) -> Schema:
    common = avro_fields(family.header, set())
    return load(json.dumps({"type": "record", "name": f"turnlog.{family.name}.{name}", "fields": common + fields}))


def test_an_unknown_type_is_kept_raw() -> None:
    newer = unknown_type(
        "SessionPinned",
        EVENTS,
        [
            {"name": "pin", "type": "string"},
            {"name": "blob", "type": "bytes"},
            {"name": "score", "type": "double"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    )
    registry = fresh_registry()
    registry.add(newer)
    header = golden.full(ev.EventHeader, "header")

    codec = Codec(EVENTS, registry)
    fields = {"pin": "top", "blob": b"\xff\x00", "score": float("inf"), "at": 1000}
    got, payload = codec.decode(as_newer(newer, header, ANY_PAYLOAD, **fields))
    assert got == header
    assert isinstance(payload, UnknownPayload)
    assert payload.name == "SessionPinned"
    assert payload.fields["pin"] == "top"
    body = json.loads(codec.encode_json(got, payload))
    assert body["stream_id"] == header.stream_id
    assert body["event"]["type"] == "session_pinned"
    assert body["event"]["blob"] == "\xff\x00"
    assert body["event"]["score"] == "inf"
    assert body["event"]["at"].startswith("1970-01-01")


def test_an_unknown_type_whose_header_has_lost_a_defaulted_field() -> None:
    fields = [field for field in avro_fields(ev.EventHeader, set()) if field["name"] != "attempt"]
    newer = load(json.dumps({"type": "record", "name": "turnlog.events.SessionPinned", "fields": fields}))
    registry = fresh_registry()
    registry.add(newer)
    header = golden.full(ev.EventHeader, "header")
    got, _ = Codec(EVENTS, registry).decode(as_newer(newer, header, ANY_PAYLOAD))
    assert got.attempt == 0
    assert got.stream_id == header.stream_id


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([{"name": "input_tokens", "type": "long"}], id="no common field at all"),
        pytest.param([{"name": "session_id", "type": "long"}], id="a common field of another type"),
    ],
)
def test_an_unknown_type_without_the_common_fields(fields: list[dict[str, Any]]) -> None:
    newer = load(json.dumps({"type": "record", "name": "turnlog.commands.Pin", "fields": fields}))
    registry = fresh_registry()
    registry.add(newer)
    data = as_newer(newer, cmd.RequestHeader(), ANY_PAYLOAD, session_id=1)
    with pytest.raises(UndecodableError):
        RequestCodec(registry).decode_request(data)


def test_an_unknown_command_is_refused_by_name() -> None:
    newer = unknown_type("PinSession", COMMANDS, [])
    registry = fresh_registry()
    registry.add(newer)
    data = as_newer(newer, CHAT_HEADER, ANY_PAYLOAD)
    with pytest.raises(InvalidCommandError, match="unknown command 'pin_session'") as caught:
        RequestCodec(registry).decode_request(data)
    assert caught.value.code == "unknown_command"
    assert caught.value.header == CHAT_HEADER


def test_a_newer_schema_that_no_reader_of_this_version_can_resolve() -> None:
    raw = changed("commands", "Chat")
    for field in raw["fields"]:
        if field["name"] == "content":
            field |= {"name": "said", "default": []}
    newer = load(json.dumps(raw))
    registry = fresh_registry()
    registry.add(newer)
    with pytest.raises(UndecodableError, match="Chat: the Avro body cannot be read"):
        RequestCodec(registry).decode_request(as_newer(newer, CHAT_HEADER, CHAT))


def test_a_record_of_another_family() -> None:
    event = Codec(EVENTS).encode(golden.bare(ev.EventHeader), ev.RequestsLost(from_offset=1, to_offset=2))
    with pytest.raises(UndecodableError, match=r"a record of events\.RequestsLost where one of commands belongs"):
        CODEC.decode_request(event)


def test_every_command_has_a_schema_and_a_codec() -> None:
    with pytest.raises(LookupError, match=r"no schema for commands\.Chat"):
        Codec(COMMANDS, Registry())


# ---- bad requests

PREFIX = CHAT_BYTES[:10]
NO_HEADER = b"\x00" * 5 + b"\x00"  # all the common fields of a chat absent


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(None, "the record has no value", id="null value"),
        pytest.param(b"", "the record has no value", id="empty value"),
        pytest.param(b"hello", "not an Avro single-object record: starts with 68656c6c", id="text"),
        pytest.param(bytes(range(128, 200)), "not an Avro single-object record", id="random bytes"),
        pytest.param(b"\xc3", "not an Avro single-object record: starts with c3", id="half a magic"),
        pytest.param(PREFIX[:9], "not an Avro single-object record", id="half a fingerprint"),
        pytest.param(b"\xc3\x01" + bytes(8) + b"x", "no schema with fingerprint 0000000000000000", id="fingerprint"),
        pytest.param(b"\x00\x00\x00\x00\x07" + CHAT_BYTES[10:], "Confluent framing", id="Confluent framing"),
        pytest.param(PREFIX, r"Chat: the Avro body cannot be read \(EOFError\)", id="no body"),
        pytest.param(CHAT_BYTES[:-1], "cannot be read", id="truncated by one byte"),
        pytest.param(CHAT_BYTES + b"\x00", "1 bytes follow the Avro body", id="trailing byte"),
        pytest.param(PREFIX + b"\x7f", "cannot be read", id="no such union branch"),
        pytest.param(PREFIX + b"\x02\x01zzz", "cannot be read", id="negative length"),
        pytest.param(PREFIX + b"\x02\xfe\xff\xff\xff\x0fzzz", "cannot be read", id="length of 2 GiB"),
        pytest.param(PREFIX + b"\x02" + b"\xfe" + b"\xff" * 8 + b"\x01zz", "cannot be read", id="length of 2**63"),
        pytest.param(PREFIX + b"\x02" + b"\xff" * 30, "cannot be read", id="endless number"),
        pytest.param(PREFIX + b"\x02\x04\xff\xfe", "cannot be read", id="invalid UTF-8"),
        pytest.param(
            PREFIX + b"\x00" * 5 + b"\xfe" + b"\xff" * 7 + b"\x7f", "cannot be read", id="map with 2**60 entries"
        ),
        pytest.param(PREFIX + NO_HEADER + b"\xfe\xff\xff\xff\x0f" * 2, "cannot be read", id="array of 2**31 parts"),
        pytest.param(b"{", "not JSON", id="truncated JSON"),
        pytest.param(b'{"a": "\xff"}', "not JSON in UTF-8 .byte 7.", id="JSON that is not UTF-8"),
        pytest.param(b'{"session_id":"s"} x', "not JSON", id="JSON with a tail"),
        pytest.param(b'{"a":' * 40_000, "the JSON is nested too deeply", id="deep objects"),
        pytest.param(
            b'{"session_id":"s","command":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
            "nested too deeply",
            id="deep arrays",
        ),
        pytest.param(b'{"a":' * 100_000, "more than 50000 objects, lists and items", id="deeper objects"),
        pytest.param(b'{"sent_at":' + b"9" * 10_000 + b"}", "not JSON: ValueError", id="number of 10,000 digits"),
        pytest.param(b"{}", "neither session_id nor channel", id="no id in JSON"),
        pytest.param(b'{"command":{"type":"chat","text":"x"}}', "neither session_id nor channel", id="chat without id"),
        pytest.param(b'{"session_id":7,"command":{}}', "session_id: Input should be a valid string", id="id: number"),
        pytest.param(b'{"session_id":"","command":{}}', "session_id is not 1-128 characters", id="empty id"),
        pytest.param(b'{"session_id":"a b","command":{}}', "session_id is not 1-128", id="id with a space"),
        pytest.param(b'{"session_id":"a\\n","command":{}}', "session_id is not 1-128", id="id with a line break"),
        pytest.param(b'{"session_id":"\xc3\xa5","command":{}}', "session_id is not 1-128", id="id beyond ASCII"),
        pytest.param(b'{"session_id":"\\ud800","command":{}}', "not valid Unicode", id="id with half a surrogate"),
        pytest.param(b'{"session_id":"' + b"a" * 129 + b'","command":{}}', "session_id is not 1-128", id="long id"),
        pytest.param(b'{"session_id":"s","channel":"/","command":{}}', "channel is not 1-128", id="bad channel"),
        pytest.param(CODEC.encode(cmd.RequestHeader(), CHAT), "neither session_id nor channel", id="no id in Avro"),
        pytest.param(CODEC.encode(cmd.RequestHeader(session_id="/"), CHAT), "session_id is not", id="bad id in Avro"),
    ],
)
def test_what_nobody_can_read_is_undecodable(data: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        CODEC.decode_request(data)


def in_json(command: Any, **header: Any) -> bytes:
    return json.dumps({"session_id": "s", "command": command} | header).encode()


def in_avro(**chat: Any) -> bytes:
    return CODEC.encode(cmd.RequestHeader(session_id="s"), cmd.Chat(**({"content": text_content("x")} | chat)))


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (in_json({"type": "chat"}), "empty_text", "chat: neither text nor content"),
        (in_json({"type": "chat", "txt": "x"}), "invalid_command", "unknown field 'txt'"),
        (in_json({"type": "chat", "text": ""}), "empty_text", "the text is empty"),
        (in_json({"type": "chat", "text": " \n\t\u00a0"}), "empty_text", "the text is empty"),
        (in_json({"type": "chat", "content": []}), "empty_text", "the text is empty"),
        (in_avro(content=()), "empty_text", "the text is empty"),
        (in_avro(content=text_content("  ")), "empty_text", "the text is empty"),
        (in_json({"type": "chat", "text": 5}), "invalid_command", r"content\.0\.text: Input should be a valid string"),
        (in_json({"type": "chat", "text": None, "content": [{"text": "x"}]}), "invalid_command", "field 'text'"),
        (in_json({"type": "chat", "content": "x"}), "invalid_command", "content: Input should be a valid tuple"),
        (in_json({"type": "chat", "content": [{"type": "text"}]}), "invalid_command", r"field 'content\.0\.type'"),
        (in_json({"type": "chat", "text": "x", "new_session": {"titel": ""}}), "invalid_command", "new_session.titel"),
        (in_json({"type": "chat", "text": "x", "new_session": 1}), "invalid_command", "new_session: Input"),
        (in_json({"type": "chat", "text": "\ud800"}), "invalid_command", "not valid Unicode"),
        (in_json({"type": "chat", "text": "x", "modell": "echo:"}), "invalid_command", "unknown field 'modell'"),
        (in_json({"type": "chat", "text": "x", "on_busy": "later"}), "invalid_command", "on_busy is one of enqueue"),
        (in_avro(on_busy=""), "invalid_command", "on_busy is one of enqueue"),
        (
            in_avro(content=(ContentPart(kind="image", uri="https://x.example/a"),)),
            "invalid_command",
            "no part of kind",
        ),
        (in_avro(content=(ContentPart(kind="file_ref", uri="x"),)), "invalid_command", r"content\.0: .* media_type"),
        (
            in_avro(new_session=NewSession(channel="/")),
            "invalid_command",
            r"new_session\.channel is not a valid id",
        ),
        (in_json({"type": "fly"}), "unknown_command", "unknown command 'fly'"),
        (in_json({"type": "Chat", "text": "x"}), "unknown_command", "unknown command 'Chat'"),
        (in_json({"text": "x"}), "unknown_command", "unknown command of type NoneType"),
        (in_json({"type": [[]]}), "unknown_command", "unknown command of type list"),
        (in_json(None), "invalid_command", "no object under 'command'"),
        (in_json([]), "invalid_command", "no object under 'command'"),
        (b'{"session_id":"s"}', "invalid_command", "no object under 'command'"),
        (in_json({"type": "chat", "text": "x"}, reply="r"), "invalid_command", "unknown field 'reply'"),
        (in_json({"type": "chat", "text": "x"}, sent_at="noon"), "invalid_command", "sent_at: Input should be"),
        (in_json({"type": "chat", "text": "x"}, sent_at=2**63), "invalid_command", "sent_at: a number has more than"),
        (in_json({"type": "chat", "text": "x"}, metadata={"a": 1}), "invalid_command", r"metadata\.a: Input should be"),
        (in_json({"type": "chat", "text": "x"}, metadata={"\udfff": ""}), "invalid_command", "metadata: a text is not"),
        (in_json({"type": "chat", "text": "x"}, reply_to=[]), "invalid_command", "reply_to: Input should be"),
        (in_json({"type": "chat", "text": "x"}, request_id=""), "invalid_command", "request_id: 1 to 256 characters"),
        (in_json({"type": "chat", "text": "x"}, request_id="r" * 257), "invalid_command", "request_id: 1 to 256"),
        (in_json({"type": "chat", "text": "x"}, request_id="\ud800"), "invalid_command", "request_id: a text is not"),
        (
            b'{"channel":"c","command":{"type":"chat","text":"x"}}',
            "invalid_command",
            "chat: session_id is missing",
        ),
    ],
)
def test_what_can_be_answered_is_refused(data: bytes, code: str, reason: str) -> None:
    with pytest.raises(InvalidCommandError, match=reason) as caught:
        CODEC.decode_request(data)
    assert caught.value.code == code
    header = caught.value.header
    assert isinstance(header, cmd.RequestHeader)
    assert header.session_id == "s" or header.channel == "c"
    assert CODEC.encode(header, CHAT), "what is left of the header can be written"


HISTORY = {"type": "get_history"}
WRONG_TYPES = [
    (in_json(HISTORY | {"limit": "5"}), "limit: Input should be a valid integer"),
    (in_json(HISTORY | {"limit": 5.0}), "limit: Input should be a valid integer"),
    (in_json(HISTORY | {"after": True}), "after: Input should be a valid integer"),
    (in_json(HISTORY | {"after": None}), "after: Input should be a valid integer"),
    (in_json(HISTORY | {"after": 2**63}), "after: a number has more than 64 bits"),
    (in_json(HISTORY | {"skip_covered": 1}), "skip_covered: Input should be a valid boolean"),
    (in_json(HISTORY | {"skip_covered": "true"}), "skip_covered: Input should be a valid boolean"),
    (in_json(HISTORY, sent_at=True), "sent_at: Input should be a valid integer"),
    (in_json(HISTORY, sent_at="1"), "sent_at: Input should be a valid integer"),
    (in_json(HISTORY, sent_at=1.5), "sent_at: Input should be a valid integer"),
    (in_json(HISTORY, sent_at=float("nan")), "sent_at: Input should be a valid integer"),
    (in_json(HISTORY, sent_at=float("inf")), "sent_at: Input should be a valid integer"),
    (b'{"session_id":"s","sent_at":1e999,"command":{"type":"get_history"}}', "sent_at: Input should be a valid"),
    (in_json(HISTORY, request_id=5), "request_id: Input should be a valid string"),
    (in_json(HISTORY, reply_to=False), "reply_to: Input should be a valid string"),
    (in_json(HISTORY, metadata={"a": True}), r"metadata\.a: Input should be a valid string"),
    (in_json(HISTORY, metadata=[["a", "b"]]), "metadata: Input should be a valid dictionary"),
    (in_json(HISTORY, metadata=None), "metadata: Input should be a valid dictionary"),
    (in_json({"type": "chat", "text": "x", "on_busy": 1}), "on_busy: Input should be a valid string"),
    (
        in_json({"type": "chat", "text": "x", "params": {"temperature": 10**400}}),
        r"params\.temperature: Input should be a valid number",
    ),
    (in_json({"type": "chat", "text": "x", "model": 1.5}), "model: Input should be a valid string"),
    (in_json({"type": "chat", "content": {"text": "x"}}), "content: Input should be a valid tuple"),
    (in_json({"type": "chat", "content": ["x"]}), r"content\.0: Input should be a dictionary"),
    (in_json({"type": "chat", "content": [{"text": "x"}, {"text": 1}]}), r"content\.1\.text: Input should be"),
    (
        in_json({"type": "chat", "text": "x", "new_session": {"history_keep_tail": "3"}}),
        r"new_session\.history_keep_tail: Input should be a valid integer",
    ),
    (
        in_json({"type": "chat", "text": "x", "new_session": {"metadata": {"a": None}}}),
        r"new_session\.metadata\.a: Input should be a valid string",
    ),
    (in_json({"type": "forward_receipt", "source_kind": "session"}), "source_id: Field required"),
    (b'{"session_id":"s","sent_at":1,"sent_at":2,"command":{"type":"get_history"}}', "'sent_at' is there twice"),
    (b'{"session_id":"s","command":{"type":"get_history","limit":1,"limit":2}}', "'limit' is there twice"),
    (b'{"session_id":"s","command":{"type":"get_history"},"command":{"type":"chat"}}', "'command' is there twice"),
]


@pytest.mark.parametrize(("data", "reason"), WRONG_TYPES)
def test_a_value_has_the_type_of_its_field(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidCommandError, match=reason) as caught:
        CODEC.decode_request(data)
    assert caught.value.code == "invalid_command"
    assert isinstance(caught.value.header, cmd.RequestHeader)
    assert caught.value.header.session_id == "s"


@pytest.mark.parametrize("start", [b" ", b"\n", b"\r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n "])
def test_blanks_and_a_byte_order_mark_may_come_before_json(start: bytes) -> None:
    data = start + in_json({"type": "chat", "text": "Hi"}) + b"\n"
    assert CODEC.decode_request(data) == (cmd.RequestHeader(session_id="s"), CHAT, FRAMING_JSON)
    with pytest.raises(InvalidCommandError, match="unknown command"):
        CODEC.decode_request(start + in_json({"type": "fly"}))


TEXT = '{"session_id":"s","command":{"type":"chat","text":"Hi"}}'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_json_in_another_encoding_says_which(encoding: str) -> None:
    name = encoding[:6].upper()
    with pytest.raises(UndecodableError, match=f"looks like JSON in {name}: send it in UTF-8"):
        CODEC.decode_request(TEXT.encode(encoding))
    if encoding in ("utf-16-be", "utf-32-be"):
        with pytest.raises(UndecodableError, match=f"looks like JSON in {name}"):
            CODEC.decode_request(("\ufeff" + TEXT).encode(encoding))


@pytest.mark.parametrize(
    "data", [b" ", b"\n\n", b"\xef\xbb\xbf", b" x", b"\xef\xbb\xbfx", b"[]", b" [1]", b'"s"', b"7"]
)
def test_what_is_no_json_object_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableError, match=r"not an Avro single-object record|the JSON is not an object"):
        CODEC.decode_request(data)


@pytest.mark.parametrize("name", ["session_id", "channel", "request_id", "reply_to"])
def test_nobody_knows_whom_to_answer_by_an_id_that_is_there_twice(name: str) -> None:
    data = f'{{"session_id":"s","{name}":"chat.replies","{name}":"t","command":{{"type":"get_session"}}}}'
    with pytest.raises(UndecodableError, match="is there twice"):
        CODEC.decode_request(data.encode())


def test_a_frame_of_a_newer_writer_is_read_by_what_is_known() -> None:
    data = {"session_id": "s", "request_id": "r", "hint": 1, "frame": {"type": "text_delta", "text": "x", "more": []}}
    header, frame = Codec(FRAMES).from_json(json.dumps(data))
    assert (header.session_id, frame) == ("s", fr.TextDelta(text="x"))


def test_a_refusal_keeps_the_fields_that_say_whom_to_answer() -> None:
    data = in_json({"type": "chat", "text": "x"}, request_id="r-9", reply_to="chat.replies.me", sent_at="noon")
    with pytest.raises(InvalidCommandError) as caught:
        CODEC.decode_request(data)
    assert caught.value.header == cmd.RequestHeader(session_id="s", request_id="r-9", reply_to="chat.replies.me")


def test_a_reason_never_quotes_what_somebody_wrote() -> None:
    data = in_json({"type": "chat", "content": [{"text": {"secret": "hunter2"}}]})
    with pytest.raises(InvalidCommandError) as caught:
        CODEC.decode_request(data)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"frame": 1}',
        '{"frame": {"type": "no_such_frame"}}',
        '{"frame": {"type": "text_delta", "text": "x"}}',
        '{"session_id": "s", "request_id": "r", "frame": {"type": "text_delta"}}',
    ],
)
def test_json_that_is_no_frame_is_undecodable(text: str) -> None:
    with pytest.raises(UndecodableError):
        Codec(FRAMES).from_json(text)
