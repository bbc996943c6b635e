"""Streams in memory: a session (its state, its messages, what runs for it) or a channel.

State and history run ahead of the log by what is being appended; a release throws both away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnlog_schemas import commands as cmd
from turnlog_schemas import frames as fr
from turnlog_schemas.events import CHANNEL, SESSION, MessageStored
from turnlog_schemas.parts import NO_USAGE, Usage
from turnlog_streams.channel.channel import Channel, decide_channel, evolve_channel, known_channel_answer
from turnlog_streams.forwarding import Forward, ReceiveForward, ReceiveReceipt
from turnlog_streams.history.compaction_plan import SessionHistory, needs_history_compaction, session_tokens
from turnlog_streams.history.messages import HistoryMessage, history_message, of_turn
from turnlog_streams.history.tokens import Weights, measured_prompt, prompt_tokens, with_margin
from turnlog_streams.history.view import assemble, summary_message
from turnlog_streams.policy import Policy
from turnlog_streams.reply_frames import (
    Reply,
    active_reply,
    channel_replies_to,
    channel_reply_again,
    history_page,
    replies_to,
    reply_again,
    session_info,
)
from turnlog_streams.session.commands import Cancel
from turnlog_streams.session.decide import decide, known_answer
from turnlog_streams.session.state import Fact, Session, evolve
from turnlog_streams.turn import ReplyAddress
from turnlog_workers.intake.request_reader import Query, StreamCommand
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.sessions.history_compactor import CompactionInput
from turnlog_workers.sessions.session_actor import SessionActor


@dataclass(slots=True, kw_only=True)
class LiveSession:
    """A session in memory."""

    session: Session
    history: list[HistoryMessage] = field(default_factory=list)
    last_offset: int = -1  #: of the session's newest confirmed event
    last_used: float = 0.0  #: monotonic seconds
    unknown_events: bool = False  #: written by a newer version: nothing is decided for it here
    set_aside: str = ""  #: why nothing is decided for it here: something of ours failed on it
    actor: SessionActor | None = None
    frame_seqs: dict[tuple[str | None, int], int] = field(default_factory=dict)
    kind: str = SESSION
    weights: Weights = field(default_factory=Weights)  #: tokens of its messages, as far as they were counted
    _counted: tuple[int, int] = (0, 0)  #: messages, and what they weigh together

    @property
    def stream_id(self) -> str:
        """The session id."""
        return self.session.session_id

    @property
    def version(self) -> int:
        """Of the stream."""
        return self.session.version

    @property
    def state(self) -> Session:
        """What decisions are made on."""
        return self.session

    @property
    def outbox(self) -> tuple[Forward, ...]:
        """Pending forwards."""
        return self.session.outbox

    @property
    def busy(self) -> bool:
        """Must it stay in memory?"""
        if self.set_aside:
            return self.actor is not None and self.actor.busy
        session = self.session
        owes = session.open_turns or session.outbox or session.owed_runs
        return bool(owes or (self.actor is not None and self.actor.busy))

    @property
    def turn_at_work(self) -> bool:
        """Has a turn a runner, or is its end on its way to the log? Decided is not confirmed."""
        running = self.session.running is not None and not self.set_aside
        return running or (self.actor is not None and self.actor.awaits_end)

    def become(self, state: Session) -> None:
        """Take the state that a recorded decision leads to."""
        self.session = state

    def decide(self, state: Session, command: StreamCommand, policy: Policy) -> list[Fact]:
        """The pure decision. A query decides to nothing."""
        return [] if isinstance(command, Query) else decide(state, command, policy)  # type: ignore[arg-type]

    def fold(self, state: Session, fact: Fact) -> Session:
        """The state after a fact."""
        return evolve(state, fact)

    def note(self, fact: Fact) -> None:
        """Keep the message of a fact."""
        if isinstance(fact.event, MessageStored):
            self.history.append(history_message(fact.turn_id or "", fact.event))

    def frames(self, before: Session, fact: Fact) -> list[Reply]:
        """What a fact tells its reader."""
        return replies_to(before, fact, self.history)

    def trace_of(self, before: Session, fact: Fact) -> ReplyAddress | None:
        """The request that caused a fact, if its turn tells."""
        turn = before.turns.get(fact.turn_id or "")
        return turn.reply if turn else None

    def answers(self, command: StreamCommand, facts: Sequence[Fact], policy: Policy) -> list[Reply]:
        """What the sender of a request gets beside the frames of its facts."""
        if isinstance(command, Query):
            return [self._answer_query(command, policy)]
        if isinstance(command, ReceiveForward | ReceiveReceipt) or (facts and not isinstance(command, Cancel)):
            return []
        request_id, digest = getattr(command, "request_id", ""), getattr(command, "command_hash", "")
        answer = known_answer(self.session, request_id, digest)
        if answer is None or (facts and answer.kind == "refused"):  # a refusal's frame is its fact's
            return []
        reply = reply_again(answer, request_id, getattr(command, "reply", ReplyAddress()), self.history)
        return [reply] if reply is not None else []

    def _answer_query(self, query: Query, policy: Policy) -> Reply:
        frame: fr.Frame
        if not self.session.exists:
            frame = fr.RequestRefused(code="not_found", reason=f"session {self.stream_id} does not exist")
        elif isinstance(query.query, cmd.GetHistory):
            frame = history_page(
                self.history,
                query.query.after,
                max(1, min(query.query.limit, 1000)),
                self.session.history_compaction.summary,
                skip_covered=query.query.skip_covered,
                framing=query.reply.framing,
            )
        else:
            history, bounds = self.session_history(), self.session.history_policy(policy.history)
            frame = session_info(
                self.session,
                session_tokens(history),
                needs_compaction=needs_history_compaction(history, bounds),
            )
        channel = self.session.channel or None
        return Reply(frame=frame, address=query.reply, request_id=query.request_id, channel=channel)

    def answer_of(self, request_id: str, command_hash: str) -> Reply | None:
        """The answer that a request has in the log, to where it was asked."""
        answer = known_answer(self.session, request_id, command_hash)
        return None if answer is None else reply_again(answer, request_id, answer.reply, self.history)

    def partial_text(self) -> str:
        """What the running turn has said since its last message."""
        return self.actor.partial_text if self.actor is not None else ""

    def unrecorded_usage(self) -> Usage:
        """What the running turn has cost and the log does not have."""
        return self.actor.unrecorded_usage if self.actor is not None else NO_USAGE

    def cancel_turn(self, turn_id: str) -> None:
        """Stop the turn's runner, if it is the one at work."""
        if self.actor is not None:
            self.actor.cancel(turn_id)

    def reset_runner(self) -> None:
        """The next turn makes a new runner."""
        if self.actor is not None:
            self.actor.reset()

    def next_frame_seq(self, reply: Reply) -> int:
        """Position of the next frame in its attempt, from 0; a terminal frame ends the count."""
        key = (reply.turn_id, reply.attempt)
        seq = self.frame_seqs.get(key, 0)
        if reply.terminal:
            self.frame_seqs = {k: v for k, v in self.frame_seqs.items() if k[0] != reply.turn_id}
        else:
            self.frame_seqs[key] = seq + 1
        return seq

    def turn_input(self, turn_id: str, epoch: int) -> TurnInput:
        """What the runner of the running turn gets."""
        turn = self.session.turns[turn_id]
        view = assemble(self.history, self.session.history_compaction.summary, keep_open_calls=True).messages
        return TurnInput(
            session_id=self.session.session_id,
            turn_id=turn_id,
            attempt=turn.attempt,
            turn_number=self.session.turn_count,
            fencing_token=epoch,
            model=turn.model or "",
            instructions=self.session.instructions,
            user_content=turn.content,
            history=[message for message in view if message.turn_id != turn_id],
            turn_messages=of_turn(self.history, turn_id)[1:],
            assembled=view,
            metadata=dict(self.session.metadata),  # a runner's own: it may write into it
            channel=self.session.channel,
            spent=turn.spent,
        )

    # ---- history compaction

    def session_history(self, usage: Usage | None = None) -> SessionHistory:
        """What plans depend on. ``usage``: what the running attempt has reported so far."""
        session = self.session
        measure = None
        if usage is not None and session.running is not None:
            measure = measured_prompt(of_turn(self.history, session.running), usage)
        return SessionHistory(
            session_id=session.session_id,
            messages=self.history,
            instructions=session.instructions,
            state=session.history_compaction,
            measure=measure or session.measure,
            weights=self.weights,
        )

    def compaction_input(self, policy: Policy, epoch: int, usage: Usage | None = None) -> CompactionInput:
        """What a run of history compaction depends on."""
        return CompactionInput(
            history=self.session_history(usage),
            bounds=self.session.history_policy(policy.history),
            policy=policy,
            fencing_token=epoch,
            tokens_at_most=self._tokens_at_most(usage),
        )

    def _tokens_at_most(self, usage: Usage | None) -> int:
        """No fewer than the assembled history has, found without assembling it: most sessions are far from a limit."""
        count, weight = self._counted
        if count > len(self.history):  # a failed decision's messages are gone again
            count = weight = 0
        weight += sum(map(self.weights, self.history[count:]))
        self._counted = (len(self.history), weight)
        session = self.session
        measured = max(usage.last_input_tokens if usage else 0, session.measure.input_tokens if session.measure else 0)
        summary = session.history_compaction.summary
        weight += prompt_tokens([summary_message(summary)] if summary else [], session.instructions)
        return measured + with_margin(weight)


