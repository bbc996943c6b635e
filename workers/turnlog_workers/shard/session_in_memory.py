"""A session in memory: its state and its messages, its answers, and what its runner gets."""

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence

from turnlog_schemas import commands as cmd
from turnlog_schemas import frames as fr
from turnlog_schemas.events import SESSION, MessageStored, SessionErased, TurnHidden
from turnlog_schemas.generation import copied, merged
from turnlog_schemas.parts import NO_USAGE, ReplyAddress, Usage
from turnlog_streams.channel.commands import ChangeChannel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.forwarding import Forward, ReceiveForward, ReceiveReceipt
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.compaction_plan import SessionHistory, needs_history_compaction, session_tokens
from turnlog_streams.history.messages import HistoryMessage, history_message, of_turn
from turnlog_streams.history.tokens import Weights, measured_prompt, message_tokens, prompt_tokens, with_margin
from turnlog_streams.history.view import assemble, summary_message
from turnlog_streams.history.window import window_of
from turnlog_streams.lookups import NOTHING, Found, Lookup
from turnlog_streams.policy import Policy
from turnlog_streams.reply import Reply
from turnlog_streams.reply_frames import erased_told, history_page, replies_to, reply_again, session_info
from turnlog_streams.session.commands import (
    Cancel,
    Erase,
    SessionCommand,
)
from turnlog_streams.session.decide import decide
from turnlog_streams.session.erased_state import CODE as ERASED
from turnlog_streams.session.erased_state import why
from turnlog_streams.session.needs import answer_needs, known_answer, session_needs
from turnlog_streams.session.state import Session, evolve
from turnlog_streams.session.title import TitleTask, title_task
from turnlog_workers.intake.request_reader import Query, StreamCommand
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.sessions.history_compactor import CompactionInput
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.shard.running_sum import RunningSum
from turnlog_workers.shard.stream import Stream
from turnlog_workers.tools.client_tools import client_tools

_MADE_ANEW = (
    "It can be erased once its state can be read: stop the worker that owns its partition, delete that partition's "
    "file in the worker's data directory (stores/p0007.*.duckdb for 7; it is made anew from the log), start it, and "
    "erase again"
)
_SESSION_BYTES = 5_000  #: of 100,000 idle ones, as measured
_MESSAGE_BYTES = 800  #: beside its texts, with what is remembered of its turn


