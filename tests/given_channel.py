"""Decisions of a channel told as given, when, then (see ``tests.given``)."""

from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Self

from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, ReplyAddress
from turnlog_streams.channel.commands import ChangeChannel, ChannelCommand
from turnlog_streams.channel.decide import channel_needs, decide_channel
from turnlog_streams.channel.state import Channel, evolve_channel, rows_of_channel
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.lookups import NOTHING, Found, RowsInMemory
from turnlog_streams.policy import Policy

CHANNEL = "web"


def fold_channel(facts: list[Fact], start: Channel | None = None) -> Channel:
    """The state that these facts lead to."""
    return reduce(evolve_channel, facts, start or Channel(channel=CHANNEL))


@dataclass(slots=True)
class ChannelScenario:
    """A channel, what the last command led to, and all that was decided so far."""

    channel: Channel = field(default_factory=lambda: Channel(channel=CHANNEL))
    rows: RowsInMemory = field(default_factory=RowsInMemory)
    found: Found = NOTHING  #: what was looked up for the last command
    policy: Policy = field(default_factory=Policy)
    facts: list[Fact] = field(default_factory=list)
    all: list[Fact] = field(default_factory=list)

    def when(self, command: ChannelCommand) -> Self:
        """Decide and fold."""
        self.found = self.rows.find(partial(channel_needs, self.channel, command))
        self.facts = decide_channel(self.channel, command, self.policy, self.found)
        for fact in self.facts:
            self.rows = self.rows.with_written(rows_of_channel(self.channel, fact))
            self.channel = evolve_channel(self.channel, fact)
        self.all += self.facts
        return self

    def then_types(self, *types: type) -> Self:
        """Facts of exactly these types were decided."""
        assert [type(fact.event) for fact in self.facts] == list(types)
        return self

    def then_nothing(self) -> Self:
        """The command added nothing."""
        return self.then_types()

    def then_refused(self, code: str) -> Self:
        """The command was refused with this code, and nothing else happened."""
        self.then_types(ev.RequestRefused)
        event = self.facts[0].event
        assert isinstance(event, ev.RequestRefused)
        assert event.code == code
        return self

    def then_decided(self, session_id: str, *, created: bool) -> Self:
        """The request was decided with this answer."""
        event = self.facts[-1].event
        assert isinstance(event, ev.RequestDecided)
        assert (event.session_id, event.created) == (session_id, created)
        return self

    def then_told(self, *told: tuple[str, str]) -> Self:
        """Exactly these sessions were told exactly this."""
        forwards = [fact.event for fact in self.facts if isinstance(fact.event, ev.CommandForwarded)]
        assert [(forward.target_id, forward.what) for forward in forwards] == list(told)
        assert all(forward.target_kind == "session" for forward in forwards)
        return self

    def delivered(self) -> Self:
        """Every pending forward arrives."""
        while self.channel.outbox:
            self.when(ReceiveReceipt(seq=self.channel.outbox[0].seq))
        return self


def lifecycle(
    command: cmd.ChannelRequest,
    name: str = "1",
    *,
    session_id: str | None = None,
    command_hash: str | None = None,
    reply: ReplyAddress | None = None,
) -> ChangeChannel:
    """A lifecycle request, its ids made of ``name``: request ``r1``, hash ``h1``, and ``web-1`` for a new session."""
    return ChangeChannel(
        request_id=f"r{name}",
        command_hash=command_hash or f"h{name}",
        command=command,
        session_id=session_id,
        new_ids=(f"{CHANNEL}-{name}", f"{CHANNEL}-{name}b"),
        reply=reply or ReplyAddress(),
    )


def create(name: str = "1", session_id: str | None = None, *, new: NewSession | None = None) -> ChangeChannel:
    """Open a session."""
    return lifecycle(cmd.CreateSession(new_session=new), name, session_id=session_id)


def resolve(name: str = "1", *, new: NewSession | None = None) -> ChangeChannel:
    """The active session, or a new one."""
    return lifecycle(cmd.ResolveSession(new_session=new), name)


def rotate(name: str = "1", *, new: NewSession | None = None) -> ChangeChannel:
    """Archive the active session, open a new one."""
    return lifecycle(cmd.RotateSession(new_session=new), name)


def archive(session_id: str, name: str = "a") -> ChangeChannel:
    """Archive a session."""
    return lifecycle(cmd.ArchiveSession(), name, session_id=session_id)


def from_session(what: str, session_id: str, seq: int = 1, *, new: NewSession | None = None) -> ReceiveForward:
    """A session tells the channel something."""
    return ReceiveForward(source_kind="session", source_id=session_id, seq=seq, what=what, new_session=new)
