"""The outbox: what one stream has to tell another, in another partition.

A forward is an event, and stays pending until its delivery is one too; a new owner sends all pending ones again. To
each target one is outstanding at a time, in order, so the target may skip whatever is not above the highest it has
seen from that source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession
from turnlog_streams.records import changed

CREATED = "created"
ARCHIVED = "archived"
ACTIVATED = "activated"
DEACTIVATED = "deactivated"
OPENED = "opened"
ERASED = "erased"

NO_WAITS: Map[str, frozenset[int]] = Map()  #: request id -> forwards that must arrive before its answer is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A pending forward."""

    seq: int
    target_kind: str
    target_id: str
    what: str
    new_session: NewSession | None = None
    request_id_of_origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveForward:
    """Command: a forward arrived."""

    source_kind: str
    source_id: str
    seq: int
    what: str
    new_session: NewSession | None = None
    request_id_of_origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveReceipt:
    """Command: a target has our forward in its log."""

    seq: int
    refused: bool = False  #: a session that was to be created is there already, and none of this channel


def source_key(kind: str, stream_id: str) -> str:
    """Under which a target remembers how far it has heard a source."""
    return f"{kind}:{stream_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How far a stream has heard its sources. The newest ones are here, older ones are rows (see ``lookups``)."""

    known: Map[str, int] = Map()  # noqa: RUF009 - it never changes. Seq of the highest forward heard, by source
    recent: tuple[str, ...] = ()  #: the sources in it, the one heard last at the end
    older: int = 0  #: marks that have left

    def heard(self, source: str, seq: int, *, keep: int | None) -> "Marks":
        """After a forward was heard. Of the sources the ``keep`` heard last stay; ``None``: all."""
        if keep is None:
            return changed(self, known=self.known.set(source, seq))
        recent = (*(name for name in self.recent if name != source), source)
        known, older = self.known.set(source, seq), self.older
        if len(recent) > keep:
            known, recent, older = known.delete(recent[0]), recent[1:], older + 1
        return changed(self, known=known, recent=recent, older=older)

    def of(self, source: str, rows: Mapping[str, int | None]) -> int:
        """The highest forward heard of a source, here or among rows that were looked up; 0: none."""
        return self.known.get(source) or rows.get(source) or 0

    def unknown(self, source: str, rows: Mapping[str, int | None]) -> frozenset[str]:
        """What has to be looked up before a forward of this source is heard."""
        return frozenset({source} if self.older and source not in self.known and source not in rows else ())


NO_MARKS = Marks()


def waits_after(waits: Map[str, frozenset[int]], seq: int) -> tuple[Map[str, frozenset[int]], tuple[str, ...]]:
    """What is waited for after a delivery, and the requests that it was the last for."""
    ready = []
    for request_id, seqs in waits.items():
        if seq in seqs:
            rest = seqs - {seq}
            waits = waits.set(request_id, rest) if rest else waits.delete(request_id)
            if not rest:
                ready.append(request_id)
    return waits, tuple(sorted(ready))


def pending(outbox: tuple[Forward, ...], event: ev.CommandForwarded) -> tuple[Forward, ...]:
    """The outbox after a forward was decided."""
    forward = Forward(
        seq=event.seq,
        target_kind=event.target_kind,
        target_id=event.target_id,
        what=event.what,
        new_session=event.new_session,
        request_id_of_origin=event.request_id_of_origin,
    )
    return (*outbox, forward)


def without_texts(forward: Forward) -> Forward:
    """The forward of a session that is erased: what a new one was to be made of is not told any more."""
    return forward if forward.new_session is None else changed(forward, new_session=NewSession())


def delivered(outbox: tuple[Forward, ...], seq: int) -> tuple[Forward, ...]:
    """The outbox after a delivery."""
    return tuple(forward for forward in outbox if forward.seq != seq)


def due(outbox: Sequence[Forward]) -> list[Forward]:
    """The first pending forward of each target: the only one that may be on its way."""
    first: dict[tuple[str, str], Forward] = {}
    for forward in outbox:
        first.setdefault((forward.target_kind, forward.target_id), forward)
    return list(first.values())


def forwarded(
    seq: int,
    what: str,
    *,
    target_kind: str,
    target_id: str,
    new_session: NewSession | None = None,
    request_id_of_origin: str | None = None,
) -> ev.CommandForwarded:
    """The event that puts a forward into the outbox."""
    return ev.CommandForwarded(
        seq=seq,
        target_kind=target_kind,
        target_id=target_id,
        what=what,
        new_session=new_session,
        request_id_of_origin=request_id_of_origin,
    )
