"""Records to bytes and back.

Two framings: Avro single-object encoding (``C3 01``, fingerprint, body) and, for requests and their replies, plain
JSON (``{``). Confluent framing (``00`` and an id) is recognised and refused with a sentence.
"""

import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

from fastavro import schemaless_reader
from fastavro.schema import parse_schema

from turnlog_schemas.avro_reader import Reader, framed_reader, skimmer
from turnlog_schemas.avro_writer import framed_writer, record_writer
from turnlog_schemas.commands import (
    Chat,
    RequestHeader,
)
from turnlog_schemas.errors import InvalidCommandError, UndecodableError, UnknownFingerprintError
from turnlog_schemas.json_address import json_address
from turnlog_schemas.json_text import RepeatedKeyError, TooManyValuesError, check_encoding, is_json, json_object
from turnlog_schemas.json_values import MisfitError, field_readers, record_reader
from turnlog_schemas.mapping import avro_fields, from_dict, jsonable, to_dict
from turnlog_schemas.registry import COMMANDS, Family, Registry, Schema, packaged
from turnlog_schemas.request_checks import answerable, check_command, check_ids
from turnlog_schemas.shorthands import spell_out
from turnlog_schemas.type_names import snake

AVRO_MAGIC = b"\xc3\x01"
FRAMING_AVRO = "avro"
FRAMING_JSON = "json"
CONTENT_TYPES = {FRAMING_AVRO: "application/avro", FRAMING_JSON: "application/json"}
_CHAT_FIELDS = frozenset(field.name for field in fields(Chat))
_ADDRESS = frozenset({"session_id", "channel", "request_id", "reply_to"})  #: what an answer needs
_EASY_BYTES = 64 * 1024  #: a request below takes no time, whatever is in it
#: Of a longer one, by the Avro reader: some 20 ms. A chat of as many parts as it may have takes half of them.
_MAX_READS = 100_000
_MAX_START_BYTES = 64 * 1024  #: the common fields of a record that is too long are in these, or nobody is answered
_to_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # one encoder: it is costly to make


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownPayload:
    """A record type that this version does not know, as its writer's schema reads it."""

    name: str
    fields: Mapping[str, Any]


def encoded_bytes(record: Any, framing: str) -> int:
    """How many bytes a record takes inside of another one."""
    cls: type = record.__class__
    if framing == FRAMING_JSON:
        return len(_to_json_text(to_dict(cls)(record)).encode())
    return len(record_writer(cls)(record))


def is_foreign(value: bytes) -> bool:
    """Is this no record of any version of ours? Where only Avro is written (events), its framing tells."""
    return value[:2] != AVRO_MAGIC


