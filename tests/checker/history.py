"""What a run left behind: the only thing that the checker looks at.

A test on real parts fills it from Kafka and DuckDB, the simulation from memory. ``log_end`` is the end of the event
log's partition at the moment when something was seen, where the recorder can know it; without it, what depends on the
order between the log and the rest of the world is not checked.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnlog_schemas.frames import FrameHeader
from turnlog_streams.reader_rule import LoggedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequest:
    """A record that a producer sent and the broker acknowledged, at these coordinates."""

    partition: int
    offset: int
    session_id: str | None  #: or channel: whom it is for; ``None``: nobody can read it (it must become a dead letter)
    request_id: str | None = None  #: as sent; ``None``: its coordinates are its identity
    command: str = ""  #: equal for equal commands: what makes a retry the same request
    text: str | None = None  #: of the user's message, where it has one
    asks_only: bool = False  #: it is answered from the log and leaves nothing in it


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFrame:
    """A reply frame as read."""

    topic: str
    partition: int
    offset: int
    header: FrameHeader
    frame: Any
    log_end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A line of the tool journal (``runners.journal``), in the order of the file."""

    what: str  #: ``start`` or ``end``
    idempotency_key: str
    session_id: str
    turn_id: str
    attempt: int
    fencing_token: int  #: the epoch of the owner that ran it
    idempotent: bool = False
    log_end: int | None = None

    @classmethod
    def from_journal(cls, line: Mapping[str, Any]) -> "ToolRun":
        """A line as the journal has it."""
        return cls(**{name: line[name] for name in cls.__dataclass_fields__ if name in line})


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCommit:
    """The consumer group's offset was set: every request below it counts as done."""

    partition: int
    offset: int
    log_end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreContent:
    """The tables of one store, each a list of rows by column name. Its ``partitions`` tell how far it has read."""

    name: str
    tables: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One run. ``drained``: the producers stopped, the faults ended, and everybody had time to finish."""

    requests: Sequence[SentRequest]
    log: Mapping[int, Sequence[LoggedEvent]]  #: by partition, inert records too
    frames: Sequence[SeenFrame] = ()  #: in the order of their topic and partition
    tool_runs: Sequence[ToolRun] = ()
    commits: Sequence[GroupCommit] = ()  #: in the order in which they happened
    stores: Sequence[StoreContent] = ()
    parked: Sequence[tuple[int, int]] | None = None  #: partition and offset of the dead letters' topic, if it was read
    deleted_below: Mapping[int, int] = field(default_factory=dict)  #: requests that the broker deleted
    unreadable: Collection[tuple[int, int]] = ()  #: partition and offset of requests that nobody can take apart
    requests_topic: str = "chat.requests"
    drained: bool = True
    quiet: bool = False  #: neither workers nor the broker failed, whatever runners did
    frames_may_be_lost: bool = False  #: the broker failed: ephemeral frames may be missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """Something that must not be."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"
