"""Records to bytes and back.

Two framings: Avro single-object encoding (``C3 01``, fingerprint, body) and, for requests and their replies, plain
JSON (``{``). Confluent framing (``00`` and an id) is recognised and refused with a sentence.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from fastavro import schemaless_reader
from fastavro.schema import parse_schema
from pydantic import TypeAdapter, ValidationError

from schemas.avro_writer import framed_writer
from schemas.commands import (
    CHANNEL_COMMANDS,
    ID_PATTERN,
    ON_BUSY,
    SESSION_COMMANDS,
    ArchiveSession,
    Chat,
    RequestHeader,
)
from schemas.errors import InvalidCommandError, UndecodableError, UnknownFingerprintError
from schemas.mapping import avro_fields, from_dict, jsonable, to_dict, unknown_field, unwritable
from schemas.registry import COMMANDS, Family, Registry, Schema, packaged

AVRO_MAGIC = b"\xc3\x01"
FRAMING_AVRO = "avro"
FRAMING_JSON = "json"
CONTENT_TYPES = {FRAMING_AVRO: "application/avro", FRAMING_JSON: "application/json"}
_ID = re.compile(ID_PATTERN)
_to_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # one encoder: it is costly to make


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownPayload:
    """A record type that this version does not know, as its writer's schema reads it."""

    name: str
    fields: Mapping[str, Any]


@cache
def snake(name: str) -> str:
    """``TextDelta`` -> ``text_delta``: the type names of the JSON form."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Codec:
    """Encodes and decodes the records of one family (``avro`` is the authority, in the tests)."""

    def __init__(self, family: Family, registry: Registry | None = None) -> None:
        self.family = family
        self.registry = registry or packaged()
        self._header_dict = to_dict(family.header)
        self._header_from = from_dict(family.header)
        self._header_readers: dict[str, Any] = {}
        self._writers: dict[type, Callable[[Any, Any], bytes]] = {}
        self._readers: dict[str, type] = {payload.__name__: payload for payload in family.payloads}
        self._by_snake = {snake(name): payload for name, payload in self._readers.items()}
        for payload in family.payloads:
            schema = self.registry.current(family.name, payload.__name__)
            if schema is None:
                raise LookupError(f"no schema for {family.name}.{payload.__name__}")
            self._writers[payload] = framed_writer(AVRO_MAGIC + schema.fingerprint, family.header, payload)

    def encode(self, header: Any, payload: Any) -> bytes:
        """Single-object encoding of a record."""
        return self._writers[payload.__class__](header, payload)

    def decode(self, data: bytes) -> tuple[Any, Any]:
        """Header and payload. Unknown types come back as :class:`UnknownPayload`.

        Raises :class:`UnknownFingerprintError` or :class:`UndecodableError`.
        """
        if data[:2] != AVRO_MAGIC or len(data) < 10:
            raise UndecodableError(f"not an Avro single-object record: starts with {data[:4].hex() or 'nothing'}")
        schema = self.registry.find(data[2:10])
        if schema is None:
            raise UnknownFingerprintError(data[2:10])
        if schema.family != self.family.name:
            raise UndecodableError(f"a record of {schema.family}.{schema.name} where one of {self.family.name} belongs")
        current = self.registry.current(schema.family, schema.name)
        reader = None if current is None or current is schema else current.parsed
        plain = _read_body(data, schema, reader)
        payload = self._readers.get(schema.name)
        if payload is None:
            # Nothing but its writer's word says what is in it: the common fields are read again, as we know them.
            common = _read_body(data, schema, self._header_reader(schema.name))
            return self._header_from(common), UnknownPayload(name=schema.name, fields=plain)
        return self._header_from(plain), from_dict(payload)(plain)

    def _header_reader(self, name: str) -> Any:
        """A reader's schema for the common fields of a type that this version does not know."""
        known = self._header_readers.get(name)
        if known is None:
            full_name = f"turnlog.{self.family.name}.{name}"
            raw = {"type": "record", "name": full_name, "fields": avro_fields(self.family.header, set())}
            known = self._header_readers[name] = parse_schema(raw, named_schemas={})
        return known

    def to_json(self, header: Any, payload: Any) -> dict[str, Any]:
        """The JSON form: common fields at the top, the payload under its key with its type in snake case."""
        if isinstance(payload, UnknownPayload):
            common = self._header_dict(header)
            rest = {key: jsonable(value) for key, value in payload.fields.items() if key not in common}
            return common | {self.family.json_key: rest | {"type": snake(payload.name)}}
        payload_dict = to_dict(payload.__class__)
        body = {"type": snake(type(payload).__name__)} | payload_dict(payload)
        return self._header_dict(header) | {self.family.json_key: body}

    def encode_json(self, header: Any, payload: Any) -> bytes:
        """:meth:`to_json` as compact bytes."""
        return _to_json_text(self.to_json(header, payload)).encode()

    def from_json(self, data: bytes | str) -> tuple[Any, Any]:
        """The inverse of :meth:`encode_json`; raises :class:`UndecodableError`."""
        top = _json_object(data)
        body = top.pop(self.family.json_key, None)
        if not isinstance(body, dict):
            raise UndecodableError(f"no object under {self.family.json_key!r}")
        payload = self._by_snake.get(str(body.pop("type", "")))
        if payload is None:
            raise UndecodableError(f"unknown {self.family.json_key} type")
        try:
            return _validate(self.family.header, top), _validate(payload, body)
        except ValidationError as error:
            raise UndecodableError(_reason(error)) from error


