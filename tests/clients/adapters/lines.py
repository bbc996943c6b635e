"""What every adapter speaks: one JSON object a line, a question on standard input, its answer on standard output.

Bytes are base64, absent ones ``null``. An answer may be ``{"error": "…"}``, whatever was asked: then nothing was done.

``{"op": "start", "bootstrap": "host:port"}``
    → ``{"version": "…"}``, of the client library.
``{"op": "produce", "topic": …, "codec": "none|gzip|snappy|lz4|zstd", "partitioner": "java|default",
"transaction": null, "records": [{"key": …, "value": …, "headers": [[name, value], …], "partition": null,
"timestamp_ms": null}]}``
    → ``{}`` once the broker has them all. ``transaction``: ``commit``, ``abort`` or ``open``: all records in one, which
    ends so. Header names are bytes. ``partitioner``: the Java client's way, or what the client does without a setting.
``{"op": "end", "how": "commit|abort"}``
    → ``{}`` once the transaction that was left open has ended.
``{"op": "consume", "topic": …, "partition": …, "offset": …, "wait_ms": …}``
    → ``{"records": [{"offset": …, "key": …, "value": …, "headers": [[name, value], …]}, …]}``, from that offset on:
    what there is within that time, perhaps nothing.
"""

import base64
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class OutRecord(NamedTuple):
    """A record to produce."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[bytes, bytes | None]]
    partition: int | None
    timestamp_ms: int | None

    @property
    def named_headers(self) -> list[tuple[str, bytes | None]]:
        """For clients whose header names are text. Raises ``UnicodeDecodeError`` where they are none."""
        return [(name.decode(), value) for name, value in self.headers]


class InRecord(NamedTuple):
    """A record as consumed."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[bytes, bytes | None]]


class Batch(NamedTuple):
    """What one ``produce`` asks for."""

    topic: str
    codec: str
    partitioner: str
    transaction: str | None
    records: list[OutRecord]


class Adapter(Protocol):
    """A client library, as the kit drives it."""

    def start(self, bootstrap: str) -> str:
        """Returns the library's version."""
        ...

    def produce(self, batch: Batch) -> None:
        """Returns once all records are on the broker."""
        ...

    def end(self, how: str) -> None:
        """Ends the open transaction."""
        ...

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        """What there is from that offset on."""
        ...


def encoded(value: bytes | None) -> str | None:
    """Bytes as they are written in a line."""
    return None if value is None else base64.b64encode(value).decode()


def decoded(value: str | None) -> bytes | None:
    """Bytes as they were written in a line."""
    return None if value is None else base64.b64decode(value)


def batch_of(asked: dict[str, Any]) -> Batch:
    """The records of a ``produce``."""
    records = [
        OutRecord(
            key=decoded(record["key"]),
            value=decoded(record["value"]),
            headers=[(decoded(name) or b"", decoded(value)) for name, value in record["headers"]],
            partition=record["partition"],
            timestamp_ms=record["timestamp_ms"],
        )
        for record in asked["records"]
    ]
    return Batch(asked["topic"], asked["codec"], asked["partitioner"], asked["transaction"], records)


def _answer(adapter: Adapter, asked: dict[str, Any]) -> dict[str, Any]:
    match asked["op"]:
        case "start":
            return {"version": adapter.start(asked["bootstrap"])}
        case "produce":
            adapter.produce(batch_of(asked))
        case "end":
            adapter.end(asked["how"])
        case "consume":
            records = adapter.consume(asked["topic"], asked["partition"], asked["offset"], asked["wait_ms"])
            return {
                "records": [
                    {
                        "offset": record.offset,
                        "key": encoded(record.key),
                        "value": encoded(record.value),
                        "headers": [[encoded(name), encoded(value)] for name, value in record.headers],
                    }
                    for record in records
                ]
            }
    return {}


def serve(make: Callable[[], Adapter]) -> None:
    """Answer until standard input ends. What the library prints by itself goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    adapter = make()
    for line in sys.stdin:
        try:
            answer = _answer(adapter, json.loads(line))
        except Exception as error:  # the kit decides what an error means
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()
