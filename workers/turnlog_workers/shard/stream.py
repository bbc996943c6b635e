"""Streams in memory: what a session and a channel have in common for whoever serves them.

A stream's state runs ahead of the log by what is being appended; a release throws it away. The pure core decides
(``turnlog_streams.session``, ``turnlog_streams.channel``); here is what is the same around both of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import Forward
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.lookups import NOTHING, WROTE_NOTHING, Found, Lookup, Written
from turnlog_streams.policy import Policy
from turnlog_streams.reply import Reply
from turnlog_workers.intake.request_reader import StreamCommand
from turnlog_workers.shard.unsaved_rows import NOTHING_UNSAVED
from turnlog_workers.store.port import NOTHING_FETCHED

State = TypeVar("State")


class Stream(ABC, Generic[State]):
    """One stream: its state, what it decides, what events do to it, and what it answers."""

    kind: ClassVar[str]

    def __init__(self, state: State) -> None:
        self.state = state
        self.last_offset = -1  #: of the stream's newest confirmed event
        self.last_used = 0.0  #: monotonic seconds
        self.unknown_events = False  #: written by a newer version: nothing is decided for it here
        self.stream_offset: int | None = None  #: under which the store has it; ``None``: it has nothing of it
        self.unsaved = NOTHING_UNSAVED  #: rows that are not in the store yet
        self.written: Written = WROTE_NOTHING  #: the rows among them that the newest fact made
        self.fetched = NOTHING_FETCHED  #: rows of the store, for what is decided now
        self.set_aside = ""  #: why nothing is decided for it here: something of ours failed on it
        self.is_read = True  #: the state is its own; else it could not be loaded, and this one is empty

    # ---- what it is

    @property
    @abstractmethod
    def stream_id(self) -> str:
        """The session id, or the channel."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Of the stream: that of its newest event."""

    @property
    @abstractmethod
    def outbox(self) -> tuple[Forward, ...]:
        """Pending forwards."""

    @property
    def open_turns(self) -> int:
        """Turns that are accepted and not ended."""
        return 0

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Must it stay in memory?"""

    @property
    def is_aside(self) -> bool:
        """Is nothing decided for it, since something of ours failed on it?"""
        return bool(self.set_aside)

    @property
    def closed(self) -> tuple[str, str] | None:
        """Why nothing is decided for it here, as a code and a sentence; ``None``: it is."""
        who = f"{self.kind} {self.stream_id}"
        if self.unknown_events:
            return "newer_version", f"{who} holds events written by a newer Turnlog: upgrade this worker"
        if self.is_aside:
            return "set_aside", f"{who} is set aside by its worker: {self.set_aside}"
        return None

    def closed_to(self, command: StreamCommand) -> tuple[str, str] | None:
        """Why this command is not decided, as :attr:`closed` says it."""
        return self.closed

    # ---- messages

    def wanted_messages(self, after: int, limit: int) -> tuple[int, int, int] | None:
        """What is to be fetched of these messages: behind which, how many at most, and up to which; ``None``: none."""
        return None

    def messages(self, after: int, limit: int) -> Sequence[HistoryMessage]:
        """Some messages behind one of the session, fetched ones included; one more than the limit if there are more."""
        return ()

    # ---- decide

    @abstractmethod
    def needs(self, command: StreamCommand, found: Found) -> Lookup | None:
        """The rows that deciding and answering a command depends on; ``None``: everything is known."""

    @abstractmethod
    def answer_needs(self, request_id: str, command_hash: str, found: Found) -> Lookup | None:
        """The rows that giving an answer again depends on."""

    @abstractmethod
    def decide(self, command: StreamCommand, policy: Policy, found: Found) -> list[Fact]:
        """The pure decision. A query decides to nothing."""

    # ---- evolve

    @abstractmethod
    def take(self, fact: Fact, found: Found = NOTHING) -> list[Reply]:
        """Become what a decided fact leads to; the frames that tell of it. ``found``: as for its decision."""

    def _become(self, after: State, written: Written) -> None:
        """Be what a fact leads to."""
        self.state, self.written = after, written
        self.unsaved = self.unsaved.with_written(self.version, written)

    @abstractmethod
    def way_back(self) -> Callable[[], None]:
        """Call it to make the stream what it is now: nothing that it takes from here on has happened."""

    # ---- answers

    @abstractmethod
    def answers(self, command: StreamCommand, facts: Sequence[Fact], policy: Policy, found: Found) -> list[Reply]:
        """What the sender of a request gets beside the frames of its facts."""

    @abstractmethod
    def answer_of(self, request_id: str, command_hash: str, found: Found) -> Reply | None:
        """The answer that a request has in the log, to where it was asked."""

    def asked_by(self, fact: Fact) -> ReplyAddress | None:
        """Where the request that caused a fact is answered, if the fact tells. Asked before it is taken."""
        return getattr(fact.event, "reply", None)

    def next_frame_seq(self, reply: Reply) -> int:
        """Position of the next frame in its attempt, from 0."""
        return 0


AnyStream = Stream[Any]
