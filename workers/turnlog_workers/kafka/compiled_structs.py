"""aiokafka's requests and answers to bytes and back, compiled once per class: each turn has some of both.

aiokafka packs and reads each field through calls of its own, some two hundred for a fetch of twelve partitions. What is
compiled here makes the same bytes and the same objects; whatever it cannot take goes the old way, and fails there as it
always did.
"""

import inspect
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from aiokafka.protocol import api, fetch, offset, produce
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Boolean, Bytes, Float64, Int8, Int16, Int32, Int64, Schema, String, UInt32

_FORMATS: dict[Any, str] = {
    Int8: "b",
    Int16: "h",
    Int32: "i",
    UInt32: "I",
    Int64: "q",
    Float64: "d",
    Boolean: "?",
}
_DONE = "_turnlog_compiled"


def compile_structs() -> None:
    """Compile what a worker's turns need, for all of aiokafka's clients of this process. A second call does nothing."""
    for module in (produce, fetch, offset):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Struct) and found.__module__ == module.__name__:
                compile_struct(found)
    compile_struct(api.RequestHeader_v1)
    compile_struct(api.ResponseHeader_v0)


def compile_struct(cls: type[Struct]) -> bool:
    """Give a class its compiled ``encode`` and ``decode``. False: its schema has what we do not know; it stays."""
    if _DONE in cls.__dict__:
        return True
    if not _is_known(cls.SCHEMA):
        return False
    made: Any = cls
    made.encode, made.decode = _encoder(cls), classmethod(_decoder(cls))
    setattr(made, _DONE, True)
    return True


def _is_known(kind: Any) -> bool:
    if isinstance(kind, Schema):
        return all(_is_known(field) for field in kind.fields)
    if isinstance(kind, Array):
        return _is_known(kind.array_of)
    return kind is Bytes or type(kind) is String or kind in _FORMATS


def _encoder(cls: type[Struct]) -> Callable[[Struct], bytes]:
    source = _Source()
    source.line(0, f"values = [{', '.join(f'known[{name!r}]' for name in cls.SCHEMA.names)}]")
    source.write_fields(0, cls.SCHEMA, "values")
    write = source.function("write(known, out)", "")
    as_before: Callable[[Struct], bytes] = cls.encode

    def encode(self: Struct) -> bytes:
        parts: list[bytes] = []
        try:
            write(self.__dict__, parts.append)
            return b"".join(parts)
        except Exception:  # nothing is sent yet: what is wrong with it comes to light there
            return as_before(self)

    return encode


def _decoder(cls: type[Struct]) -> Callable[[Any, BytesIO | bytes], Struct]:
    source = _Source()
    names = source.read_fields(0, cls.SCHEMA)
    fields = ", ".join(f"{name!r}: {found}" for name, found in zip(cls.SCHEMA.names, names, strict=True))
    read = source.function("read(data, at)", f"{{{fields}}}, at")
    as_before = cls.decode.__func__

    def decode(kind: Any, data: BytesIO | bytes) -> Any:
        if kind is not cls:
            return as_before(kind, data)
        start = 0 if isinstance(data, bytes) else data.tell()
        try:
            fields, end = read(data if isinstance(data, bytes) else data.getvalue(), start)
        except Exception:  # what is wrong with it comes to light there
            return as_before(kind, data)
        if not isinstance(data, bytes):
            data.seek(end)
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    return decode


