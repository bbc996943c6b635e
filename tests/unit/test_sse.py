"""The reader of server-sent events: the standard's cases, every way to cut them, and bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog_workers.runners.models.sse import EventTooLargeError, SseEvent, SseReader


def read(*pieces: bytes, max_event_bytes: int = 1000) -> list[SseEvent]:
    reader = SseReader(max_event_bytes=max_event_bytes)
    found = [event for piece in pieces for event in reader.feed(piece)]
    last = reader.end()
    return [*found, last] if last else found


CASES = [
    (b"data: a\n\ndata: b\n\n", ["a", "b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
    (b"data: a\r\rdata: b\r\r", ["a", "b"]),
    (b"data:a\n\n", ["a"]),
    (b"data:  a\n\n", [" a"]),
    (b"data: a\ndata: b\n\n", ["a\nb"]),
    (b": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n", ["a\nb"]),
    (b"id: 7\nretry: 10\nevent: x\ndata: a\n\n", ["a"]),
    (b"event: x\n\ndata: a\n\n", ["a"]),
    (b"data\n\ndata:\n\n", ["", ""]),
    (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
    (b"data: a\n\ndata: b", ["a", "b"]),
    (b"data: a\n\ndata: b\n", ["a", "b"]),
    ("data: 日本 🙂 \u2028 \x85\n\n".encode(), ["日本 🙂 \u2028 \x85"]),
    (b"data: \xff\n\n", ["\ufffd"]),
    (b"nothing of interest: x\n\n", []),
    (b"", []),
]


@pytest.mark.parametrize(("stream", "data"), CASES)
def test_the_cases_of_the_standard(stream: bytes, data: list[str]) -> None:
    assert [event.data for event in read(stream)] == data


@pytest.mark.parametrize(("stream", "data"), CASES)
def test_however_the_network_cuts_it(stream: bytes, data: list[str]) -> None:
    assert [event.data for event in read(*(bytes([byte]) for byte in stream))] == data
    for at in range(len(stream)):
        assert [event.data for event in read(stream[:at], b"", stream[at:])] == data


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_cuts_of_anything_make_no_difference(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


def test_the_name_of_an_event_is_its_own() -> None:
    assert read(b"event: ping\ndata: a\n\ndata: b\n\n") == [SseEvent("a", "ping"), SseEvent("b")]


@pytest.mark.parametrize("piece", [b"x" * 30, b"data: " + b"x" * 10 + b"\n", b"data: " + b"x" * 5])
def test_neither_a_line_nor_an_event_grows_for_ever(piece: bytes) -> None:
    reader = SseReader(max_event_bytes=100)

    def endless() -> None:
        for _ in range(1000):
            reader.feed(piece)

    with pytest.raises(EventTooLargeError, match="100 bytes"):
        endless()


def test_many_events_below_the_bound_are_no_large_one() -> None:
    reader = SseReader(max_event_bytes=100)
    assert sum(len(reader.feed(b": ping\ndata: " + b"x" * 60 + b"\n\n")) for _ in range(1000)) == 1000
    assert sum(len(reader.feed(b"d" * 30 + b"\n")) for _ in range(1000)) == 0