def _read_body(data: bytes, schema: Schema, reader: Any) -> Any:
    """The fields of a single-object record, all of its bytes used. Raises :class:`UndecodableError`."""
    buffer = io.BytesIO(data)
    buffer.seek(10)
    try:
        plain = schemaless_reader(buffer, schema.parsed, reader)
    except Exception as error:  # the reader raises whatever bytes drive it into; all of it means the same
        raise UndecodableError(f"{schema.name}: the Avro body cannot be read ({type(error).__name__})") from error
    if buffer.tell() != len(data):
        raise UndecodableError(f"{schema.name}: {len(data) - buffer.tell()} bytes follow the Avro body")
    return plain


def _json_object(data: bytes | str) -> dict[str, Any]:
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UndecodableError(f"not JSON: {type(error).__name__}") from error
    if not isinstance(top, dict):
        raise UndecodableError("the JSON is not an object")
    return top


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _validate(cls: type, plain: dict[str, Any]) -> Any:
    return _adapter(cls).validate_python(plain)


def _reason(error: ValidationError) -> str:
    """What pydantic found, without the values (they may be somebody's words)."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'record'}: {first['msg']}"


class RequestCodec(Codec):
    """Requests come from anywhere: both framings, and a verdict for everything that is wrong with one."""

    def __init__(self, registry: Registry | None = None) -> None:
        super().__init__(COMMANDS, registry)

    def decode_request(self, data: bytes | None) -> tuple[RequestHeader, Any, str]:
        """Header, command and framing.

        Raises :class:`InvalidCommandError` (refuse: the sender can be answered) or :class:`UndecodableError`
        (dead letter).
        """
        if not data:
            raise UndecodableError("the record has no value")
        if data[:1] == b"{":
            header, command = self._decode_json(data)
            framing = FRAMING_JSON
        elif data[:1] == b"\x00":
            raise UndecodableError(
                "Confluent framing (00 and a schema id) needs a schema registry, which is not supported: "
                "send Avro single-object encoding or JSON"
            )
        else:
            header, command = self.decode(data)
            framing = FRAMING_AVRO
        check_ids(header)
        if isinstance(command, UnknownPayload):
            raise InvalidCommandError("unknown_command", f"unknown command {snake(command.name)!r}", header)
        check_command(header, command)
        return header, command, framing

    def _decode_json(self, data: bytes) -> tuple[RequestHeader, Any]:
        top = _json_object(data)
        body = top.pop("command", None)
        header, wrong = self._header_of(top)
        if wrong is not None:
            raise InvalidCommandError("invalid_command", wrong, header)
        if not isinstance(body, dict):
            raise InvalidCommandError("invalid_command", "no object under 'command'", header)
        kind = body.pop("type", None)
        payload = self._by_snake.get(kind) if isinstance(kind, str) else None
        if payload is None:
            what = repr(kind[:64]) if isinstance(kind, str) else f"of type {type(kind).__name__}"
            raise InvalidCommandError("unknown_command", f"unknown command {what}", header)
        if payload is Chat and "content" not in body:
            if "text" not in body:
                raise InvalidCommandError("empty_text", "chat: neither text nor content", header)
            body["content"] = [{"kind": "text", "text": body.pop("text")}]
        extra = unknown_field(payload, body)
        if extra is not None:
            raise InvalidCommandError("invalid_command", f"{kind}: unknown field {extra!r}", header)
        try:
            command = _validate(payload, body)
        except ValidationError as error:
            raise InvalidCommandError("invalid_command", f"{kind}: {_reason(error)}", header) from error
        reason = unwritable(to_dict(payload)(command))
        if reason is not None:
            raise InvalidCommandError("invalid_command", f"{kind}: {reason}", header)
        return header, command

    def _header_of(self, top: dict[str, Any]) -> tuple[RequestHeader, str | None]:
        """The common fields that can be read, and what is wrong with the others.

        Raises :class:`UndecodableError` when the ids are wrong: then nobody can be answered.
        """
        names = {field.name for field in fields(RequestHeader)}
        good: dict[str, Any] = {}
        wrong: str | None = None
        for name, value in top.items():
            if name not in names:
                wrong = wrong or f"unknown field {name[:64]!r}"
                continue
            try:
                unfit = unwritable(self._header_dict(_validate(RequestHeader, {name: value}))[name])
                reason = None if unfit is None else f"{name}: {unfit}"
            except ValidationError as error:
                reason = _reason(error)
            if reason is None:
                good[name] = value
            elif name in ("session_id", "channel"):
                raise UndecodableError(reason)
            else:
                wrong = wrong or reason
        header: RequestHeader = _validate(RequestHeader, good)
        check_ids(header)
        return header, wrong


def check_ids(header: RequestHeader) -> None:
    """A request names a session or a channel, by a valid id; else nobody can be answered."""
    if header.session_id is None and header.channel is None:
        raise UndecodableError("neither session_id nor channel")
    for what, value in (("session_id", header.session_id), ("channel", header.channel)):
        if value is not None and not _ID.fullmatch(value):
            raise UndecodableError(f"{what} is not 1-128 characters of A-Z a-z 0-9 . _ -")


def check_command(header: RequestHeader, command: Any) -> None:
    """What can be said of a command without knowing the session. Raises :class:`InvalidCommandError`."""
    if header.request_id is not None and not 1 <= len(header.request_id) <= 256:
        raise InvalidCommandError("invalid_command", "request_id: 1 to 256 characters", header)
    name = snake(type(command).__name__)
    if isinstance(command, (*SESSION_COMMANDS, ArchiveSession)) and header.session_id is None:
        raise InvalidCommandError("invalid_command", f"{name}: session_id is missing", header)
    if isinstance(command, CHANNEL_COMMANDS) and header.channel is None:
        raise InvalidCommandError("invalid_command", f"{name}: channel is missing", header)
    if isinstance(command, Chat):
        if command.on_busy not in ON_BUSY:
            raise InvalidCommandError("invalid_command", f"chat: on_busy is one of {', '.join(ON_BUSY)}", header)
        if any(part.kind != "text" for part in command.content):
            raise InvalidCommandError("invalid_command", "chat: only parts of kind 'text' are accepted", header)
        if not "".join(part.text or "" for part in command.content).strip():
            raise InvalidCommandError("empty_text", "chat: the text is empty", header)
        channel = command.new_session.channel if command.new_session else None
        if channel is not None and not _ID.fullmatch(channel):
            raise InvalidCommandError("invalid_command", "chat: new_session.channel is not a valid id", header)
    new_session = getattr(command, "new_session", None)
    if new_session is not None and (new_session.history_keep_tail or 0) < 0:
        raise InvalidCommandError("invalid_command", f"{name}: new_session.history_keep_tail is negative", header)
