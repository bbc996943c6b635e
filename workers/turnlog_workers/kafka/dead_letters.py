"""The record that parks a request: its bytes, its headers, and why. What is too long is cut, and says so."""

from collections.abc import Callable, Iterator, Sequence

from turnlog_workers.base.ports import Headers, Parked, RequestRecord

#: What a dead letter has at the most; where the broker does not take that, the next. Whole up to the first.
SIZES = (1024 * 1024 + 256 * 1024, 64 * 1024, 4 * 1024, 1024)
_MAX_REASON_CHARS = 1000
_HEADER_BYTES = 10  #: of framing, rounded up
_RECORD_BYTES = 256

DeadLetter = tuple[bytes | None, bytes | None, Headers]


def dead_letter(record: RequestRecord, topic: str, code: str, reason: str, *, limit_bytes: int) -> DeadLetter:
    """Key, value and headers of the dead letter of ``record``, a request of ``topic``.

    ``x-turnlog-truncated`` names what was cut, ``x-turnlog-original-bytes`` what all of it had.
    """
    ours = [
        ("x-turnlog-topic", topic.encode()),
        ("x-turnlog-partition", str(record.partition).encode()),
        ("x-turnlog-offset", str(record.offset).encode()),
        ("x-turnlog-code", code.encode()),
        ("x-turnlog-reason", _reason(reason, limit_bytes)),
    ]
    left = limit_bytes - _RECORD_BYTES - _bytes(ours)
    original = _bytes(record.headers) + len(record.key or b"") + len(record.value or b"")
    key, value, headers = record.key, record.value, list(record.headers)
    if original <= left:
        return key, value, [*headers, *ours]
    cut: list[str] = []
    # A key is short and headers are few, or somebody means harm: most of the room is the value's.
    if key is not None and len(key) > left // 8:
        key, cut = key[: left // 8], [*cut, "key"]
    left -= len(key or b"")
    kept: list[tuple[str, bytes]] = []
    room = left // 4
    for header in headers:
        room -= _bytes([header])
        if room < 0:
            cut.append("headers")
            break
        kept.append(header)
    left -= _bytes(kept)
    if value is not None and len(value) > left:
        value, cut = value[:left], [*cut, "value"]
    marks = [
        ("x-turnlog-truncated", ",".join(cut).encode()),
        ("x-turnlog-original-bytes", str(original).encode()),
    ]
    return key, value, [*kept, *ours, *marks]


def in_batches(parked: Sequence[Parked], target: Callable[[RequestRecord], int]) -> Iterator[list[Parked]]:
    """Those that one append takes: for one partition of the dead letters, not longer together than one may be."""
    together: list[Parked] = []
    size = 0
    for each in parked:
        record, _, reason = each
        own = min(SIZES[0], _bytes(record.headers) + len(record.key or b"") + len(record.value or b"") + _RECORD_BYTES)
        own += 4 * min(len(reason), _MAX_REASON_CHARS)
        if together and (size + own > SIZES[0] or target(record) != target(together[0][0])):
            yield together
            together, size = [], 0
        together.append(each)
        size += own
    if together:
        yield together


def _reason(reason: str, limit_bytes: int) -> bytes:
    return reason[:_MAX_REASON_CHARS].encode(errors="replace")[: limit_bytes // 4]


def _bytes(headers: Headers) -> int:
    return sum(_HEADER_BYTES + len(name.encode(errors="replace")) + len(content or b"") for name, content in headers)
