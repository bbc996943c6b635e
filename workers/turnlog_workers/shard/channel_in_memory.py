"""A channel in memory."""

from collections.abc import Callable, Sequence

from turnlog_schemas.events import CHANNEL
from turnlog_streams.channel.commands import ChangeChannel, ChannelCommand
from turnlog_streams.channel.decide import (
    active_needs,
    channel_answer_needs,
    channel_needs,
    decide_channel,
    known_channel_answer,
)
from turnlog_streams.channel.frames import active_reply, channel_replies_to, channel_reply_again
from turnlog_streams.channel.state import Channel, evolve_channel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.forwarding import Forward, ReceiveForward, ReceiveReceipt
from turnlog_streams.lookups import NOTHING, Found, Lookup
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.reply import Reply
from turnlog_workers.intake.request_reader import Query, StreamCommand
from turnlog_workers.shard.stream import Stream


class ChannelInMemory(Stream[Channel]):
    """A channel: its state. The rows that its decisions look up are in the store."""

    kind = CHANNEL

    @property
    def stream_id(self) -> str:
        """The channel."""
        return self.state.channel

    @property
    def version(self) -> int:
        """Of the stream."""
        return self.state.version

    @property
    def outbox(self) -> tuple[Forward, ...]:
        """Pending forwards."""
        return self.state.outbox

    @property
    def busy(self) -> bool:
        """Must it stay in memory?"""
        return bool(self.state.outbox) and not self.set_aside

    def needs(self, command: StreamCommand, found: Found) -> Lookup | None:
        """The rows that deciding and answering a command depends on."""
        if isinstance(command, Query):
            return active_needs(self.state, found)
        return channel_needs(self.state, _of_channel(command), found)

    def answer_needs(self, request_id: str, command_hash: str, found: Found) -> Lookup | None:
        """The rows that giving an answer again depends on."""
        return channel_answer_needs(self.state, request_id, command_hash, found)

    def decide(self, command: StreamCommand, policy: Policy, found: Found) -> list[Fact]:
        """The pure decision. A query decides to nothing."""
        return [] if isinstance(command, Query) else decide_channel(self.state, _of_channel(command), policy, found)

    def take(self, fact: Fact, found: Found = NOTHING) -> list[Reply]:
        """Become what a decided fact leads to; the frames that tell of it."""
        replies = channel_replies_to(self.state, fact, found)
        after = evolve_channel(self.state, fact)
        self._become(after, leaving(self.state, after, fact))
        return replies

    def way_back(self) -> Callable[[], None]:
        """Call it to make the channel what it is now."""
        state, unsaved = self.state, self.unsaved

        def back() -> None:
            self.state, self.unsaved = state, unsaved

        return back

    def answers(self, command: StreamCommand, facts: Sequence[Fact], policy: Policy, found: Found) -> list[Reply]:
        """What the sender of a request gets beside the frames of its facts."""
        if isinstance(command, Query):
            return [active_reply(self.state, command.request_id, command.reply, found)]
        if facts or not isinstance(command, ChangeChannel | Refuse):
            return []
        answer = known_channel_answer(self.state, command.request_id, command.command_hash, found)
        if answer is None:
            return []
        reply = channel_reply_again(self.state, answer, command.request_id, command.reply, found)
        return [reply] if reply is not None else []

    def answer_of(self, request_id: str, command_hash: str, found: Found) -> Reply | None:
        """The answer that a request has in the log, to where it was asked."""
        answer = known_channel_answer(self.state, request_id, command_hash, found)
        return None if answer is None else channel_reply_again(self.state, answer, request_id, answer.reply, found)


def _of_channel(command: StreamCommand) -> ChannelCommand:
    """What the reader of requests sends to channels only."""
    if isinstance(command, ChangeChannel | Refuse | ReceiveForward | ReceiveReceipt):
        return command
    raise TypeError(f"a channel takes no {type(command).__name__}")
