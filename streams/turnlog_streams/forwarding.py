"""The outbox: what one stream has to tell another, in another partition.

A forward is an event, and stays pending until its delivery is one too; a new owner sends all pending ones again. To
each target one is outstanding at a time, in order, so the target may skip whatever is not above the highest it has
seen from that source.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession

CREATED = "created"
ARCHIVED = "archived"
ACTIVATED = "activated"
DEACTIVATED = "deactivated"
OPENED = "opened"
TOUCHED = "touched"

NO_MARKS: Map[str, int] = Map()


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
    refused: bool = False  #: a session that was to be created is another channel's already


def source_key(kind: str, stream_id: str) -> str:
    """Under which a target remembers how far it has heard a source."""
    return f"{kind}:{stream_id}"


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
