"""Sessions and channels and a bad network between them: what is sent is delayed, doubled, lost, out of order.

What stands here for the worker is what it promises: a stream's state is the fold of its recorded facts; to each target
one forward is on its way, again and again until its receipt is recorded; every forward that arrives is answered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

from turnlog_schemas.events import CHANNEL, SESSION, CommandForwarded
from turnlog_schemas.frames import SessionInfo
from turnlog_streams.channel.decide import channel_needs, decide_channel
from turnlog_streams.channel.frames import channel_replies_to
from turnlog_streams.channel.state import Channel, evolve_channel, rows_of_channel
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import Forward, ReceiveForward, ReceiveReceipt, due
from turnlog_streams.lookups import NOTHING, Found, RowsInMemory
from turnlog_streams.policy import Policy
from turnlog_streams.reply import Reply
from turnlog_streams.reply_frames import replies_to
from turnlog_streams.session.decide import decide
from turnlog_streams.session.membership import refuses
from turnlog_streams.session.needs import session_needs
from turnlog_streams.session.state import Session, evolve

Stream = tuple[str, str]  #: kind and id
State = Any  #: Session or Channel


def nothing(stream: Stream) -> State:
    """A stream before its first event."""
    kind, name = stream
    return Session(session_id=name) if kind == SESSION else Channel(channel=name)


def fold(stream: Stream, facts: Sequence[Fact], start: State = None) -> State:
    """The state that facts lead to."""
    step: Callable[[State, Fact], State] = evolve if stream[0] == SESSION else evolve_channel
    return reduce(step, facts, start or nothing(stream))


def looked_up(state: State, command: Any, rows: RowsInMemory) -> Found:
    """What either kind of stream needs for a decision."""
    needs = session_needs if isinstance(state, Session) else channel_needs
    return rows.find(partial(needs, state, command))


def decided(state: State, command: Any, policy: Policy, found: Found = NOTHING) -> list[Fact]:
    """What either kind of stream decides."""
    if isinstance(state, Session):
        return decide(state, command, policy, found)
    return decide_channel(state, command, policy, found)


def rows_of(stream: Stream, facts: Sequence[Fact]) -> RowsInMemory:
    """The rows that a channel's facts write."""
    rows, state = RowsInMemory(), nothing(stream)
    for fact in facts if stream[0] == CHANNEL else ():
        rows = rows.with_written(rows_of_channel(state, fact))
        state = evolve_channel(state, fact)
    return rows


@dataclass(frozen=True, slots=True)
class Message:
    """A forward or a receipt on its way."""

    target: Stream
    command: ReceiveForward | ReceiveReceipt
    hops: int = 1


@dataclass(slots=True)
class Network:
    """What is on its way, and what each stream's owner has sent since it took over."""

    flying: list[Message] = field(default_factory=list)
    sent: dict[Stream, set[int]] = field(default_factory=dict)
    hops: dict[tuple[Stream, int], int] = field(default_factory=dict)  #: of a forward: it and those it follows from

    def send_due(self, source: Stream, outbox: Sequence[Forward], *, again: bool = False) -> None:
        """The first pending forward to each target, unless it is on its way."""
        sent = self.sent.setdefault(source, set())
        for forward in due(outbox):
            if again or forward.seq not in sent:
                sent.add(forward.seq)
                self.flying.append(self.message(source, forward))

    def message(self, source: Stream, forward: Forward) -> Message:
        """A forward as its target gets it."""
        command = ReceiveForward(
            source_kind=source[0],
            source_id=source[1],
            seq=forward.seq,
            what=forward.what,
            new_session=forward.new_session,
            request_id_of_origin=forward.request_id_of_origin,
        )
        return Message((forward.target_kind, forward.target_id), command, self.hops.get((source, forward.seq), 1))

    def receipt(self, target: State, received: ReceiveForward) -> None:
        """The target's word that it has the forward."""
        receipt = ReceiveReceipt(seq=received.seq, refused=isinstance(target, Session) and refuses(target, received))
        self.flying.append(Message((received.source_kind, received.source_id), receipt))

    def lose_receipts(self) -> None:
        """No receipt arrives."""
        self.flying = [message for message in self.flying if isinstance(message.command, ReceiveForward)]


@dataclass(slots=True)
class World:
    """All streams, each with its recorded facts."""

    policy: Policy = field(default_factory=Policy)
    states: dict[Stream, State] = field(default_factory=dict)
    rows: dict[Stream, RowsInMemory] = field(default_factory=dict)  #: of channels
    facts: dict[Stream, list[Fact]] = field(default_factory=dict)
    network: Network = field(default_factory=Network)
    replies: list[Reply] = field(default_factory=list)  #: of channels: the answers of lifecycle requests
    on_reply: Callable[[Reply], None] = lambda reply: None

    def session(self, session_id: str) -> Session:
        """A session's state."""
        state: Session = self.state((SESSION, session_id))
        return state

    def channel(self, channel: str) -> Channel:
        """A channel's state."""
        state: Channel = self.state((CHANNEL, channel))
        return state

    def state(self, stream: Stream) -> State:
        """A stream's state."""
        return self.states.get(stream) or nothing(stream)

    def tell(self, stream: Stream, command: Any, *, hops: int = 0) -> list[Fact]:
        """Decide, record, and do the same thing again: the second time adds nothing."""
        state = self.state(stream)
        rows = self.rows.get(stream, RowsInMemory())
        found = looked_up(state, command, rows)
        facts = decided(state, command, self.policy, found)
        for fact in facts:
            if isinstance(fact.event, CommandForwarded):
                self.network.hops[stream, fact.event.seq] = hops + 1
            if stream[0] == CHANNEL:
                for reply in channel_replies_to(state, fact, found):
                    self.replies.append(reply)
                    self.on_reply(reply)
                rows = rows.with_written(rows_of_channel(state, fact))
            else:
                self.replies += [reply for reply in replies_to(state, fact, []) if isinstance(reply.frame, SessionInfo)]
            state = fold(stream, [fact], state)
        self.states[stream], self.rows[stream] = state, rows
        self.facts.setdefault(stream, []).extend(facts)
        assert decided(state, command, self.policy, looked_up(state, command, rows)) == []
        self.network.send_due(stream, state.outbox)
        return facts

    def arrive(self, message: Message) -> list[Fact]:
        """A message comes to its target."""
        facts = self.tell(message.target, message.command, hops=message.hops)
        if isinstance(message.command, ReceiveForward):
            self.network.receipt(self.state(message.target), message.command)
        return facts

    def crash(self, stream: Stream) -> None:
        """Another owner: it folds what is recorded, and knows nothing of what was sent."""
        folded = fold(stream, self.facts.get(stream, []))
        assert folded == self.state(stream)
        assert rows_of(stream, self.facts.get(stream, [])) == self.rows.get(stream, RowsInMemory())
        self.states[stream] = folded
        self.network.sent.pop(stream, None)
        self.network.send_due(stream, folded.outbox)

    def quiesce(self, arrive: Callable[[Message], object]) -> None:
        """Everything arrives; what is still pending then was lost and is sent again."""
        for _ in range(1000):
            while self.network.flying:
                arrive(self.network.flying.pop(0))
            for stream, state in self.states.items():
                self.network.send_due(stream, state.outbox, again=True)
            if not self.network.flying:
                return
        raise AssertionError("the streams never come to rest")
