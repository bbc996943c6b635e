"""Batches taken apart leniently: what is bad becomes one item, and its neighbours are read."""

import struct
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec as aiokafka_codec
from aiokafka.record import default_records, memory_records
from aiokafka.record._crecords import memory_records as native_memory_records
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords as KafkaPythonRecords

from tests import raw_batches
from tests.raw_batches import Raw
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka import batch_codecs
from turnlog_workers.kafka.batch_codecs import BatchDecodingError, bound_aiokafka, decompress
from turnlog_workers.kafka.kafka_python import bound_kafka_python
from turnlog_workers.kafka.record_batches import FetchedBatches, LenientRecord, take_apart

COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    1: aiokafka_codec.gzip_encode,
    2: aiokafka_codec.snappy_encode,
    3: aiokafka_codec.lz4_encode,
    4: aiokafka_codec.zstd_encode,
}
TRANSACTIONAL, CONTROL = 0x10, 0x20
GOOD = [Raw(key=b"k%d" % n, value=b"v%d" % n * 100, headers=[(b"h", b"%d" % n), (b"none", None)]) for n in range(5)]
BAD_HEADER = Raw(key=b"bad", value=b"value", headers=[(b"caf\xe9", b"1"), (b"fine", b"2")])


def fetched(*batches: bytes, end: int = 1_000, aborted: tuple[tuple[int, int], ...] = ()) -> FetchedBatches:
    return FetchedBatches(data=b"".join(batches), stable_end=end, aborted=aborted)


def payload(records: list[Raw]) -> bytes:
    return b"".join(raw_batches.record(delta, raw) for delta, raw in enumerate(records))


def marker(base: int, producer: int, *, commit: bool) -> bytes:
    key, value = struct.pack(">HH", 0, int(commit)), struct.pack(">Hi", 0, 0)
    record = Raw(key=key, value=value)
    return raw_batches.batch([record], base=base, attributes=TRANSACTIONAL | CONTROL, producer=(producer, 0, -1))


def offsets(items: list[LenientRecord | UnreadableRange]) -> list[int | tuple[int, int]]:
    return [(item.first, item.last) if isinstance(item, UnreadableRange) else item.offset for item in items]


@pytest.mark.parametrize("codec", [0, *COMPRESS])
def test_a_good_batch_is_read_as_aiokafka_reads_it(codec: int) -> None:
    data = payload(GOOD)
    batch = raw_batches.batch(GOOD, base=10, attributes=codec, payload=COMPRESS[codec](data) if codec else data)
    items, after = take_apart(fetched(batch), 10, 100)
    assert after == 15
    for module in (memory_records._MemoryRecordsPy, native_memory_records.MemoryRecords):
        theirs = [(r.offset, r.key, r.value, tuple(r.headers)) for r in module(batch).next_batch()]
        assert [(r.offset, r.key, r.value, r.headers) for r in items if isinstance(r, LenientRecord)] == theirs
    assert not any(item.problem for item in items if isinstance(item, LenientRecord))


@pytest.mark.parametrize("codec", [0, *COMPRESS])
def test_a_header_key_that_is_not_utf8_is_said_of_its_record_alone(codec: int) -> None:
    records = [*GOOD[:2], BAD_HEADER, *GOOD[2:]]
    data = payload(records)
    batch = raw_batches.batch(records, base=10, attributes=codec, payload=COMPRESS[codec](data) if codec else data)
    items, after = take_apart(fetched(batch), 10, 100)
    assert offsets(items) == [10, 11, 12, 13, 14, 15]
    assert after == 16
    bad = items.pop(2)
    assert isinstance(bad, LenientRecord)
    assert (bad.key, bad.value) == (b"bad", b"value")
    assert bad.headers == (("caf\\xe9", b"1"), ("fine", b"2"))
    assert bad.problem == "the key of a header is not UTF-8: caf\\xe9"
    assert not any(item.problem for item in items if isinstance(item, LenientRecord))


