"""How long a lost worker's sessions are silent: from its death or pause to the next frame of each of its partitions.

Only partitions in which a turn was under way are counted: elsewhere the silence lasts until somebody asks. Where no
frame follows at all, the turn's end was told before (or the checker misses it, and says so).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.checker.log_view import ACCEPTED, TERMINAL, accepted_events
from turnlog_schemas.events import PartitionClaimed
from turnlog_streams.reader_rule import LoggedEvent


@dataclass(frozen=True, slots=True)
class FrameAt:
    """What is needed of a frame that somebody saw."""

    partition: int
    epoch: int
    at: float  #: monotonic seconds


@dataclass(slots=True)
class Loss:
    """A worker's death, or its pause."""

    name: str
    at: float  #: monotonic seconds
    wall_ms: int
    back_at: float | None = None  #: monotonic seconds; ``None``: it is dead

    def wall_of(self, seen_at: float) -> float:
        """Monotonic seconds as wall milliseconds."""
        return self.wall_ms + (seen_at - self.at) * 1_000


@dataclass(slots=True)
class Takeovers:
    """Deaths and pauses as they happen."""

    losses: list[Loss] = field(default_factory=list)

    def lost(self, name: str) -> Loss:
        """A worker is gone or stands still now."""
        loss = Loss(name, time.monotonic(), time.time_ns() // 1_000_000)
        self.losses.append(loss)
        return loss

    def seconds(self, log: Mapping[int, Sequence[LoggedEvent]], frames: Iterable[FrameAt]) -> list[float]:
        """Where a lost worker had a turn, by partition: until a frame of the next owner was seen.

        One that was paused and is back may still be the owner; then its own next frame ends the silence.
        """
        of_partition: dict[int, list[FrameAt]] = {}
        for frame in frames:
            of_partition.setdefault(frame.partition, []).append(frame)
        found = []
        for loss in self.losses:
            for partition, events in log.items():
                seconds = _silence_s(loss, events, of_partition.get(partition, []))
                if seconds is not None:
                    found.append(seconds)
        return found


def _silence_s(loss: Loss, events: Sequence[LoggedEvent], frames: Sequence[FrameAt]) -> float | None:
    claims = [event for event in events if isinstance(event.payload, PartitionClaimed)]
    before = [claim for claim in claims if claim.header.recorded_at <= loss.wall_ms]
    if not before or before[-1].payload.owner != loss.name or not _has_turns(loss, events):
        return None
    epoch = before[-1].offset
    taken_ms = next((claim.header.recorded_at for claim in claims if claim.offset > epoch), None)
    for frame in frames:
        if frame.at <= loss.at:
            continue
        back = loss.back_at is not None and frame.at > loss.back_at
        its_own = back and frame.epoch == epoch and (taken_ms is None or loss.wall_of(frame.at) < taken_ms)
        if frame.epoch > epoch or its_own:
            return frame.at - loss.at
    return None


def _has_turns(loss: Loss, events: Sequence[LoggedEvent]) -> bool:
    """Had a turn begun, and not ended, when the worker was lost?"""
    open_turns = set[str | None]()
    for event in accepted_events(events):
        if event.header.recorded_at > loss.wall_ms:
            break
        if isinstance(event.payload, ACCEPTED):
            open_turns.add(event.header.turn_id)
        elif isinstance(event.payload, TERMINAL):
            open_turns.discard(event.header.turn_id)
    return bool(open_turns)