class Codec:
    """Encodes and decodes the records of one family (``avro`` is the authority, in the tests)."""

    def __init__(self, family: Family, registry: Registry | None = None) -> None:
        self.family = family
        self.registry = registry or packaged()
        self._header_dict = to_dict(family.header)
        self._header_from = from_dict(family.header)
        self._header_readers: dict[str, Any] = {}
        self._writers: dict[type, Callable[[Any, Any], bytes]] = {}
        self._bounded = family is COMMANDS  #: anybody's: how many values are read of one is bounded
        self._own_readers: dict[bytes, Reader] = {}  #: of what this version writes, by its first bytes
        self._own_types: dict[bytes, type] = {}  #: the same, their types
        self._readers: dict[str, type] = {payload.__name__: payload for payload in family.payloads}
        self._by_snake = {snake(name): payload for name, payload in self._readers.items()}
        for payload in family.payloads:
            schema = self.registry.current(family.name, payload.__name__)
            if schema is None:
                raise LookupError(f"no schema for {family.name}.{payload.__name__}")
            prefix = AVRO_MAGIC + schema.fingerprint
            self._writers[payload] = framed_writer(prefix, family.header, payload)
            self._own_readers[prefix] = framed_reader(family.header, payload)
            self._own_types[prefix] = payload

    def encode(self, header: Any, payload: Any) -> bytes:
        """Single-object encoding of a record."""
        return self._writers[payload.__class__](header, payload)

    def decode(self, data: bytes) -> tuple[Any, Any]:
        """Header and payload. Unknown types come back as :class:`UnknownPayload`.

        Raises :class:`UnknownFingerprintError` or :class:`UndecodableError`.
        """
        read = self._own_readers.get(data[:10])
        if read is not None and (len(data) <= _EASY_BYTES or not self._bounded):
            try:
                return read(data)
            except Exception:  # whatever an odd record drives it into: the library has the last word
                return self._decode_with_library(data)
        return self._decode_with_library(data)

    def skimmer(self, into: type, *, but: Collection[type] = ()) -> Callable[[bytes], Any]:
        """What reads some numbers of a header alone (the fields of ``into``): a fraction of what a record costs.

        It gives ``None`` for what has to be decoded: records of the types ``but``, and what another version wrote.
        """
        skim = skimmer(self.family.header, into)
        kept = frozenset(prefix for prefix, of in self._own_types.items() if of not in but)

        def skimmed(data: bytes) -> Any:
            if data[:10] not in kept:
                return None
            try:
                return skim(data)
            except Exception:  # an odd record: whoever decodes it says what it is
                return None

        return skimmed

    def _decode_with_library(self, data: bytes) -> tuple[Any, Any]:
        """Of any version, and what is odd."""
        if data[:2] != AVRO_MAGIC or len(data) < 10:
            raise not_single_object(data)
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
        top = json_object(data, repeated_keys=True)
        body = top.pop(self.family.json_key, None)
        if not isinstance(body, dict):
            raise UndecodableError(f"no object under {self.family.json_key!r}")
        payload = self._by_snake.get(str(body.pop("type", "")))
        if payload is None:
            raise UndecodableError(f"unknown {self.family.json_key} type")
        try:
            return record_reader(self.family.header, closed=False)(top), record_reader(payload, closed=False)(body)
        except MisfitError as error:
            raise UndecodableError(str(error)) from error


def not_single_object(data: bytes) -> UndecodableError:
    """The error for bytes of another framing."""
    return UndecodableError(f"not an Avro single-object record: starts with {data[:4].hex() or 'nothing'}")


def _read_start(data: bytes, schema: Schema, reader: Any) -> Any:
    """The common fields alone, of a record that is not read. Raises :class:`UndecodableError`."""
    raw = json.loads(schema.text)
    wanted = {field.name for field in fields(RequestHeader)}
    raw["fields"] = list(takewhile(lambda field: field["name"] in wanted, raw["fields"]))
    buffer = io.BytesIO(data[10:_MAX_START_BYTES])
    try:
        return schemaless_reader(buffer, parse_schema(raw, named_schemas={}), reader)
    except Exception as error:  # as in _read_body
        raise UndecodableError(f"{schema.name}: no common fields ({type(error).__name__})") from error


