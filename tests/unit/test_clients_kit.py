"""Parts of the conformance kit that could make it see what is not there."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import raw_batches
from tests.clients.adapters.java_console import line_of, record_of
from tests.clients.adapters.lines import Batch, InRecord, OutRecord, serve
from tests.clients.kit import batches_of
from tests.raw_batches import Raw


def test_the_batches_of_a_segment_are_told_with_their_codecs(tmp_path: Path) -> None:
    two, one = [Raw(key=b"k", value=b"v")] * 2, [Raw(key=None, value=b"v")]
    written = raw_batches.batch(two, base=7) + raw_batches.batch(one, base=9, attributes=4, payload=b"x")
    segment = tmp_path / "00000000000000000007.log"
    segment.write_bytes(written + bytes(1000))  # brokers make the file longer than what is in it
    assert list(batches_of(segment)) == [(7, 9, 0), (9, 10, 4)]
    segment.write_bytes(b"")
    assert list(batches_of(segment)) == []


def test_console_lines_and_records() -> None:
    headers: list[tuple[bytes, bytes | None]] = [(b"a", b"1"), (b"b", None)]
    assert line_of(OutRecord(b"k", b"v", headers, None, None)) == b"a:1,b:<absent>\tk\tv\n"
    assert line_of(OutRecord(None, None, [], None, None)) == b"<absent>\t<absent>\t<absent>\n"
    assert line_of(OutRecord(b"", b"", [], None, None)) == b"<absent>\t\t\n"
    printed = b"Partition:3\tOffset:17\tce_type:x.y,ce_time:2026-11-28T10:00:00Z\tweb-1\t{}\n"
    told = [(b"ce_type", b"x.y"), (b"ce_time", b"2026-11-28T10:00:00Z")]
    assert record_of(printed) == (3, InRecord(17, b"web-1", b"{}", told))
    assert record_of(b"Partition:0\tOffset:1\tNO_HEADERS\tnull\tnull\n") == (0, InRecord(1, None, None, []))


class Recording:
    """An adapter that keeps what it is asked."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def start(self, bootstrap: str) -> str:
        return f"of {bootstrap}"

    def produce(self, batch: Batch) -> None:
        if batch.codec == "zstd":
            raise ValueError("no zstd here")
        self.batches.append(batch)

    def end(self, how: str) -> None:
        raise AssertionError(how)

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        return [InRecord(offset, b"\xff", None, [(b"\xfe", None)])]


def test_an_adapter_answers_line_by_line_also_with_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"key": "/w==", "value": None, "headers": [["/g==", None]], "partition": 2, "timestamp_ms": None}
    produce: dict[str, Any] = {"op": "produce", "topic": "t", "partitioner": "java", "transaction": None}
    asked = [
        {"op": "start", "bootstrap": "b:1"},
        {**produce, "codec": "gzip", "records": [record]},
        {**produce, "codec": "zstd", "records": []},
        {"op": "consume", "topic": "t", "partition": 1, "offset": 5, "wait_ms": 0},
    ]
    out, adapter = io.StringIO(), Recording()
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(each) + "\n" for each in asked)))
    monkeypatch.setattr(sys, "stdout", out)
    serve(lambda: adapter)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"version": "of b:1"},
        {},
        {"error": "ValueError: no zstd here"},
        {"records": [{"offset": 5, "key": "/w==", "value": None, "headers": [["/g==", None]]}]},
    ]
    assert adapter.batches == [Batch("t", "gzip", "java", None, [OutRecord(b"\xff", None, [(b"\xfe", None)], 2, None)])]