class SessionInMemory(Stream[Session]):
    """A session: its state, its messages, and what runs for it."""

    kind = SESSION

    def __init__(self, state: Session, history: Iterable[HistoryMessage] = ()) -> None:
        super().__init__(state)
        self.history = list(history)
        self.not_held_to = state.history_compaction.covered_to  #: some messages up to here are in the store only
        self.saved_to = state.messages  #: messages up to here are in the store
        self.actor: SessionActor | None = None
        self.frame_seqs: dict[tuple[str | None, int], int] = {}
        self._count_anew()

    @property
    def stream_id(self) -> str:
        """The session id."""
        return self.state.session_id

    @property
    def version(self) -> int:
        """Of the stream."""
        return self.state.version

    @property
    def outbox(self) -> tuple[Forward, ...]:
        """Pending forwards."""
        return self.state.outbox

    @property
    def open_turns(self) -> int:
        """Turns that are accepted and not ended."""
        return len(self.state.turns)

    @property
    def busy(self) -> bool:
        """Must it stay in memory?"""
        if self.is_aside:
            return self.actor is not None and self.actor.busy
        session = self.state
        owes = session.open_turns or session.outbox or session.owed_runs
        return bool(owes or (self.actor is not None and self.actor.busy))

    @property
    def is_aside(self) -> bool:
        """What failed here has nothing left to fail on once it is erased."""
        return bool(self.set_aside) and self.state.erasure is None

    def closed_to(self, command: StreamCommand) -> tuple[str, str] | None:
        """An erased session hears its channel, gives its receipt again, and takes nothing else.

        One that is set aside can be erased, since nothing of what failed is needed for that; but its state is.
        """
        if isinstance(command, Erase) and self.is_aside and not self.unknown_events:
            return None if self.is_read else ("set_aside", f"session {self.stream_id}: {self.set_aside}. {_MADE_ANEW}")
        if self.state.erasure is None or isinstance(command, Erase | ReceiveForward | ReceiveReceipt):
            return self.closed
        return ERASED, why(self.stream_id)

    @property
    def turn_at_work(self) -> bool:
        """Has a turn a runner, or is its end on its way to the log? Decided is not confirmed."""
        running = self.state.running is not None and not self.is_aside
        return running or (self.actor is not None and self.actor.awaits_end)

    # ---- messages

    def let_go(self) -> None:
        """Hold only what a model may be shown: older messages that are saved go."""
        summary = self.state.history_compaction.summary
        if summary is None or not self.not_held_to < summary.to_seq <= self.saved_to:
            return
        self.not_held_to = summary.to_seq
        self._replace_history(window_of(summary, self.state.question_seq).of(self.history))

    def _replace_history(self, history: list[HistoryMessage]) -> None:
        self.history = history
        self._count_anew()

    def _count_anew(self) -> None:
        self.weights = Weights()  #: tokens of its messages, as far as a plan counted them
        self._tokens, self._bytes = RunningSum(message_tokens), RunningSum(_bytes_of)  #: of all that are held

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        session = self.state
        texts = [session.title, session.instructions or "", *session.metadata.values()]
        if (summary := session.history_compaction.summary) is not None:
            texts.append(summary.text)
        return _SESSION_BYTES + sum(map(sys.getsizeof, texts)) + self._bytes.over(self.history)

    def wanted_messages(self, after: int, limit: int) -> tuple[int, int, int] | None:
        """Of those that are not held."""
        return (after, limit + 1, self.not_held_to) if after < self.not_held_to else None

    def messages(self, after: int, limit: int) -> Sequence[HistoryMessage]:
        """Some messages behind one, in order."""
        fetched = self.fetched.messages.get((after, limit), ())
        behind = max(after, self.not_held_to)
        held = [message for message in self.history if message.message_seq > behind]
        return [*fetched, *held][: limit + 1]

    # ---- decide

    def needs(self, command: StreamCommand, found: Found) -> Lookup | None:
        """The rows that deciding and answering a command depends on."""
        if isinstance(command, Query) and isinstance(command.query, cmd.GetHistory):
            page = self._page(command.query)
            return None if page in found.messages else Lookup(messages=page)
        return None if isinstance(command, Query) else session_needs(self.state, _of_session(command), found)

    def answer_needs(self, request_id: str, command_hash: str, found: Found) -> Lookup | None:
        """The rows that giving an answer again depends on."""
        return answer_needs(self.state, request_id, command_hash, found)

    def decide(self, command: StreamCommand, policy: Policy, found: Found) -> list[Fact]:
        """The pure decision. A query decides to nothing."""
        return [] if isinstance(command, Query) else decide(self.state, _of_session(command), policy, found)

    # ---- evolve

    def take(self, fact: Fact, found: Found = NOTHING) -> list[Reply]:
        """Become what a decided fact leads to; the frames that tell of it."""
        before = self.state
        if isinstance(fact.event, MessageStored):
            self.history.append(history_message(fact.turn_id or "", fact.event))
        if isinstance(fact.event, SessionErased):
            self._replace_history([])
        replies = replies_to(before, fact, self.history)
        after = evolve(before, fact)
        self._become(after, leaving(before, after, fact))
        return replies

    def way_back(self) -> Callable[[], None]:
        """Call it to make the session what it is now."""
        state, unsaved, history, messages = self.state, self.unsaved, self.history, len(self.history)

        def back() -> None:
            self.state, self.unsaved, self.history = state, unsaved, history
            del history[messages:]

        return back

    # ---- answers

    def asked_by(self, fact: Fact) -> ReplyAddress | None:
        """Where the request that caused a fact is answered: its turn tells, or the fact itself."""
        turn = self.state.turns.get(fact.turn_id or "")
        if turn is None or isinstance(fact.event, TurnHidden):  # a turn is hidden for somebody else
            return super().asked_by(fact)
        return turn.reply

    def answers(self, command: StreamCommand, facts: Sequence[Fact], policy: Policy, found: Found) -> list[Reply]:
        """What the sender of a request gets beside the frames of its facts."""
        if isinstance(command, Query):
            return [self._answer_query(command, policy, found)]
        if isinstance(command, ReceiveForward | ReceiveReceipt | ChangeChannel):
            return []
        if facts and not isinstance(command, Cancel):
            return []
        if isinstance(command, Erase) and self.state.erasure is not None:
            return [erased_told(self.state, command.request_id, command.reply)]
        answer = known_answer(self.state, command.request_id, command.command_hash, found)
        if answer is None or (facts and answer.kind == "refused"):  # a refusal's frame is its fact's
            return []
        reply = reply_again(self.state, answer, command.request_id, command.reply, self._with(found))
        return [reply] if reply is not None else []

    def answer_of(self, request_id: str, command_hash: str, found: Found) -> Reply | None:
        """The answer that a request has in the log, to where it was asked."""
        answer = known_answer(self.state, request_id, command_hash, found)
        if answer is None:
            return None
        return reply_again(self.state, answer, request_id, answer.reply, self._with(found))

    def _with(self, found: Found) -> list[HistoryMessage]:
        """The messages that are held and those that were looked up, in their order."""
        if not found.messages:
            return self.history
        messages = {m.message_seq: m for m in itertools.chain(*found.messages.values(), self.history)}
        return [messages[seq] for seq in sorted(messages)]  # held calls may be older than what was looked up

    def _page(self, query: cmd.GetHistory) -> tuple[int, int]:
        """What of the history is asked for: the messages behind which, and how many at most."""
        covered_to = self.state.history_compaction.covered_to if query.skip_covered else 0
        return max(query.after, covered_to, 0), max(1, min(query.limit, 1000))

    def _answer_query(self, query: Query, policy: Policy, found: Found) -> Reply:
        frame: fr.Frame
        if not self.state.exists:
            frame = fr.RequestRefused(code="not_found", reason=f"session {self.stream_id} does not exist")
        elif isinstance(query.query, cmd.GetHistory):
            page = self._page(query.query)
            frame = history_page(
                found.messages[page],
                *page,
                self.state.history_compaction.summary,
                skip_covered=query.query.skip_covered,
                framing=query.reply.framing,
            )
        else:
            history, bounds = self.session_history(), self._bounds(policy)
            frame = session_info(
                self.state,
                session_tokens(history),
                needs_compaction=needs_history_compaction(history, bounds),
            )
        channel = self.state.channel
        return Reply(frame=frame, address=query.reply, request_id=query.request_id, channel=channel)

    def partial_text(self) -> str:
        """What the running turn has said since its last message."""
        return self.actor.partial_text if self.actor is not None else ""

    def first_delta_ms(self) -> int | None:
        """How long the running attempt took to its first delta; ``None``: it has streamed nothing."""
        return self.actor.first_delta_ms if self.actor is not None else None

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
        turn = self.state.turns[turn_id]
        view = assemble(self.history, self.state.history_compaction.summary, keep_open_calls=True).messages
        messages = of_turn(self.history, turn_id)
        begun = turn.inputs_in(messages)
        results = [message for message in messages[:begun] if message.role == "tool"]
        first = {message.message_seq for message in results}  # they belong to calls before this turn
        return TurnInput(
            session_id=self.state.session_id,
            turn_id=turn_id,
            attempt=turn.attempt,
            turn_number=self.state.turn_count,
            fencing_token=epoch,
            model=turn.model or "",
            instructions=self.state.instructions,
            user_content=turn.content,
            history=[message for message in view if message.turn_id != turn_id or message.message_seq in first],
            turn_messages=messages[begun:],
            tool_outputs=results,
            assembled=view,
            metadata=dict(self.state.metadata),  # a runner's own: it may write into it
            channel=self.state.channel or "",
            spent=turn.spent,
            params=copied(turn.params),  # as the metadata
            client_tools=client_tools(turn.tools),
        )

    def title_task(self, policy: Policy) -> TitleTask | None:
        """What the fast model is to be asked for a title; ``None``: it is not."""
        if not policy.titles or not policy.fast_model or not policy.allows(policy.fast_model):
            return None
        return title_task(self.state.title, self.state.turn_count, self.history, policy.fast_model)

    # ---- history compaction

    def session_history(self, usage: Usage | None = None) -> SessionHistory:
        """What plans depend on. ``usage``: what the running attempt has reported so far."""
        session = self.state
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

    def _bounds(self, policy: Policy) -> HistoryCompactionPolicy:
        session = self.state
        turn = session.turns.get(session.running or "")
        model = (turn.model if turn else None) or session.model or policy.model_of(session.channel)
        params = turn.params if turn else merged(policy.params, session.params)
        return policy.history_of(model, params, session.history_policy(policy.history))

    def history_fits(self, policy: Policy, usage: Usage | None = None) -> bool:
        """Is the assembled history surely within its bounds?"""
        return self._tokens_at_most(usage) <= self._bounds(policy).target_tokens

    def compaction_input(self, policy: Policy, epoch: int, usage: Usage | None = None) -> CompactionInput:
        """What a run of history compaction depends on."""
        return CompactionInput(
            history=self.session_history(usage),
            bounds=self._bounds(policy),
            policy=policy,
            fencing_token=epoch,
            not_held_to=self.not_held_to,
        )

    def _tokens_at_most(self, usage: Usage | None) -> int:
        """No fewer than the assembled history has, found without assembling it: most sessions are far from a limit."""
        session, weight = self.state, self._tokens.over(self.history)
        measured = max(usage.last_input_tokens if usage else 0, session.measure.input_tokens if session.measure else 0)
        summary = session.history_compaction.summary
        if summary is not None or session.instructions:
            weight += prompt_tokens([summary_message(summary)] if summary else [], session.instructions)
        return measured + with_margin(weight)


def _bytes_of(message: HistoryMessage) -> int:
    texts = [part.text for part in message.content or () if part.text]
    texts += [call.arguments for call in message.tool_calls]
    return _MESSAGE_BYTES + sum(map(sys.getsizeof, texts))


def _of_session(command: StreamCommand) -> SessionCommand:
    """What the reader of requests sends to sessions only."""
    if not isinstance(command, ChangeChannel | Query):
        return command
    raise TypeError(f"a session takes no {type(command).__name__}")
