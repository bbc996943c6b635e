"""Dead letters as they stand in their topic, and what became of them: read in order, within bounded memory.

What somebody did with a letter is a record behind it, a mark: its id, no value, and headers of its own, so that whoever
looks for a letter's bytes passes over it.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from turnlog.client.topic_look import count_partitions, in_words, topic_reader
from turnlog.errors import UsageError
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import RequestHeader
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.topic_reader import TopicReader

MAX_MARKS = 500_000  #: of what is asked for; some 200 bytes each
REDRIVEN, DISCARDED, WAITING = "redriven", "discarded", "waiting"
_OURS = "x-turnlog-"
_TOLD = tuple(f"{_OURS}{name}" for name in ("topic", "partition", "offset", "code", "reason"))
_CUT = tuple(f"{_OURS}{name}" for name in ("truncated", "original-bytes"))
_MARK = tuple(f"{_OURS}{name}" for name in ("mark", "letter-topic", "letter-partition", "letter-offset", "sent-to"))
_RECENT = 10_000  #: letters that are looked through for a second copy: a crash may park bytes twice

Headers = tuple[tuple[str, bytes], ...]
Place = tuple[int, int]  #: partition and offset of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What somebody did with a letter."""

    kind: str  #: ``redriven`` or ``discarded``
    at_ms: int  #: milliseconds since 1970
    sent_to: str = ""  #: ``TOPIC[PARTITION]@OFFSET``, of one that was redriven


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request that nobody could read or decide."""

    topic: str  #: of the request
    partition: int
    offset: int
    code: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: Headers  #: those of its producer
    parked_at_ms: int | None  #: milliseconds since 1970; ``None``: not known
    stored: Place  #: partition and offset in the topic of the dead letters
    cut: str | None = None  #: what of it was cut; ``None``: it is whole
    original_bytes: int | None = None
    mark: Mark | None = None  #: the newest one

    @property
    def id(self) -> str:
        """By which commands know it: the place of the request."""
        return f"{self.partition}@{self.offset}"

    @property
    def state(self) -> str:
        """``waiting``, ``redriven`` or ``discarded``."""
        return self.mark.kind if self.mark else WAITING

    @property
    def size_bytes(self) -> int:
        """Of key, value and headers, as they are kept."""
        headers = sum(len(name) + len(content) for name, content in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def subject(self) -> str:
        """The session (or channel) that it is for, as far as anybody can tell: by its body, else its key."""
        header = self.address()
        named = (header.session_id or header.channel) if header is not None else None
        return named or (self.key or b"").decode(errors="backslashreplace")[:128]

    def address(self) -> RequestHeader | None:
        """What its body says in front; ``None``: nobody can tell. Quick, whatever the bytes are."""
        return _codec().address(self.value) if self.value else None


@cache
def _codec() -> RequestCodec:
    """Made once: it is dear."""
    return RequestCodec()


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which letters are meant: those that pass everything that is said."""

    ids: Collection[Place] = ()
    codes: Collection[str] = ()
    session: str | None = None
    partitions: Collection[int] = ()  #: of the requests
    since_ms: int | None = None  #: parked at this moment or later
    before_ms: int | None = None  #: parked before
    done: bool = False  #: those that were redriven or discarded, too

    def may_be(self, place: Place) -> bool:
        """Could a letter of this place pass?"""
        return (not self.ids or place in self.ids) and (not self.partitions or place[0] in self.partitions)

    def passes(self, letter: DeadLetter) -> bool:
        """Does it? Its mark is not looked at."""
        if not self.may_be((letter.partition, letter.offset)) or (self.codes and letter.code not in self.codes):
            return False
        at_ms = letter.parked_at_ms
        if self.since_ms is not None and (at_ms is None or at_ms < self.since_ms):
            return False
        if self.before_ms is not None and (at_ms is None or at_ms >= self.before_ms):
            return False
        return self.session is None or self._is_of_session(letter)

    def _is_of_session(self, letter: DeadLetter) -> bool:
        wanted = self.session or ""
        if letter.key == wanted.encode():
            return True
        header = letter.address()
        return header is not None and header.session_id == wanted


def letter_id(said: str) -> Place:
    """``PARTITION@OFFSET``. Raises :class:`UsageError`."""
    partition, _, offset = said.partition("@")
    if not (partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()):
        raise UsageError(f"{said[:80]!r} is no dead letter: write it as PARTITION@OFFSET, as `list` shows them")
    return int(partition), int(offset)


def read_letter(record: Any, stored_in: int) -> DeadLetter | None:
    """The letter that a record is. ``None``: it is none: a worker writes its headers behind those of the request."""
    headers: Headers = tuple((name, content or b"") for name, content in record.headers or ())
    cut: dict[str, bytes] = {}
    if tuple(name for name, _ in headers[-len(_CUT) :]) == _CUT:
        cut, headers = dict(headers[-len(_CUT) :]), headers[: -len(_CUT)]
    if tuple(name for name, _ in headers[-len(_TOLD) :]) != _TOLD:
        return None
    told = {name: content.decode(errors="backslashreplace") for name, content in headers[-len(_TOLD) :]}
    topic, partition, offset, code, reason = (told[name] for name in _TOLD)
    original = cut.get(_CUT[1], b"")
    try:
        return DeadLetter(
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            code=code,
            reason=reason,
            key=record.key,
            value=record.value,
            headers=headers[: -len(_TOLD)],
            parked_at_ms=_timestamp(record),
            stored=(stored_in, record.offset),
            cut=(cut[_CUT[0]].decode(errors="replace") or "something") if cut else None,
            original_bytes=int(original) if original.isdigit() else None,
        )
    except ValueError:
        return None


