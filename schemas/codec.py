"""Records to bytes and back.

Two framings: Avro single-object encoding (``C3 01``, fingerprint, body) and, for requests and their replies, plain
JSON (``{``). Confluent framing (``00`` and an id) is recognised and refused with a sentence.
"""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from fastavro import schemaless_reader, schemaless_writer
from pydantic import TypeAdapter, ValidationError

from schemas.commands import ID_PATTERN, ON_BUSY, Chat, RequestHeader
from schemas.errors import InvalidCommandError, UndecodableError, UnknownFingerprintError
from schemas.mapping import from_dict, to_dict
from schemas.registry import COMMANDS, Family, Registry, packaged

AVRO_MAGIC = b"\xc3\x01"
FRAMING_AVRO = "avro"
FRAMING_JSON = "json"
CONTENT_TYPES = {FRAMING_AVRO: "application/avro", FRAMING_JSON: "application/json"}
_ID = re.compile(ID_PATTERN)


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
    """Encodes and decodes the records of one family (hot path: fastavro; ``avro`` is the authority in the tests)."""

    def __init__(self, family: Family, registry: Registry | None = None) -> None:
        self.family = family
        self.registry = registry or packaged()
        self._header_dict = to_dict(family.header)
        self._header_from = from_dict(family.header)
        self._writers: dict[type, tuple[bytes, Any, Any]] = {}
        self._readers: dict[str, type] = {payload.__name__: payload for payload in family.payloads}
        self._by_snake = {snake(name): payload for name, payload in self._readers.items()}
        for payload in family.payloads:
            schema = self.registry.current(family.name, payload.__name__)
            if schema is None:
                raise LookupError(f"no schema for {family.name}.{payload.__name__}")
            self._writers[payload] = (AVRO_MAGIC + schema.fingerprint, schema.parsed, to_dict(payload))

    def encode(self, header: Any, payload: Any) -> bytes:
        """Single-object encoding of a record."""
        prefix, schema, payload_dict = self._writers[type(payload)]
        buffer = io.BytesIO()
        buffer.write(prefix)
        schemaless_writer(buffer, schema, self._header_dict(header) | payload_dict(payload))
        return buffer.getvalue()

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
        buffer = io.BytesIO(data)
        buffer.seek(10)
        try:
            reader = None if current is None or current is schema else current.parsed
            plain: Any = schemaless_reader(buffer, schema.parsed, reader)
        except Exception as error:  # the reader raises whatever bytes drive it into; all of it means the same
            raise UndecodableError(f"{schema.name}: the Avro body cannot be read ({type(error).__name__})") from error
        if buffer.tell() != len(data):
            raise UndecodableError(f"{schema.name}: {len(data) - buffer.tell()} bytes follow the Avro body")
        header = self._header_from(plain)
        payload = self._readers.get(schema.name)
        if payload is None:
            return header, UnknownPayload(name=schema.name, fields=plain)
        return header, from_dict(payload)(plain)

    def to_json(self, header: Any, payload: Any) -> dict[str, Any]:
        """The JSON form: common fields at the top, the payload under its key with its type in snake case."""
        if isinstance(payload, UnknownPayload):
            common = self._header_dict(header)
            rest = {key: value for key, value in payload.fields.items() if key not in common}
            return common | {self.family.json_key: {"type": snake(payload.name)} | rest}
        _, _, payload_dict = self._writers[type(payload)]
        body = {"type": snake(type(payload).__name__)} | payload_dict(payload)
        return self._header_dict(header) | {self.family.json_key: body}

    def encode_json(self, header: Any, payload: Any) -> bytes:
        """:meth:`to_json` as compact bytes."""
        return json.dumps(self.to_json(header, payload), ensure_ascii=False, separators=(",", ":")).encode()

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
        unknown = set(top) - {field.name for field in fields(RequestHeader)}
        try:
            header: RequestHeader = _validate(RequestHeader, {k: v for k, v in top.items() if k not in unknown})
        except ValidationError as error:
            raise UndecodableError(_reason(error)) from error
        check_ids(header)
        if unknown:
            raise InvalidCommandError("invalid_command", f"unknown field {min(unknown)!r}", header)
        if not isinstance(body, dict):
            raise InvalidCommandError("invalid_command", "no object under 'command'", header)
        kind = body.pop("type", None)
        payload = self._by_snake.get(kind) if isinstance(kind, str) else None
        if payload is None:
            raise InvalidCommandError("unknown_command", f"unknown command {str(kind)[:64]!r}", header)
        if payload is Chat and "text" in body and "content" not in body:
            body["content"] = [{"kind": "text", "text": body.pop("text")}]
        extra = set(body) - {field.name for field in fields(payload)}
        if extra:
            raise InvalidCommandError("invalid_command", f"{kind}: unknown field {min(extra)!r}", header)
        try:
            return header, _validate(payload, body)
        except ValidationError as error:
            raise InvalidCommandError("invalid_command", f"{kind}: {_reason(error)}", header) from error


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
    if isinstance(command, Chat):
        if header.session_id is None:
            raise InvalidCommandError("invalid_command", "chat: session_id is missing", header)
        if command.on_busy not in ON_BUSY:
            raise InvalidCommandError("invalid_command", f"chat: on_busy is one of {', '.join(ON_BUSY)}", header)
        if any(part.kind != "text" for part in command.content):
            raise InvalidCommandError("invalid_command", "chat: only parts of kind 'text' are accepted", header)
        if not "".join(part.text or "" for part in command.content).strip():
            raise InvalidCommandError("empty_text", "chat: the text is empty", header)
        channel = command.new_session.channel if command.new_session else None
        if channel is not None and not _ID.fullmatch(channel):
            raise InvalidCommandError("invalid_command", "chat: new_session.channel is not a valid id", header)