@dataclass(slots=True, kw_only=True)
class LiveChannel:
    """A channel in memory."""

    channel: Channel
    last_offset: int = -1
    last_used: float = 0.0
    unknown_events: bool = False
    set_aside: str = ""
    kind: str = CHANNEL

    @property
    def stream_id(self) -> str:
        """The channel."""
        return self.channel.channel

    @property
    def version(self) -> int:
        """Of the stream."""
        return self.channel.version

    @property
    def state(self) -> Channel:
        """What decisions are made on."""
        return self.channel

    @property
    def outbox(self) -> tuple[Forward, ...]:
        """Pending forwards."""
        return self.channel.outbox

    @property
    def busy(self) -> bool:
        """Must it stay in memory?"""
        return bool(self.channel.outbox) and not self.set_aside

    def become(self, state: Channel) -> None:
        """Take the state that a recorded decision leads to."""
        self.channel = state

    def decide(self, state: Channel, command: StreamCommand, policy: Policy) -> list[Fact]:
        """The pure decision. A query decides to nothing."""
        return [] if isinstance(command, Query) else decide_channel(state, command, policy)  # type: ignore[arg-type]

    def fold(self, state: Channel, fact: Fact) -> Channel:
        """The state after a fact."""
        return evolve_channel(state, fact)

    def note(self, fact: Fact) -> None:
        """A channel has no messages."""

    def frames(self, before: Channel, fact: Fact) -> list[Reply]:
        """What a fact tells its reader."""
        return channel_replies_to(before, fact)

    def trace_of(self, before: Channel, fact: Fact) -> ReplyAddress | None:
        """A channel's facts say themselves which request caused them."""
        return None

    def answers(self, command: StreamCommand, facts: Sequence[Fact], policy: Policy) -> list[Reply]:
        """What the sender of a request gets beside the frames of its facts."""
        if isinstance(command, Query):
            reply = active_reply(self.channel, command.request_id, command.reply)
            if reply is None:
                reason = f"channel {self.stream_id} has no active session"
                frame = fr.RequestRefused(code="not_found", reason=reason)
                reply = Reply(
                    frame=frame,
                    address=command.reply,
                    request_id=command.request_id,
                    session_id="",
                    channel=self.stream_id,
                )
            return [reply]
        if isinstance(command, ReceiveForward | ReceiveReceipt) or facts:
            return []
        request_id, digest = getattr(command, "request_id", ""), getattr(command, "command_hash", "")
        answer = known_channel_answer(self.channel, request_id, digest)
        if answer is None:
            return []
        reply = channel_reply_again(self.channel, answer, request_id, getattr(command, "reply", ReplyAddress()))
        return [reply] if reply is not None else []

    def answer_of(self, request_id: str, command_hash: str) -> Reply | None:
        """The answer that a request has in the log, to where it was asked."""
        answer = known_channel_answer(self.channel, request_id, command_hash)
        return None if answer is None else channel_reply_again(self.channel, answer, request_id, answer.reply)

    def next_frame_seq(self, reply: Reply) -> int:
        """Every lifecycle request has one frame."""
        return 0


Live = LiveSession | LiveChannel


def closed_to_decisions(live: Live) -> tuple[str, str] | None:
    """Why nothing is decided for a stream here, as a code and a sentence; ``None``: it is."""
    who = f"{live.kind} {live.stream_id}"
    if live.unknown_events:
        return "newer_version", f"{who} holds events written by a newer Turnlog: upgrade this worker"
    if live.set_aside:
        return "set_aside", f"{who} is set aside by its worker: {live.set_aside}"
    return None
