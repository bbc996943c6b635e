"""The lenient reader on bytes that nobody meant: it never raises, gets further, and stays in its range."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import raw_batches
from tests.raw_batches import Raw
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.batch_codecs import BatchDecodingError, decompress
from turnlog_workers.kafka.record_batches import FetchedBatches, take_apart

raws = st.builds(
    Raw,
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=50),
    headers=st.lists(st.tuples(st.binary(max_size=8), st.none() | st.binary(max_size=8)), max_size=3),
)


def check(data: bytes, start: int, end: int, aborted: tuple[tuple[int, int], ...] = ()) -> None:
    items, after = take_apart(FetchedBatches(data=data, stable_end=end, aborted=aborted), start, end)
    assert start <= after <= end
    expected = start
    for item in items:
        first, last = (item.first, item.last) if isinstance(item, UnreadableRange) else (item.offset, item.offset)
        assert expected <= first <= last < after, "in order, once, and never beyond what is said to be read"
        expected = last + 1


@settings(max_examples=700)
@given(data=st.binary(max_size=300), start=st.integers(0, 50), length=st.integers(1, 50))
def test_random_bytes(data: bytes, start: int, length: int) -> None:
    check(data, start, start + length)


@settings(max_examples=400)
@given(
    groups=st.lists(st.lists(raws, min_size=1, max_size=4), min_size=1, max_size=4),
    attributes=st.integers(0, 0x3F),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4),
    cut=st.integers(0, 40),
    start=st.integers(0, 8),
    length=st.integers(1, 20),
)
def test_damaged_batches(
    groups: list[list[Raw]],
    attributes: int,
    flips: list[tuple[int, int]],
    cut: int,
    start: int,
    length: int,
) -> None:
    data, base = bytearray(), 0
    for records in groups:
        data += raw_batches.batch(records, base=base, attributes=attributes, producer=(base % 2, 0, 0))
        base += len(records)
    for place, bits in flips:
        data[place % len(data)] ^= bits
    check(bytes(data[: len(data) - cut]), start, start + length, aborted=((0, 0),))


@settings(max_examples=400)
@given(payload=st.binary(max_size=200), attributes=st.integers(0, 7), count=st.integers(-3, 2**31 - 1))
def test_records_that_are_anything_under_a_right_checksum(payload: bytes, attributes: int, count: int) -> None:
    data = bytearray(raw_batches.batch([Raw(key=b"", value=b"")] * 3, base=2, attributes=attributes, payload=payload))
    struct.pack_into(">i", data, 57, count)
    struct.pack_into(">I", data, 17, raw_batches.calc_crc32c(bytes(data[21:])))
    check(bytes(data), 2, 5)


@settings(max_examples=400)
@given(codec=st.integers(0, 7), data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x82SNAPPY\0", b"\x1f\x8b"]))
def test_decompression_raises_nothing_else(codec: int, data: bytes, head: bytes) -> None:
    try:
        found = decompress(codec, head + data, limit=10_000)
    except BatchDecodingError:
        return
    assert len(found) <= 10_000
