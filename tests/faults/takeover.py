"""How long a dead worker's sessions are silent: from its death to the next frame of each of its partitions."""

import time
from dataclasses import dataclass, field

from tests.checker import History
from tests.deployment import Wire
from turnlog_schemas.events import PartitionClaimed


@dataclass(slots=True)
class Takeovers:
    """Deaths (and pauses) as they happen."""

    deaths: list[tuple[str, float, int]] = field(default_factory=list)  #: name, monotonic seconds, wall milliseconds

    def killed(self, name: str) -> None:
        """A worker is gone now."""
        self.deaths.append((name, time.monotonic(), time.time_ns() // 1_000_000))

    def seconds(self, history: History, wire: Wire) -> list[float]:
        """For each partition that a dead worker owned: until a frame of a later owner was seen."""
        found: list[float] = []
        for name, died_at, wall_ms in self.deaths:
            for partition, log in history.log.items():
                claims = [event for event in log if isinstance(event.payload, PartitionClaimed)]
                before = [claim for claim in claims if claim.header.recorded_at <= wall_ms]
                if not before or before[-1].payload.owner != name:
                    continue
                epoch = before[-1].offset
                seen = [
                    frame.seen_at - died_at
                    for frame in wire.frames
                    if frame.record.partition == partition and frame.header.epoch > epoch and frame.seen_at > died_at
                ]
                found += seen[:1]
        return found
