"""Any bytes to the reader of requests: always a verdict, never an exception, and never for long.

Half of the inputs are real requests that were changed a little, as most of what goes wrong is nearly right.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from turnlog_schemas import commands as cmd
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.parts import ContentPart, NewSession
from turnlog_streams.refusals import Refuse
from turnlog_streams.topics import Topics
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.intake.request_reader import ForStream, Incoming, Misrouted, RequestReader, Unreadable
from turnlog_workers.kafka.dead_letters import SIZES, dead_letter

MAX_BYTES = 64 * 1024
#: Of CPU, for one verdict: 64 KiB of anything takes some milliseconds.
MAX_S = 0.25
PARTITIONS = 3
CODEC = RequestCodec()
WORDS = ("session_id", "channel", "request_id", "command", "type", "chat", "text", "content", "new_session", "kind")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 10**400, 1.5, float("nan"), float("inf"), "", "5", "\0", "\ud800"),
    *([], {}, [[]], {"": None}, "x" * 1000, "\U0001f600", "a b", ["x"] * 50, {"text": 1}, "chat.replies", "é"),
)
PIECES = (b"\xff" * 9, b"\x00", b'"', b"{", b"[[", b"\\u", b"\xef\xbb\xbf", b"\xed\xa0\x80")
STARTS = (b"{", b"\xc3\x01", b"\x00", b" ", b"\xff\xfe", b"[")


@dataclass(slots=True)
class Verdicts:
    """What came of a run."""

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def _commands(rng: random.Random) -> Iterator[Any]:
    new = NewSession(title="t", instructions="Be brief.", metadata={"a": "b"}, history_keep_tail=rng.randint(-1, 5))
    parts = tuple(ContentPart(text=rng.choice(("Hi", "", "\U0001f600"))) for _ in range(rng.randint(0, 5)))
    yield cmd.Chat(content=parts, model=rng.choice((None, "echo:")), new_session=rng.choice((None, new)))
    yield cmd.CancelTurn(turn_id=rng.choice((None, "t-0-1")))
    yield cmd.UpdateSession(title=rng.choice((None, "", "t" * 2000)), set_metadata=rng.choice(({}, {"a": "b"})))
    yield cmd.GetHistory(after=rng.randint(-5, 5), limit=rng.randint(-5, 5000))
    yield cmd.CompactHistory(instructions="x" * rng.randint(0, 5000))
    yield cmd.CreateSession(new_session=rng.choice((None, new)))
    yield rng.choice((cmd.ResolveSession(), cmd.RotateSession(), cmd.ArchiveSession(), cmd.ActiveSession()))
    yield rng.choice((cmd.GetSession(), cmd.ResetRunner()))
    yield cmd.Forwarded(source_kind="session", source_id="s", target_kind="channel", seq=1, what="opened")
    yield cmd.ForwardReceipt(source_kind="channel", source_id="c", target_kind="session", target_id="s", seq=1)


def _real(rng: random.Random) -> tuple[cmd.RequestHeader, Any]:
    header = cmd.RequestHeader(
        request_id=rng.choice((None, *("r-1",) * 6, "r" * 300)),
        session_id=rng.choice((*("web-1",) * 6, None, "s" * 128)),
        channel=rng.choice((*("web",) * 3, None)),
        reply_to=rng.choice((*(None,) * 6, "chat.replies", "chat.replies.mine", "elsewhere")),
        sent_at=rng.choice((None, 1)),
        metadata=rng.choice(({}, {"page": "checkout"})),
    )
    return header, rng.choice(list(_commands(rng)))


def _changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut out, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at, length = rng.randint(0, len(changed)), rng.randint(0, 20)
        match rng.randint(0, 4):
            case 0 if changed:
                changed[at % len(changed)] = rng.randint(0, 255)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = rng.randbytes(length)
            case 3:
                changed[at:at] = changed[at : at + length] * rng.randint(1, 50)
            case _:
                changed[at:at] = rng.choice(
                    (b"\xff" * 9, b"\x00", b'"', b"{", b"[[", b"\\u", b"\xef\xbb\xbf", b"\xed\xa0\x80")
                )
    return bytes(changed[:MAX_BYTES])


def _changed_json(rng: random.Random, value: Any) -> Any:
    """Some value replaced, some key added or lost, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        changed = dict(value)
        key = rng.choice(list(changed))
        match rng.randint(0, 3):
            case 0:
                changed[rng.choice(WORDS)] = rng.choice(VALUES)
            case 1:
                del changed[key]
            case _:
                changed[key] = _changed_json(rng, changed[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        changed_list = list(value)
        at = rng.randrange(len(changed_list))
        changed_list[at] = _changed_json(rng, changed_list[at])
        return changed_list
    return rng.choice(VALUES)


def _input(rng: random.Random) -> bytes | None:
    header, command = _real(rng)
    match rng.randint(0, 9):
        case 0:
            return rng.choice((None, b"", rng.randbytes(rng.choice((30, 300, MAX_BYTES)))))
        case 1:
            return rng.choice(STARTS) + rng.randbytes(rng.randint(0, 500))
        case 2 | 3:
            return _changed_bytes(rng, CODEC.encode(header, command))
        case 5:
            return _changed_bytes(rng, CODEC.encode_json(header, command))
        case 6 if rng.random() < 0.3:
            deep = rng.choice((b"[", b'{"a":', b"[{},")) * rng.randint(1, 9000)
            return (b'{"session_id":"web-1","command":' + deep)[:MAX_BYTES]
        case _:
            changed = CODEC.to_json(header, command)
            for _ in range(rng.choice((0, 1, 1, 2, 4))):
                changed = _changed_json(rng, changed)
            return json.dumps(changed).encode()


def _record(rng: random.Random) -> RequestRecord:
    key = rng.choice((*(None,) * 8, b"web-1", b"web", b"", b"\xff", rng.randbytes(rng.randint(0, 200))))
    headers = tuple(
        (rng.choice(("traceparent", "x", "ce_source")), rng.choice((None, b"", rng.randbytes(rng.randint(0, 600)))))
        for _ in range(rng.randint(0, 4))
    )
    partition, offset = rng.randrange(PARTITIONS), rng.randint(0, 2**40)
    return RequestRecord(partition=partition, offset=offset, key=key, value=_input(rng), headers=headers)  # type: ignore[arg-type]


def _kind(item: Incoming) -> str:
    match item:
        case Unreadable():
            return f"parked {item.code}"
        case Misrouted():
            return "sent on"
        case ForStream():
            return f"refused {item.command.code}" if isinstance(item.command, Refuse) else "decided"


def _check(record: RequestRecord, item: Incoming) -> None:
    """What follows from a verdict fits, too. Raises what does not."""
    for size in SIZES:
        letter = dead_letter(record, "chat.requests", "c", "r", limit_bytes=size)
        assert sum(len(part or b"") for part in letter[:2]) <= size
    if isinstance(item, Misrouted):
        assert len(item.value) < 10 * (len(record.value or b"") + 1000)
    if isinstance(item, ForStream) and isinstance(item.command, Refuse):
        assert len(item.command.request_id) <= 1024
        item.command.reason.encode()


def fuzz_requests(inputs: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Verdicts:
    """Read so many records. Every one is of its own seed, named in a problem."""
    reader = RequestReader(
        CODEC,
        Topics(),
        partition_count=PARTITIONS,
        reply_prefix="chat.replies",
        reply_topic_exists=lambda topic: topic.endswith(".mine"),
        max_request_bytes=MAX_BYTES // 2,
    )
    verdicts = Verdicts()
    for number in range(inputs):
        record = _record(random.Random(f"{seed}/{number}"))
        began = time.thread_time()
        try:
            item = reader.read(record, last_try=True)
            took_s = time.thread_time() - began
            _check(record, item)
        except Exception as error:  # whatever it is: that is what this looks for
            verdicts.problems.append(f"input {seed}/{number}: {type(error).__name__}: {error}")
            continue
        verdicts.inputs += 1
        verdicts.kinds[_kind(item)] += 1
        verdicts.slowest_s = max(verdicts.slowest_s, took_s)
        if took_s > MAX_S:
            verdicts.problems.append(f"input {seed}/{number}: {took_s:.2f} s for {len(record.value or b'')} bytes")
        if (number + 1) % 10_000 == 0:
            say(f"{number + 1:,} inputs, the slowest {verdicts.slowest_s * 1000:.0f} ms")
    return verdicts