def test_only_what_is_asked_for() -> None:
    batches = [raw_batches.batch(GOOD, base=base) for base in (0, 5, 10)]
    items, after = take_apart(fetched(*batches), 3, 11)
    assert offsets(items) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert after == 11
    items, after = take_apart(fetched(batches[0], batches[1][:-1]), 0, 11)
    assert (offsets(items), after) == ([0, 1, 2, 3, 4], 5), "the broker cuts the last one short: fetch again"


@pytest.mark.parametrize("place", [17, 21, 23, 57, 61, 70, -1])
def test_a_damaged_batch_is_lost_as_a_whole_and_the_next_one_is_read(place: int) -> None:
    """Checksum, attributes, last offset delta, count, records: any byte that the checksum covers."""
    damaged = bytearray(raw_batches.batch(GOOD, base=5))
    damaged[place] ^= 0x41
    items, after = take_apart(fetched(raw_batches.batch(GOOD), bytes(damaged), raw_batches.batch(GOOD, base=10)), 0, 20)
    assert offsets(items) == [0, 1, 2, 3, 4, (5, 9), 10, 11, 12, 13, 14]
    assert after == 15
    lost = items[5]
    assert isinstance(lost, UnreadableRange)
    assert lost.reason == "the batch's checksum is wrong"


def test_a_damaged_batch_at_the_end_reaches_to_the_stable_end_and_no_further() -> None:
    damaged = bytearray(raw_batches.batch(GOOD, base=5))
    damaged[-1] ^= 1
    items, after = take_apart(fetched(bytes(damaged), end=8), 6, 8)
    assert (offsets(items), after) == ([(6, 7)], 8)


@pytest.mark.parametrize("codec", [*COMPRESS, 5, 7])
def test_records_that_cannot_be_decompressed_are_lost(codec: int) -> None:
    broken = raw_batches.batch(GOOD, base=5, attributes=codec, payload=b"this is none of it")
    items, after = take_apart(fetched(broken, raw_batches.batch(GOOD, base=10)), 5, 15)
    assert offsets(items) == [(5, 9), 10, 11, 12, 13, 14]
    assert after == 15
    lost = items[0]
    assert isinstance(lost, UnreadableRange)
    assert lost.reason.startswith("the batch cannot be taken apart: ")


def test_records_before_the_place_where_a_batch_breaks_are_read() -> None:
    data = payload(GOOD)[:-10]
    items, after = take_apart(fetched(raw_batches.batch(GOOD, base=5, payload=data)), 5, 10)
    assert (offsets(items), after) == ([5, 6, 7, 8, (9, 9)], 10)


def test_a_record_whose_fields_lie_is_kept_with_its_bytes() -> None:
    body = b"\0" + raw_batches.varint(0) + raw_batches.varint(1) + raw_batches.varint(99) + b"short"
    lying = raw_batches.varint(len(body)) + body
    data = raw_batches.record(0, GOOD[0]) + lying + raw_batches.record(2, GOOD[1])
    items, _ = take_apart(fetched(raw_batches.batch(GOOD[:3], payload=data)), 0, 3)
    assert offsets(items) == [0, 1, 2]
    bad = items[1]
    assert isinstance(bad, LenientRecord)
    assert (bad.key, bad.value) == (None, body)
    assert bad.problem == "the record cannot be taken apart: its bytes end too early"


def test_a_batch_that_claims_too_many_headers_is_no_burden() -> None:
    body = b"\0" + raw_batches.varint(0) * 2 + raw_batches.varint(-1) * 2 + raw_batches.varint(2**40)
    data = raw_batches.varint(len(body)) + body
    (bad,), _ = take_apart(fetched(raw_batches.batch(GOOD[:1], payload=data)), 0, 1)
    assert isinstance(bad, LenientRecord)
    assert bad.problem == f"the record cannot be taken apart: it claims {2**40} headers"