def mark_headers(letter: DeadLetter, kind: str, sent_to: str = "") -> Headers:
    """The headers of the record that says what was done with a letter."""
    values = (kind, letter.topic, str(letter.partition), str(letter.offset), sent_to)
    return tuple((name, value.encode()) for name, value in zip(_MARK, values, strict=True))


def read_mark(record: Any) -> tuple[Place, Mark] | None:
    """The mark that a record is; ``None``: it is none."""
    headers = tuple(record.headers or ())
    if record.value is not None or tuple(name for name, _ in headers) != _MARK:
        return None
    kind, _, partition, offset, sent_to = ((content or b"").decode(errors="replace") for _, content in headers)
    if kind not in (REDRIVEN, DISCARDED) or not partition.isdigit() or not offset.isdigit():
        return None
    return (int(partition), int(offset)), Mark(kind=kind, at_ms=_timestamp(record) or 0, sent_to=sent_to)


def _timestamp(record: Any) -> int | None:
    found = getattr(record, "timestamp", None)
    return found if isinstance(found, int) and found >= 0 else None


@dataclass(slots=True)
class _Range:
    """What of a partition is looked through: what comes later is not of this look."""

    partition: int
    start: int
    end: int


@dataclass(slots=True)
class DeadLetterReader:
    """Reads the letters of one deployment."""

    settings: Settings
    reader: TopicReader
    partitions: list[int]  #: of the topic of the dead letters
    recorded_partitions: int  #: of the event log: where sessions live

    @property
    def topic(self) -> str:
        """That of the dead letters."""
        return self.settings.topics.dead_letters

    async def letters(self, wanted: LetterFilter) -> AsyncGenerator[DeadLetter, None]:
        """Those that are wanted and there now: by partition of the topic, in the order in which they were parked.

        The marks behind them are read first. Raises :class:`UsageError` for more of these than :data:`MAX_MARKS`,
        :class:`BrokerUnreachableError`.
        """
        ranges = await self._look(wanted)
        marks = await self._marks(ranges, wanted)
        recent: OrderedDict[Place, None] = OrderedDict()
        async with aclosing(self._records(ranges)) as records:
            async for partition, record in records:
                letter = read_letter(record, partition)
                if letter is None or not wanted.passes(letter):
                    continue
                place = (letter.partition, letter.offset)
                mark = marks.get(place)
                if place in recent or (mark is not None and not wanted.done):
                    continue
                recent[place] = None
                if len(recent) > _RECENT:
                    recent.popitem(last=False)
                yield letter if mark is None else replace(letter, mark=mark)

    async def _look(self, wanted: LetterFilter) -> list[_Range]:
        async with in_words(self.settings, self.topic):
            bounds = await self.reader.bounds(self.topic, self.partitions)
            ranges = [_Range(partition, first, end) for partition, (first, end) in sorted(bounds.items())]
            if wanted.since_ms is not None:
                for each in ranges:
                    found = await self.reader.offset_at(self.topic, each.partition, wanted.since_ms)
                    each.start = each.end if found is None else max(each.start, found)
        return ranges

    async def _marks(self, ranges: Iterable[_Range], wanted: LetterFilter) -> dict[Place, Mark]:
        marks: dict[Place, Mark] = {}
        async with aclosing(self._records(ranges)) as records:
            async for _, record in records:
                found = read_mark(record)
                if found is not None and wanted.may_be(found[0]):
                    marks[found[0]] = found[1]
                    if len(marks) > MAX_MARKS:
                        raise UsageError(
                            f"{self.topic} has more than {MAX_MARKS:,} letters that were redriven or discarded: ask "
                            "for fewer with --since or --partition"
                        )
        return marks

    async def _records(self, ranges: Iterable[_Range]) -> AsyncGenerator[tuple[int, Any], None]:
        async with in_words(self.settings, self.topic):
            for each in ranges:
                if each.start >= each.end:
                    continue
                found = self.reader.read_leniently(self.topic, each.partition, each.start, each.end)
                async for records in found:
                    for record in records:
                        if not isinstance(record, UnreadableRange):
                            yield each.partition, record


@asynccontextmanager
async def dead_letter_reader(settings: Settings) -> AsyncIterator[DeadLetterReader]:
    """A reader, connected. Raises :class:`BrokerUnreachableError`, :class:`NotFoundError` for a topic not there."""
    topics = settings.topics
    partitions, recorded = await count_partitions(settings, topics.dead_letters, topics.events)
    async with topic_reader(settings) as reader:
        yield DeadLetterReader(settings, reader, partitions, len(recorded))