class _Source:
    """A function that is being written."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names: dict[str, Any] = {"no_size": b"\xff\xff\xff\xff", "no_short_size": b"\xff\xff"}
        self._count = 0

    def line(self, depth: int, text: str) -> None:
        self._lines.append("    " * (depth + 1) + text)

    def function(self, head: str, result: str) -> Callable[..., Any]:
        source = "\n".join([f"def {head}:", *self._lines, f"    return {result}"])
        exec(source, self._names)
        made: Callable[..., Any] = self._names[head.partition("(")[0]]
        return made

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _struct(self, formats: str) -> tuple[str, int]:
        """The name of a struct of these formats, and its size."""
        name, made = f"struct_{formats.replace('?', '_')}", struct.Struct(">" + formats)
        self._names |= {f"{name}_pack": made.pack, f"{name}_unpack": made.unpack_from}
        return name, made.size

    # ---- writing

    def write_fields(self, depth: int, schema: Schema, values: str) -> None:
        """Write the fields of a schema, whose values are in the sequence of that name."""
        self.line(depth, f"if len({values}) != {len(schema.fields)}: raise ValueError")
        for first, kinds in _runs(schema):
            if kinds[0] in _FORMATS:
                name, _ = self._struct("".join(_FORMATS[kind] for kind in kinds))
                given = ", ".join(f"{values}[{first + index}]" for index in range(len(kinds)))
                self.line(depth, f"out({name}_pack({given}))")
            else:
                self._write(depth, kinds[0], f"{values}[{first}]")

    def _write(self, depth: int, kind: Any, value: str) -> None:
        if kind in _FORMATS:
            self.line(depth, f"out({self._struct(_FORMATS[kind])[0]}_pack({value}))")
            return
        if isinstance(kind, Schema):
            self.write_fields(depth, kind, value)
            return
        size_format, missing = ("h", "no_short_size") if isinstance(kind, String) else ("i", "no_size")
        pack = f"{self._struct(size_format)[0]}_pack"
        name = self._name("value")
        self.line(depth, f"{name} = {value}")
        self.line(depth, f"if {name} is None: out({missing})")
        self.line(depth, "else:")
        if isinstance(kind, String):
            self.line(depth + 1, f"{name} = str({name}).encode({kind.encoding!r})")
        self.line(depth + 1, f"out({pack}(len({name})))")
        if isinstance(kind, Array):
            item = self._name("item")
            self.line(depth + 1, f"for {item} in {name}:")
            self._write(depth + 2, kind.array_of, item)
        else:
            self.line(depth + 1, f"out({name})")

    # ---- reading

    def read_fields(self, depth: int, schema: Schema) -> list[str]:
        """Read the fields of a schema; the names of variables that hold them then."""
        found: list[str] = []
        for _, kinds in _runs(schema):
            if kinds[0] in _FORMATS:
                name, size = self._struct("".join(_FORMATS[kind] for kind in kinds))
                names = [self._name("field") for _ in kinds]
                self.line(depth, f"{', '.join(names)}, = {name}_unpack(data, at)")
                self.line(depth, f"at += {size}")
                found += names
            else:
                found.append(self._read(depth, kinds[0]))
        return found

    def _read(self, depth: int, kind: Any) -> str:
        if kind in _FORMATS or isinstance(kind, Schema):
            fields = self.read_fields(depth, kind if isinstance(kind, Schema) else Schema(("", kind)))
            return f"({', '.join(fields)},)" if isinstance(kind, Schema) else fields[0]
        name, size = self._name("field"), self._name("size")
        unpack, size_bytes = self._struct("h" if isinstance(kind, String) else "i")
        self.line(depth, f"{size}, = {unpack}_unpack(data, at)")
        self.line(depth, f"at += {size_bytes}")
        if isinstance(kind, Array):
            self.line(depth, f"{name} = None if {size} == -1 else []")
            self.line(depth, f"for _ in range({size}):")
            item = self._read(depth + 1, kind.array_of)
            self.line(depth + 1, f"{name}.append({item})")
            return name
        self.line(depth, f"if {size} < 0: {name} = None")
        self.line(depth, "else:")
        self.line(depth + 1, f"{name} = data[at:at + {size}]")
        self.line(depth + 1, f"if len({name}) != {size}: raise ValueError")
        self.line(depth + 1, f"at += {size}")
        if isinstance(kind, String):
            self.line(depth + 1, f"{name} = {name}.decode({kind.encoding!r})")
        return name


def _runs(schema: Schema) -> Iterator[tuple[int, list[Any]]]:
    """The fields of a schema with the index of each: numbers that follow each other together, others alone."""
    run: list[Any] = []
    for index, kind in enumerate(schema.fields):
        if kind in _FORMATS:
            run.append(kind)
            continue
        if run:
            yield index - len(run), run
            run = []
        yield index, [kind]
    if run:
        yield len(schema.fields) - len(run), run