def test_aborted_records_and_markers_are_passed_over() -> None:
    mine = {"attributes": TRANSACTIONAL, "producer": (7, 0, 0)}
    other = {"attributes": TRANSACTIONAL, "producer": (8, 0, 0)}
    bad = raw_batches.batch([BAD_HEADER], base=1, **mine)  # type: ignore[arg-type]
    batches = [
        raw_batches.batch(GOOD[:1], base=0, **mine),  # type: ignore[arg-type]
        bad,
        raw_batches.batch(GOOD[:1], base=2, **other),  # type: ignore[arg-type]
        raw_batches.batch(GOOD[:1], base=3),
        marker(4, 7, commit=False),
        raw_batches.batch(GOOD[:1], base=5, **mine),  # type: ignore[arg-type]
        marker(6, 7, commit=True),
        marker(7, 8, commit=True),
    ]
    items, after = take_apart(fetched(*batches, aborted=((7, 0),)), 0, 8)
    assert (offsets(items), after) == ([2, 3, 5], 8)


@pytest.mark.parametrize("data", [b"", b"\0" * 5, b"\0" * 11])
def test_too_little_is_nothing(data: bytes) -> None:
    assert take_apart(fetched(data), 3, 9) == ([], 3)


@pytest.mark.parametrize("length", [-1, 0, 20, 2**31 - 1])
def test_a_first_batch_of_a_wrong_length_costs_what_was_fetched(length: int) -> None:
    data = struct.pack(">qi", 3, length) + bytes(200)
    items, after = take_apart(fetched(data, end=9), 4, 7)
    assert (offsets(items), after) == ([(4, 6)], 7)


# ---- decompression


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize("size", [0, 1, 1_000, 200_000])
def test_decompression(codec: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    packed = bytes(COMPRESS[codec](data))
    assert decompress(codec, packed) == data
    assert decompress(codec, packed, limit=size) == data
    if size:
        with pytest.raises(BatchDecodingError, match="large"):
            decompress(codec, packed, limit=size - 1)


def test_other_forms_of_the_same_codecs() -> None:
    data = b"hello " * 1000
    assert decompress(2, bytes(cramjam.snappy.compress_raw(data))) == data
    for codec in (1, 3, 4):
        halves = COMPRESS[codec](data[:3000]) + COMPRESS[codec](data[3000:])
        assert decompress(codec, bytes(halves)) == data, "two frames, one after the other"


@pytest.mark.parametrize("codec", COMPRESS)
def test_kafka_python_has_the_bound_too(monkeypatch: pytest.MonkeyPatch, codec: int) -> None:
    """And what is wrong with the data is one kind of error, which its readers know."""
    bound_kafka_python()
    data = raw_batches.record(0, Raw(key=b"k", value=bytes(10_000)))
    batch = raw_batches.batch(GOOD[:1], attributes=codec, payload=COMPRESS[codec](data))
    assert [record.value for record in KafkaPythonRecords(batch).next_batch()] == [bytes(10_000)]
    broken = raw_batches.batch(GOOD[:1], attributes=codec, payload=b"none of its data")
    with pytest.raises(CorruptRecordError, match=r"cannot be decompressed|cut short"):
        list(KafkaPythonRecords(broken).next_batch())
    monkeypatch.setattr(batch_codecs, "MAX_BATCH_BYTES", 9_000)
    with pytest.raises(CorruptRecordError, match="large"):
        list(KafkaPythonRecords(batch).next_batch())


@pytest.mark.parametrize("codec", COMPRESS)
def test_aiokafka_has_the_bound_too(monkeypatch: pytest.MonkeyPatch, codec: int) -> None:
    bound_aiokafka()
    bound_aiokafka()
    data = raw_batches.record(0, Raw(key=b"k", value=bytes(10_000)))
    batch = raw_batches.batch(GOOD[:1], attributes=codec, payload=COMPRESS[codec](data))
    for module in (memory_records._MemoryRecordsPy, native_memory_records.MemoryRecords):
        assert [record.value for record in module(batch).next_batch()] == [bytes(10_000)]
    monkeypatch.setattr(batch_codecs, "MAX_BATCH_BYTES", 9_000)
    for module in (memory_records._MemoryRecordsPy, native_memory_records.MemoryRecords):
        with pytest.raises(BatchDecodingError, match="large"):
            list(module(batch).next_batch())
    assert default_records.gzip_decode.__module__ == "turnlog_workers.kafka.batch_codecs"