class _BoundedBytes(io.BytesIO):
    """Bytes that stop a reader who takes too many values out of them."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise TooManyValuesError("more values than the largest request has")
        return super().read(size)


def _read_body(data: bytes, schema: Schema, reader: Any) -> Any:
    """The fields of a single-object record, all of its bytes used. Raises :class:`UndecodableError`."""
    bounded = schema.family == COMMANDS.name and len(data) > _EASY_BYTES
    buffer = _BoundedBytes(data) if bounded else io.BytesIO(data)
    buffer.seek(10)
    try:
        plain = schemaless_reader(buffer, schema.parsed, reader)
    except TooManyValuesError:
        raise
    except Exception as error:  # the reader raises whatever bytes drive it into; all of it means the same
        raise UndecodableError(f"{schema.name}: the Avro body cannot be read ({type(error).__name__})") from error
    if buffer.tell() != len(data):
        raise UndecodableError(f"{schema.name}: {len(data) - buffer.tell()} bytes follow the Avro body")
    return plain


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
        if is_json(data):
            header, command = self._decode_json(data)
            framing = FRAMING_JSON
        elif data[:2] == AVRO_MAGIC:
            try:
                header, command = self.decode(data)
            except TooManyValuesError as error:
                raise self._refused_unread(data, str(error)) from error
            framing = FRAMING_AVRO
        else:
            raise _of_no_framing(data)
        check_ids(header)
        if isinstance(command, UnknownPayload):
            raise InvalidCommandError("unknown_command", f"unknown command {snake(command.name)[:64]!r}", header)
        check_command(header, command)
        return header, command, framing

    def _decode_json(self, data: bytes) -> tuple[RequestHeader, Any]:
        """Raises :class:`UndecodableError` where the ids are wrong: then nobody can be answered."""
        repeated: str | None = None
        try:
            top = json_object(data)
        except TooManyValuesError as error:
            raise self._refused_unread(data, str(error)) from error
        except RepeatedKeyError as error:
            repeated = error.key
            if repeated in _ADDRESS:
                raise UndecodableError(f"{repeated} is there twice") from error
            top = json_object(data, repeated_keys=True)
        body = top.pop("command", None)
        header, wrong = _header_of(top)
        if repeated is not None:
            wrong = f"field {repeated[:64]!r} is there twice"
        if wrong is not None:
            raise InvalidCommandError("invalid_command", wrong, header)
        if not isinstance(body, dict):
            raise InvalidCommandError("invalid_command", "no object under 'command'", header)
        kind = body.pop("type", None)
        payload = self._by_snake.get(kind) if isinstance(kind, str) else None
        if payload is None:
            what = repr(kind[:64]) if isinstance(kind, str) else f"of type {type(kind).__name__}"
            raise InvalidCommandError("unknown_command", f"unknown command {what}", header)
        spell_out(body)
        if payload is Chat and "content" not in body:
            misspelt = next((name for name in body if name not in _CHAT_FIELDS), None)
            if misspelt is not None:
                raise InvalidCommandError("invalid_command", f"chat: unknown field {misspelt[:64]!r}", header)
            if not body.get("tool_outputs"):
                raise InvalidCommandError("empty_text", "chat: neither text nor content", header)
            body["content"] = []
        try:
            return header, record_reader(payload)(body)
        except MisfitError as error:
            raise InvalidCommandError("invalid_command", f"{kind}: {error}", header) from error

    def _refused_unread(self, data: bytes, reason: str) -> UndecodableError | InvalidCommandError:
        header = self.address(data)
        return UndecodableError(reason) if header is None else InvalidCommandError("too_long", reason, header)

    def address(self, data: bytes) -> RequestHeader | None:
        """Whom a request is for and who wants the answer, of one that is too long to be read. ``None``: not found.

        It costs a few milliseconds at the most, whatever the bytes are.
        """
        try:
            if is_json(data):
                header, _ = _header_of(json_address(data, _ADDRESS))
            elif data[:2] == AVRO_MAGIC and (schema := self.registry.find(data[2:10])) and schema.family == "commands":
                header = self._header_from(_read_start(data, schema, self._header_reader(schema.name)))
            else:
                return None
            check_ids(header)
        except UndecodableError:
            return None
        return answerable(header)


def _of_no_framing(data: bytes) -> UndecodableError:
    """What bytes are that are neither JSON nor Avro."""
    try:
        check_encoding(data)
    except UndecodableError as error:
        return error
    if data[:1] == b"\x00":
        return UndecodableError(
            "Confluent framing (00 and a schema id) needs a schema registry, which is not supported: "
            "send Avro single-object encoding or JSON"
        )
    return not_single_object(data)


def _header_of(top: dict[str, Any]) -> tuple[RequestHeader, str | None]:
    """The common fields that can be read, and what is wrong with the others.

    Raises :class:`UndecodableError` when the ids are wrong: then nobody can be answered.
    """
    readers = field_readers(RequestHeader)
    good: dict[str, Any] = {}
    wrong: str | None = None
    for name, value in top.items():
        reader = readers.get(name)
        if reader is None:
            wrong = wrong or f"unknown field {name[:64]!r}"
            continue
        try:
            good[name] = reader(value)
        except MisfitError as error:
            if name in ("session_id", "channel"):
                raise UndecodableError(str(error.within(name))) from error
            wrong = wrong or str(error.within(name))
    header = RequestHeader(**good)
    check_ids(header)
    return header, wrong
