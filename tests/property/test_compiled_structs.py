"""aiokafka's requests and answers, compiled: the same bytes, the same objects, the same errors."""

import inspect
from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol import fetch, offset, produce
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Int64, Schema, String, TaggedFields
from hypothesis import given, settings
from hypothesis import strategies as st

from turnlog_workers.kafka.compiled_structs import compile_struct

STRUCTS = [
    found
    for module in (produce, fetch, offset)
    for _, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, Struct) and found.__module__ == module.__name__ and found.SCHEMA.fields
]
_BITS = {Int16: 16, Int32: 32, Int64: 64}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of this kind may hold."""
    if isinstance(kind, Schema):
        return st.tuples(*map(values, kind.fields))
    if isinstance(kind, Array):
        return st.none() | st.lists(values(kind.array_of), max_size=3)
    if isinstance(kind, String):
        return st.none() | st.text(max_size=20)
    if kind is Bytes:
        return st.none() | st.binary(max_size=20)
    if kind is Boolean:
        return st.booleans()
    bits = _BITS.get(kind, 8)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def both(cls: type[Struct]) -> tuple[Any, Any]:
    """The class as it is in aiokafka, and one of the same schema that is compiled."""
    schema = {"SCHEMA": cls.SCHEMA}
    plain, compiled = type(f"Plain{cls.__name__}", (Struct,), schema), type(cls.__name__, (Struct,), schema)
    assert compile_struct(compiled)
    return plain, compiled


def told(read: Any) -> Any:
    """What is read, or the error."""
    try:
        return read().__dict__
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_bytes_and_objects_are_those_of_aiokafka(cls: type[Struct], data: st.DataObject) -> None:
    plain, compiled = both(cls)
    fields = data.draw(values(cls.SCHEMA))
    encoded = plain(*fields).encode()
    assert compiled(*fields).encode() == encoded
    before, behind = data.draw(st.binary(max_size=5)), data.draw(st.binary(max_size=5))
    stream = BytesIO(before + encoded + behind)
    stream.seek(len(before))
    decoded = compiled.decode(stream)
    assert type(decoded) is compiled
    assert decoded.__dict__ == plain.decode(encoded).__dict__
    assert stream.read() == behind
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    assert told(lambda: compiled.decode(cut)) == told(lambda: plain.decode(cut))
    assert told(lambda: compiled.decode(BytesIO(cut))) == told(lambda: plain.decode(BytesIO(cut)))


@given(noise=st.binary(max_size=60))
def test_what_is_no_answer_fails_as_before(noise: bytes) -> None:
    plain, compiled = both(produce.ProduceResponse_v8)
    assert told(lambda: compiled.decode(noise)) == told(lambda: plain.decode(noise))


def test_what_cannot_be_sent_fails_as_before() -> None:
    plain, compiled = both(produce.ProduceRequest_v8)
    for fields in ((None, 2**40, 1, []), (None, 1, 1, [("topic",)]), (None, 1, 1, [("topic", [(1, "text")])])):
        with pytest.raises(Exception) as expected:  # noqa: PT011
            plain(*fields).encode()
        with pytest.raises(expected.type) as found:
            compiled(*fields).encode()
        assert str(found.value) == str(expected.value)


def test_a_schema_of_another_kind_stays_as_it_is() -> None:
    flexible = type("Flexible", (Struct,), {"SCHEMA": Schema(("tags", TaggedFields))})
    assert not compile_struct(flexible)
    assert "encode" not in flexible.__dict__
