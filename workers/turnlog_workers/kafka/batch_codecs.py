"""Decompression of record batches that ends at a bound: a batch of a kilobyte may hold gigabytes.

Brokers bound batches as they are sent, compressed; what is in them nobody bounds. aiokafka and kafka-python decompress
without a limit, so :func:`bound_aiokafka` and ``kafka_python.bound_kafka_python`` give them these functions; the
lenient reader uses them, too.
"""

import contextlib
import importlib
import mmap
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cramjam

from turnlog_workers.base.config import KIB, MIB

MAX_BATCH_BYTES = 64 * MIB  #: decompressed; producers make batches of some 16 KiB to 1 MiB
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_FIRST_TRY_BYTES = 64 * KIB
_FIRST_TRY_RATIO = 4


class BatchDecodingError(ValueError):
    """The bytes of a batch are not what its codec makes, or too many; the text says which."""


class _TooLargeError(Exception):
    """They are more than was asked for."""


def decompress(codec: int, data: bytes, limit: int | None = None) -> bytes:
    """The records of a batch. ``codec``: the lowest three bits of the batch's attributes.

    Raises :class:`BatchDecodingError`, also when they are more than ``limit`` bytes (absent: ``MAX_BATCH_BYTES``).
    """
    limit = MAX_BATCH_BYTES if limit is None else limit
    if codec == 0:
        return data
    if codec not in _DECODERS:
        raise BatchDecodingError(f"codec {codec} is not known")
    name, decode = _DECODERS[codec]
    try:
        found = decode(data, limit)
    except _TooLargeError as error:
        raise BatchDecodingError(f"it is larger than {limit} bytes when decompressed with {name}") from error
    except BatchDecodingError:
        raise
    except Exception as error:  # each library has errors of its own
        raise BatchDecodingError(f"it cannot be decompressed with {name} ({type(error).__name__})") from error
    if len(found) > limit:
        raise BatchDecodingError(f"it is larger than {limit} bytes when decompressed with {name}")
    return found


def _gzip(data: bytes, limit: int) -> bytes:
    found = b""
    while data and len(found) <= limit:
        member = zlib.decompressobj(wbits=31)
        found += member.decompress(data, limit + 1 - len(found))
        if not member.eof and len(found) <= limit:
            raise BatchDecodingError("its gzip data is cut short")
        data = member.unused_data.lstrip(b"\0")  # padding
    return found


def _snappy(data: bytes, limit: int) -> bytes:
    if not data.startswith(_XERIAL_MAGIC):
        return _snappy_block(data, limit)
    blocks: list[bytes] = []
    position, size = _XERIAL_HEADER_BYTES, 0
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        position += 4
        blocks.append(_snappy_block(data[position : position + length], limit - size))
        size += len(blocks[-1])
        position += length
    return b"".join(blocks)


def _snappy_block(data: bytes, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise _TooLargeError
    return bytes(cramjam.snappy.decompress_raw(data))


def _frames(codec: Any) -> Callable[[bytes, int], bytes]:
    """The frames of one of cramjam's codecs, one behind the other, into a buffer that does not grow."""

    def decode(data: bytes, limit: int) -> bytes:
        if not data:
            return b""
        size = max(_FIRST_TRY_BYTES, _FIRST_TRY_RATIO * len(data))
        if size < limit:
            with contextlib.suppress(cramjam.DecompressionError):  # too small, or wrong: the next try tells
                buffer = bytearray(size)
                return bytes(memoryview(buffer)[: codec.decompress_into(data, buffer)])
        # Only the pages that are written to cost anything.
        with mmap.mmap(-1, max(limit, 1)) as pages:
            try:
                return pages[: codec.decompress_into(data, pages)]
            except cramjam.DecompressionError as error:
                if "whole buffer" in str(error):
                    raise _TooLargeError from error
                raise

    return decode


_DECODERS: Mapping[int, tuple[str, Callable[[bytes, int], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _frames(cramjam.lz4)),
    4: ("zstd", _frames(cramjam.zstd)),
}
#: Their names by their numbers.
CODECS: Mapping[int, str] = {codec: name for codec, (name, _) in _DECODERS.items()}


def bound_aiokafka() -> None:
    """From now on aiokafka decompresses with these functions, in the whole process. Twice does no harm."""
    for codec, (name, _) in _DECODERS.items():

        def decode(payload: bytes | memoryview, codec: int = codec) -> bytes:
            return decompress(codec, bytes(payload))

        # The compiled module, and the one for platforms without it.
        for module in ("aiokafka.record._crecords.default_records", "aiokafka.record.default_records"):
            with contextlib.suppress(ImportError):
                setattr(importlib.import_module(module), f"{name}_decode", decode)
