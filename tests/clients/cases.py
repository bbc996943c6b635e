"""What a client can do to Turnlog, as data: steps, and what must come of them. `kit` carries them out.

Sessions are named by a letter for the partition that they share and a digit: ``a1`` and ``a2`` are in one partition,
``b1`` in another one. Requests have ids (``r1``) by which outcomes are told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BULK = 40  #: requests of each codec

# What a case needs of a client. A client that has not got it says why: see `catalog`.
PARTITION = "name a partition"
TRANSACTIONS = "transactions"
HEADER_BYTES = "header names that are no text"
NULL_HEADER = "headers without a value"
MANY_HEADERS = "the same header several times"
NULL_KEY = "records without a key"
EMPTY_KEY = "an empty key"
EMPTY_VALUE = "an empty value"
ANY_BYTES = "values of any bytes"
LINES = "values of several lines"
TIMESTAMP = "timestamps"
NO_TIMESTAMP = "records without a timestamp"
REFUSALS = "tell what the broker refused"

COMPLETED = "turn_completed"
CANCELLED = "turn_cancelled"
NOTHING = "nothing"


def refused(code: str) -> str:
    """The outcome of a request that is answered with a refusal."""
    return f"request_refused: {code}"


def parked(code: str) -> str:
    """The outcome of a record that becomes a dead letter."""
    return f"dead letter: {code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A record of the requests topic."""

    id: str = "r1"
    session: str = "a1"
    command: Mapping[str, Any] = field(default_factory=lambda: {"type": "chat", "text": "Hello from a client"})
    avro: bool = False
    key: str = "session"  #: or ``none``, ``empty``
    value: bytes | None = b"body"  #: ``b"body"`` is the request itself; anything else goes out as it is
    before: bytes = b""  #: what stands before the body
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    misrouted: bool = False  #: to a partition that is not the session's
    timestamp_s: float | None = None  #: seconds from now
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Records in one go. ``transaction``: ``commit``, ``abort`` or ``open``."""

    requests: Sequence[Request]
    codec: str = "none"
    transaction: str | None = None
    broker_refuses: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Ends the open transaction."""

    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comes:
    """A frame of this type is read by the client."""

    id: str
    frame: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Becomes:
    """The outcome of a request (or, of a record without an answer, of its place)."""

    id: str
    outcomes: Sequence[str]  #: one of them
    times: int = 1  #: so many terminal frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The frames of a turn came in order, under the session's key, and its pieces are its text."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """Neither a frame nor an event of this request so far."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTurn:
    """The log has accepted the request once."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """So many chats over all partitions with a codec, all answered; at least one batch has that codec."""

    codec: str
    count: int = BULK


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Records with these keys are where the Java client would put them; with ``partitioner="default"`` all answered."""

    partitioner: str = "java"


Step = Send | End | Comes | Becomes | Streams | Silent | OneTurn | Bulk | Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    what: str  #: what must come of it, for the table
    steps: Sequence[Step]
    needs: Sequence[str] = ()


def chat(text: str, **fields: Any) -> Mapping[str, Any]:
    """The command."""
    return {"type": "chat", "text": text, **fields}


def answered(name: str, what: str, request: Request, *needs: str, codec: str = "none") -> Case:
    """A case of one chat that must be answered."""
    steps = (Send(requests=(request,), codec=codec), Becomes(id="r1", outcomes=(COMPLETED,)))
    return Case(name=name, what=what, steps=steps, needs=needs)


def comes_to(name: str, what: str, request: Request, *outcomes: str, needs: Sequence[str] = ()) -> Case:
    """A case of one record that must come to one of these ends, without harm to the one behind it."""
    return Case(
        name=name,
        what=what,
        steps=(
            Send(requests=(request,)),
            Send(requests=(Request(id="r2", session="a2"),)),
            Becomes(id="r1", outcomes=outcomes),
            Becomes(id="r2", outcomes=(COMPLETED,)),
        ),
        needs=needs,
    )


SLOW = chat("one two three four five six seven eight nine ten " * 50, model="echo:?delta_ms=50")
PIECES = chat("tell me of naïve 日本 🙂 logs", model="echo:?deltas=9&delta_ms=30")
LONG = chat("日本語 " * 20_000, model="echo:?deltas=3")
#: Keys as producers may have them; those that are no session ids are only placed, not answered.
ODD_KEYS: tuple[bytes, ...] = (
    *(f"web-{number:08x}".encode() for number in range(16)),
    *("Ärger 日本 🙂"[:size].encode() for size in (1, 6, 9, 10)),
    *(b"k" * size for size in (1, 2, 3, 4, 5, 128, 500)),
    b"a b",
    b"\xff\xfe",
)

