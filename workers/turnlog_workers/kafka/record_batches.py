"""Record batches as the broker stores them (format 2), taken apart with patience: what one record cannot say costs no
other one.

The client libraries give up a whole fetch for one record that they cannot read, for ever. This reader is for the place
where they did. The layout is in Kafka's documentation, "Message Format".
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiokafka.record.util import calc_crc32c

from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.batch_codecs import BatchDecodingError, decompress

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">qi")  #: base offset and length: what is before the part that the length counts
_CRC_START = struct.calcsize(">qiibI")
_MAGIC = 2
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_ABORT = 0  #: type of a control record
_MAX_VARINT_BYTES = 10
_MAX_HEADERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LenientRecord:
    """A record; ``problem`` says what is wrong with it, if anything.

    Of a header key that is not UTF-8 each byte that does not fit is written as ``\\xNN``. A record whose fields cannot
    be told apart has all of its bytes as its value.
    """

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBatches:
    """What the broker answered to one fetch of a partition."""

    data: bytes
    stable_end: int  #: the last stable offset: behind it a transaction is open
    aborted: Sequence[tuple[int, int]] = ()  #: producer id and first offset of each aborted transaction in ``data``


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    base: int
    end: int  #: offset behind its last record
    attributes: int
    producer_id: int
    count: int
    records: bytes  #: as they are in the batch: compressed or not
    problem: str | None = None


def take_apart(fetched: FetchedBatches, start: int, end: int) -> tuple[list[LenientRecord | UnreadableRange], int]:
    """What ``fetched`` has of the offsets from ``start`` to ``end`` (exclusive), in order, and where to go on.

    Markers and aborted records are ignored. Never raises, whatever the bytes are, and always gets further where
    ``fetched`` has anything of the range.
    """
    found: list[LenientRecord | UnreadableRange] = []
    aborted = sorted(fetched.aborted, key=lambda transaction: transaction[1])
    aborting: set[int] = set()
    position = start
    for batch in _batches(fetched):
        while aborted and aborted[0][1] <= batch.base:
            aborting.add(aborted.pop(0)[0])
        if batch.problem is None and batch.attributes & _CONTROL:
            if _is_abort(batch):
                aborting.discard(batch.producer_id)
        elif batch.problem is None and batch.attributes & _TRANSACTIONAL and batch.producer_id in aborting:
            pass
        else:
            # The checksum does not cover where a batch begins: one that begins too early has nothing to say of offsets
            # that others have spoken for.
            found.extend(
                _clipped(item, position, end)
                for item in _items(batch)
                if _last(item) >= position and _first(item) < end
            )
        position = max(position, batch.end)
        if position >= end:
            break
    return found, min(position, end)


def _first(item: LenientRecord | UnreadableRange) -> int:
    return item.first if isinstance(item, UnreadableRange) else item.offset


def _last(item: LenientRecord | UnreadableRange) -> int:
    return item.last if isinstance(item, UnreadableRange) else item.offset


def _clipped(item: LenientRecord | UnreadableRange, start: int, end: int) -> LenientRecord | UnreadableRange:
    if isinstance(item, LenientRecord):
        return item
    return UnreadableRange(first=max(item.first, start), last=min(item.last, end - 1), reason=item.reason)


def _batches(fetched: FetchedBatches) -> Iterator[_Batch]:
    """The complete batches; a fetch may cut the last one short."""
    data, place = fetched.data, 0
    while len(data) - place >= _LENGTH.size:
        base, length = _LENGTH.unpack_from(data, place)
        after = place + _LENGTH.size + length
        if length < _HEADER.size - _LENGTH.size or after > len(data):
            if place == 0:  # the broker sends the first one in full: this is none
                yield _broken(base, fetched.stable_end, "the batch's length is wrong")
            return
        following = _LENGTH.unpack_from(data, after)[0] if len(data) - after >= _LENGTH.size else None
        yield _batch(data[place:after], fetched.stable_end if following is None else following)
        place = after


def _broken(base: int, end: int, problem: str) -> _Batch:
    return _Batch(
        base=base, end=max(end, base + 1), attributes=0, producer_id=-1, count=0, records=b"", problem=problem
    )


def _batch(data: bytes, limit: int) -> _Batch:
    """``limit``: its records are below this offset."""
    base, _, _, magic, crc, attributes, last_delta, _, _, producer_id, _, _, count = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        return _broken(base, limit, f"the batch is of format {magic}")
    if calc_crc32c(data[_CRC_START:]) != crc:
        # What the header says is as little worth as the rest: where the next one begins is all that is known.
        return _broken(base, limit, "the batch's checksum is wrong")
    if not 0 <= last_delta < limit - base:
        return _broken(base, limit, "the batch claims offsets that are not its own")
    return _Batch(
        base=base,
        end=base + last_delta + 1,
        attributes=attributes,
        producer_id=producer_id,
        count=count,
        records=data[_HEADER.size :],
    )


def _items(batch: _Batch) -> Iterator[LenientRecord | UnreadableRange]:
    """The records of a batch; where they end too early, the range of the rest."""
    expected, reason = batch.base, batch.problem
    if reason is None:
        try:
            reader = _Reader(decompress(batch.attributes & 0x07, batch.records))
            for _ in range(batch.count):
                record = reader.record(batch.base)
                if not expected <= record.offset < batch.end:
                    raise BatchDecodingError("its offsets are out of order")
                yield record
                expected = record.offset + 1
        except BatchDecodingError as error:
            reason = f"the batch cannot be taken apart: {error}"
    if reason is not None and expected < batch.end:
        yield UnreadableRange(first=expected, last=batch.end - 1, reason=reason)


def _is_abort(batch: _Batch) -> bool:
    try:
        key = _Reader(batch.records).record(batch.base).key or b""
        return len(key) >= 4 and struct.unpack_from(">HH", key)[1] == _ABORT
    except BatchDecodingError:
        return False


class _Reader:
    """Reads records one after the other. Raises :class:`BatchDecodingError` where the bytes end or lie."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def record(self, base: int) -> LenientRecord:
        length = self._varint()
        start, self._place = self._place, self._place + length
        if length < 0 or self._place > len(self._data):
            raise BatchDecodingError("a record is longer than the batch")
        return _Reader(self._data[start : self._place])._fields(base)

    def _fields(self, base: int) -> LenientRecord:
        """These bytes are one record's."""
        self._place = 1  # attributes: none is defined
        self._varint()  # timestamp
        offset = base + self._varint()
        try:
            key, value = self._bytes(), self._bytes()
            headers, problem = self._headers()
            if self._place != len(self._data):
                raise BatchDecodingError("something follows its last header")
        except BatchDecodingError as error:
            problem = f"the record cannot be taken apart: {error}"
            return LenientRecord(offset=offset, key=None, value=self._data, problem=problem)
        return LenientRecord(offset=offset, key=key, value=value, headers=headers, problem=problem)

    def _headers(self) -> tuple[tuple[tuple[str, bytes | None], ...], str | None]:
        """The headers, and what is wrong with them."""
        count, problem = self._varint(), None
        if not 0 <= count <= _MAX_HEADERS:
            raise BatchDecodingError(f"it claims {count} headers")
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name = self._bytes()
            if name is None:
                raise BatchDecodingError("a header has no key")
            try:
                text = name.decode()
            except UnicodeDecodeError:
                text = name.decode(errors="backslashreplace")
                problem = f"the key of a header is not UTF-8: {text[:100]}"
            headers.append((text, self._bytes()))
        return tuple(headers), problem

    def _varint(self) -> int:
        """A zigzag number of at most 64 bits."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            if self._place >= len(self._data):
                raise BatchDecodingError("its bytes end too early")
            byte = self._data[self._place]
            self._place += 1
            value |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                return (value >> 1) ^ -(value & 1)
        raise BatchDecodingError("a number has too many digits")

    def _bytes(self) -> bytes | None:
        length = self._varint()
        if length < 0:
            return None
        start, self._place = self._place, self._place + length
        if self._place > len(self._data):
            raise BatchDecodingError("its bytes end too early")
        return self._data[start : self._place]