COMPRESSED = tuple(
    Case(
        name=f"codec {codec}",
        what=f"{BULK} chats {'without compression' if codec == 'none' else f'compressed with {codec}'}, all answered",
        steps=(Bulk(codec=codec),),
    )
    for codec in CODECS
)

CASES: tuple[Case, ...] = (
    answered("enqueue", "a chat is answered", Request()),
    Case(name="keys", what="each key is in the partition that the Java client chooses", steps=(Keys(),)),
    Case(
        name="default partitioner",
        what="chats are answered wherever the client puts them without a setting",
        steps=(Keys(partitioner="default"),),
    ),
    Case(
        name="stream",
        what="the frames of a turn, read in order; the pieces are the text",
        steps=(
            Send(requests=(Request(command=PIECES),)),
            Becomes(id="r1", outcomes=(COMPLETED,)),
            Streams(id="r1"),
        ),
    ),
    Case(
        name="cancel",
        what="a running turn is cancelled, both requests are told",
        steps=(
            Send(requests=(Request(command=SLOW),)),
            Comes(id="r1", frame="text_delta"),
            Send(requests=(Request(id="r2", command={"type": "cancel_turn"}),)),
            Becomes(id="r1", outcomes=(CANCELLED,)),
            Becomes(id="r2", outcomes=(CANCELLED,)),
        ),
    ),
    Case(
        name="retry",
        what="the same request again is answered again, and is one turn",
        steps=(
            Send(requests=(Request(),)),
            Becomes(id="r1", outcomes=(COMPLETED,)),
            Send(requests=(Request(),)),
            Becomes(id="r1", outcomes=(COMPLETED,), times=2),
            Send(requests=(Request(command=chat("something else")),)),
            Becomes(id="r1", outcomes=(refused("conflict"),), times=3),
            OneTurn(id="r1"),
        ),
    ),
    answered("misroute", "a chat on the wrong partition is answered", Request(misrouted=True), PARTITION),
    answered("no key", "a chat without a key is answered", Request(key="none"), NULL_KEY),
    comes_to(
        "empty key",
        "a dead letter: it is not the session's key",
        Request(key="empty"),
        parked("key_mismatch"),
        needs=(EMPTY_KEY,),
    ),
    *COMPRESSED,
    Case(
        name="transaction committed",
        what="its chats, compressed with zstd, are answered",
        steps=(
            Send(requests=(Request(), Request(id="r2", session="b1")), codec="zstd", transaction="commit"),
            Becomes(id="r1", outcomes=(COMPLETED,)),
            Becomes(id="r2", outcomes=(COMPLETED,)),
        ),
        needs=(TRANSACTIONS,),
    ),
    Case(
        name="transaction aborted",
        what="its chats are never answered, the one behind it is",
        steps=(
            Send(requests=(Request(),), transaction="abort"),
            Send(requests=(Request(id="r2", session="a2"),)),
            Send(requests=(Request(id="r3"),), transaction="commit"),
            Becomes(id="r2", outcomes=(COMPLETED,)),
            Becomes(id="r3", outcomes=(COMPLETED,)),
            Silent(id="r1"),
        ),
        needs=(TRANSACTIONS,),
    ),
    Case(
        name="transaction open",
        what="its chats and those behind it wait for its end, other partitions do not",
        steps=(
            Send(requests=(Request(),), transaction="open"),
            Send(requests=(Request(id="r2", session="a2"),)),
            Send(requests=(Request(id="r3", session="b1"),)),
            Becomes(id="r3", outcomes=(COMPLETED,)),
            Send(requests=(Request(id="r4", session="b2"),)),
            Becomes(id="r4", outcomes=(COMPLETED,)),
            Silent(id="r1"),
            Silent(id="r2"),
            End(how="commit"),
            Becomes(id="r1", outcomes=(COMPLETED,)),
            Becomes(id="r2", outcomes=(COMPLETED,)),
        ),
        needs=(TRANSACTIONS,),
    ),
    answered(
        "200 headers",
        "the chat is answered",
        Request(headers=tuple((f"x-{number}".encode(), b"v" * number) for number in range(200))),
    ),
    answered(
        "duplicate headers",
        "the chat is answered",
        Request(headers=((b"x", b"1"), (b"x", b"2"), (b"y", b"3"))),
        MANY_HEADERS,
    ),
    answered("header without a value", "the chat is answered", Request(headers=((b"x", None),)), NULL_HEADER),
    answered(
        "header values of any bytes", "the chat is answered", Request(headers=((b"x", b"\xff\x00\xfe"),)), ANY_BYTES
    ),
    comes_to(
        "header name not UTF-8",
        "a dead letter; the chat behind it is answered",
        Request(headers=((b"caf\xe9", b"1"),)),
        parked("unreadable_record"),
        needs=(HEADER_BYTES,),
    ),
    Case(
        name="header name not UTF-8, in a batch",
        what="a dead letter; the chats around it in the zstd batch are answered",
        steps=(
            Send(
                requests=(
                    Request(session="a1"),
                    Request(id="r2", session="a2", headers=((b"x", b"1"), (b"\xff", None))),
                    Request(id="r3", session="a3"),
                ),
                codec="zstd",
            ),
            Becomes(id="r1", outcomes=(COMPLETED,)),
            Becomes(id="r2", outcomes=(parked("unreadable_record"),)),
            Becomes(id="r3", outcomes=(COMPLETED,)),
        ),
        needs=(HEADER_BYTES,),
    ),
    answered("header without a name", "the chat is answered", Request(headers=((b"", b"1"),))),
    answered("200 KiB of text", "the chat is answered", Request(command=LONG)),
    comes_to("300 KiB of text", "refused", Request(command=chat("long " * 60_000)), refused("too_long")),
    Case(
        name="3 MiB of text in gzip",
        what="refused by its size when unpacked",
        steps=(
            Send(requests=(Request(command=chat("long " * 600_000)),), codec="gzip"),
            Send(requests=(Request(id="r2", session="a2"),)),
            Becomes(id="r1", outcomes=(refused("too_long"),)),
            Becomes(id="r2", outcomes=(COMPLETED,)),
        ),
    ),
    Case(
        name="3 MiB of text in gzip, no key",
        what="refused; a dead letter, too, where it lies in another partition",
        steps=(
            Send(requests=(Request(command=chat("long " * 600_000), key="none"),), codec="gzip"),
            Becomes(id="r1", outcomes=(refused("too_long"),)),
        ),
        needs=(NULL_KEY,),
    ),
    Case(
        name="7 MiB of garbage in gzip",
        what="a dead letter, cut; the chat behind it is answered",
        steps=(
            Send(requests=(Request(value=b"x" * (7 << 20)),), codec="gzip"),
            Send(requests=(Request(id="r2", session="a2"),)),
            Becomes(id="r1", outcomes=(parked("too_long"),)),
            Becomes(id="r2", outcomes=(COMPLETED,)),
        ),
    ),
    answered("blank before the JSON", "the chat is answered", Request(before=b" ")),
    answered("newline before the JSON", "the chat is answered", Request(before=b"\r\n"), LINES),
    answered("BOM before the JSON", "the chat is answered", Request(before=b"\xef\xbb\xbf")),
    answered("Avro", "the chat is answered in Avro", Request(avro=True), ANY_BYTES),
    comes_to("no value", "a dead letter", Request(value=None), parked("undecodable")),
    comes_to("empty value", "a dead letter", Request(value=b""), parked("undecodable"), needs=(EMPTY_VALUE,)),
    comes_to(
        "garbage", "a dead letter", Request(value=bytes(range(256)) * 4), parked("undecodable"), needs=(ANY_BYTES,)
    ),
    answered("timestamp 30 min ahead", "the chat is answered", Request(timestamp_s=1800.0), TIMESTAMP),
    answered("no timestamp (-1)", "the chat is answered", Request(timestamp_ms=-1), NO_TIMESTAMP),
    answered("timestamp 2 h ahead", "the chat is answered", Request(timestamp_s=7200.0), TIMESTAMP),
    answered("timestamp 60 days ago", "the chat is answered", Request(timestamp_s=-60 * 86400.0), TIMESTAMP),
    answered("timestamp in seconds (1970)", "the chat is answered", Request(timestamp_ms=1_790_000_000), TIMESTAMP),
    Case(
        name="2 MiB without compression",
        what="the broker refuses it; the client's next chat is answered",
        steps=(
            Send(requests=(Request(value=b"x" * (2 << 20)),), broker_refuses=True),
            Send(requests=(Request(id="r2"),)),
            Becomes(id="r2", outcomes=(COMPLETED,)),
            Silent(id="r1"),
        ),
        needs=(REFUSALS,),
    ),
)

BY_NAME = {case.name: case for case in CASES}
