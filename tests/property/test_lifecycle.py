"""Both aggregates and a bad network against a model of plain dicts and a perfect one.

The fold equals the model at every step, whatever is doubled, lost, delayed or folded anew; and once everything has
arrived, a channel and its sessions agree.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.given import USAGE
from tests.lifecycle_model import Model
from tests.lifecycle_world import Message, Stream, World, fold
from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_schemas.parts import NewSession, ReplyAddress, text_content
from turnlog_streams.answers import conflict_key
from turnlog_streams.channel.commands import ChangeChannel
from turnlog_streams.channel.decide import channel_answer_needs, known_channel_answer
from turnlog_streams.channel.frames import channel_reply_again
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ReceiveForward
from turnlog_streams.lookups import RowsInMemory
from turnlog_streams.policy import Policy
from turnlog_streams.reply import Reply
from turnlog_streams.session.commands import (
    AcceptChat,
    Archive,
    Cancel,
    CompleteTurn,
    RequestHistoryCompaction,
    SkipHistoryCompaction,
)
from turnlog_streams.session.history_compactions import MAX_OWED_RUNS
from turnlog_streams.session.needs import known_answer

POLICY = Policy(max_queued_turns=2)
CHANNELS = st.sampled_from(["a", "a", "b"])
#: Ids that producers choose: of a channel by their shape, of none, the very name of a channel.
GIVEN_IDS = ["a-00000001", "a-00000002", "b-00000001", "x", "a"]
TERMINAL = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)


@dataclass(frozen=True)
class Asked:
    """A request of the past."""

    stream: Stream
    command: ChangeChannel | AcceptChat | Cancel | RequestHistoryCompaction
    facts: tuple[Fact, ...]


class LifecycleMachine(RuleBasedStateMachine):
    """Everything that producers, runners, owners and the network may do, in every order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(policy=POLICY, on_reply=self.answered)
        self.model = Model(max_queued_turns=POLICY.max_queued_turns)
        self.asked: list[Asked] = []
        self.due: dict[str, tuple[tuple[Stream, Stream], int]] = {}  #: what must be heard before a request is answered
        self.conflicts: Counter[str] = Counter()
        self.archives: list[str] = []  #: by the session's id, carried out
        self.count = 0

    def next_name(self) -> str:
        self.count += 1
        return str(self.count)

    def ids(self) -> list[str]:
        return sorted(
            {*GIVEN_IDS, *self.model.sessions, *(s for c in self.model.channels.values() for s in c["opened"])}
        )

    def ask(
        self, stream: Stream, command: ChangeChannel | AcceptChat | Cancel | Archive | RequestHistoryCompaction
    ) -> list[Fact]:
        facts = self.world.tell(stream, command)
        self.asked.append(Asked(stream, command, tuple(facts)))
        return facts

    # ---- requests

    @rule(
        channel=CHANNELS,
        command=st.sampled_from([cmd.CreateSession(), cmd.CreateSession(), cmd.ResolveSession(), cmd.RotateSession()]),
        data=st.data(),
        title=st.sampled_from([None, "Title"]),
        times=st.sampled_from([1, 1, 1, 50]),
    )
    def a_session_is_wanted(
        self, channel: str, command: cmd.ChannelRequest, data: st.DataObject, title: str | None, times: int
    ) -> None:
        given_id = None
        if isinstance(command, cmd.CreateSession):  # perhaps with an id that another channel has, or a chat made
            given_id = data.draw(st.none() | st.sampled_from(self.ids()))
        for _ in range(times if isinstance(command, cmd.ResolveSession) else 1):
            self.lifecycle(channel, replace(command, new_session=NewSession(title=title)), given_id)  # type: ignore[call-arg]

    @precondition(lambda self: any(session["channel"] for session in self.model.sessions.values()))
    @rule(data=st.data())
    def a_channel_wants_a_session_of_another_one(self, data: st.DataObject) -> None:
        homes = {name: row["channel"] for name, row in self.model.sessions.items() if row["channel"]}
        session_id = data.draw(st.sampled_from(sorted(homes)))
        channel = "b" if homes[session_id] == "a" else "a"
        self.lifecycle(channel, cmd.CreateSession(), session_id)

    @rule(channel=CHANNELS, data=st.data())
    def a_session_is_archived(self, channel: str, data: st.DataObject) -> None:
        known = self.model.channel(channel)["opened"] or GIVEN_IDS
        self.lifecycle(channel, cmd.ArchiveSession(), data.draw(st.sampled_from([*known, "never"])))

    @rule(data=st.data())
    def a_session_is_archived_by_its_id(self, data: st.DataObject) -> None:
        session_id, name = data.draw(st.sampled_from(self.ids())), self.next_name()
        request = Archive(request_id=f"r{name}", command_hash=f"h{name}", reply=ReplyAddress())
        self.ask((SESSION, session_id), request)
        answer = self.world.session(session_id).answers.known[request.request_id]
        fate = self.model.archive(session_id)
        assert (answer.kind if answer.kind != "refused" else answer.code) == fate
        home = self.model.session(session_id)["channel"]
        self.archives += [request.request_id] * (fate == "decided")
        if fate == "decided" and home is not None:
            pair = ((SESSION, session_id), (CHANNEL, home))
            self.due[request.request_id] = (pair, self.model.last.get(pair, 0))

    def lifecycle(self, channel: str, command: cmd.ChannelRequest, session_id: str | None) -> None:
        name = self.next_name()
        request = ChangeChannel(
            request_id=f"r{name}",
            command_hash=f"h{name}",
            command=command,
            session_id=session_id,
            new_ids=(f"{channel}-{self.count:08x}", f"{channel}-{self.count:07x}f"),
            reply=ReplyAddress(),
        )
        facts = self.ask((CHANNEL, channel), request)
        self.model.lifecycle(channel, request)
        answer = self.model.channel(channel)["answers"][request.request_id]
        if isinstance(answer, str):
            (refused,) = facts
            assert isinstance(refused.event, ev.RequestRefused)
            assert refused.event.code == answer
        else:
            pair = ((CHANNEL, channel), (SESSION, answer[0]))
            self.due[request.request_id] = (pair, self.model.last.get(pair, 0))

    @rule(
        data=st.data(),
        on_busy=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt"]),
        channel=st.sampled_from([None, None, None, "a", "b"]),
    )
    def somebody_chats(self, data: st.DataObject, on_busy: str, channel: str | None) -> None:
        session_id, name = data.draw(st.sampled_from(self.ids())), self.next_name()
        new = NewSession(channel=channel) if channel else None
        request = AcceptChat(
            request_id=f"r{name}",
            command_hash=f"h{name}",
            turn_id=f"t{name}",
            chat=cmd.Chat(content=text_content("Hi"), on_busy=on_busy, new_session=new),
            reply=ReplyAddress(),
        )
        self.ask((SESSION, session_id), request)
        fate = self.model.chat(session_id, request.turn_id, on_busy, channel)
        answer = self.world.session(session_id).answers.known[request.request_id]
        assert (answer.kind if answer.kind != "refused" else answer.code) == fate

    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        session_id, name = data.draw(st.sampled_from(self.ids())), self.next_name()
        session = self.model.session(session_id)
        turn = data.draw(st.sampled_from([None, "never", *session["turns"], *list(session["ended"])[-1:]]))
        request = Cancel(
            request_id=f"r{name}", command_hash=f"h{name}", turn_id=turn, reply=ReplyAddress(), partial="Half an"
        )
        self.ask((SESSION, session_id), request)
        answer = self.world.session(session_id).answers.known[request.request_id]
        assert answer.code == self.model.cancel(session_id, turn)

    @rule(data=st.data())
    def somebody_wants_a_summary(self, data: st.DataObject) -> None:
        session_id, name = data.draw(st.sampled_from(self.ids())), self.next_name()
        if len(self.model.session(session_id)["owed"]) == MAX_OWED_RUNS:
            return
        request = RequestHistoryCompaction(
            request_id=f"r{name}", command_hash=f"h{name}", instructions=None, reply=ReplyAddress()
        )
        self.ask((SESSION, session_id), request)
        answer = self.world.session(session_id).answers.known[request.request_id]
        fate = self.model.compact(session_id, request.request_id)
        assert (answer.kind if answer.kind != "refused" else answer.code) == fate

    @precondition(lambda self: any(session["owed"] for session in self.model.sessions.values()))
    @rule(data=st.data())
    def a_run_ends(self, data: st.DataObject) -> None:
        """Also of a session that was archived meanwhile."""
        session_id = data.draw(st.sampled_from([name for name, row in self.model.sessions.items() if row["owed"]]))
        owed = self.model.session(session_id)["owed"]
        request_id = owed.pop(data.draw(st.integers(0, len(owed) - 1)))
        (fact,) = self.world.tell((SESSION, session_id), SkipHistoryCompaction(request_id=request_id))
        assert isinstance(fact.event, ev.HistoryCompactionSkipped)

    @precondition(lambda self: any(session["turns"] for session in self.model.sessions.values()))
    @rule(data=st.data())
    def a_runner_ends(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from([name for name, row in self.model.sessions.items() if row["turns"]]))
        turn = self.model.session(session_id)["turns"][0]
        done = CompleteTurn(turn_id=turn, attempt=1, usage=USAGE)
        assert isinstance(self.world.tell((SESSION, session_id), done)[0].event, ev.TurnCompleted)
        self.model.complete(session_id)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), other=st.booleans())
    def a_request_comes_again(self, data: st.DataObject, other: bool) -> None:
        """The same one finds its answer; with another command under its id it is a conflict."""
        old = data.draw(st.sampled_from(self.asked))
        if not other:
            assert self.world.tell(old.stream, old.command) == []
            self.check_answer_again(old)
            return
        request = replace(old.command, command_hash="other")
        new = (
            self.world.rows[old.stream].answers.get(conflict_key(request.request_id, "other"))
            if old.stream[0] == CHANNEL
            else known_answer(self.world.session(old.stream[1]), request.request_id, "other")
        ) is None
        facts = self.world.tell(old.stream, request)
        assert [fact.event.code for fact in facts if isinstance(fact.event, ev.RequestRefused)] == ["conflict"] * new
        assert len(facts) == new
        self.conflicts[request.request_id] += new

    def check_answer_again(self, old: Asked) -> None:
        if not isinstance(old.command, ChangeChannel):
            return
        channel, request_id = self.world.channel(old.stream[1]), old.command.request_id
        needs = partial(channel_answer_needs, channel, request_id, old.command.command_hash)
        found = self.world.rows[old.stream].find(needs)
        answer = known_channel_answer(channel, request_id, old.command.command_hash, found)
        assert answer is not None
        again = channel_reply_again(channel, answer, request_id, ReplyAddress(), found)
        expected = self.model.channel(old.stream[1])["answers"][request_id]
        if again is None:
            assert request_id in channel.waits
        elif isinstance(again.frame, fr.SessionInfo):
            assert (again.session_id, again.frame.created) == expected
        else:
            assert isinstance(again.frame, fr.RequestRefused)
            assert again.frame.code == expected

    def answered(self, reply: Reply) -> None:
        """What the reader sends next comes behind all that the session was told."""
        if not isinstance(reply.frame, fr.SessionInfo):
            return
        pair, seq = self.due.get(reply.request_id, (None, 0))
        if pair is None:  # it is being decided, and waits for nothing that is said from now on
            pair = ((CHANNEL, reply.channel or ""), (SESSION, reply.session_id or ""))
            seq = self.model.last.get(pair, 0)
        assert self.model.heard.get(pair, 0) >= seq
        if pair[1][0] == SESSION:
            assert pair == ((CHANNEL, reply.channel or ""), (SESSION, reply.session_id or ""))
            assert self.world.session(pair[1][1]).exists

    # ---- the network, the owners

    def arrive(self, message: Message) -> None:
        waiting = list(getattr(self.world.state(message.target), "waits", ()))
        facts = self.world.arrive(message)
        assert message.hops <= 2, "a chain that does not end"
        if isinstance(message.command, ReceiveForward):
            source = (message.command.source_kind, message.command.source_id)
            assert bool(facts) == self.model.hear(source, message.target, message.command.seq)
        elif facts:
            self.model.receipt(message.target, message.command.seq, waiting)

    @precondition(lambda self: self.world.network.flying)
    @rule(data=st.data(), keep=st.booleans())
    def a_message_arrives(self, data: st.DataObject, keep: bool) -> None:
        """Any of those that are on their way; perhaps a copy of it comes later."""
        flying = self.world.network.flying
        at = data.draw(st.integers(0, len(flying) - 1))
        self.arrive(flying[at] if keep else flying.pop(at))

    @rule()
    def receipts_are_lost(self) -> None:
        self.world.network.lose_receipts()

    @rule()
    def what_is_not_received_is_sent_again(self) -> None:
        for stream, state in self.world.states.items():
            self.world.network.send_due(stream, state.outbox, again=True)

    @precondition(lambda self: self.world.states)
    @rule(data=st.data())
    def an_owner_is_lost(self, data: st.DataObject) -> None:
        self.world.crash(data.draw(st.sampled_from(sorted(self.world.states))))

    @rule()
    def everything_arrives(self) -> None:
        self.world.quiesce(self.arrive)
        assert not any(self.model.news.values())
        self.they_agree()
        for name, channel in self.model.channels.items():
            assert not self.world.channel(name).waits
            times = Counter(r.request_id for r in self.world.replies if r.channel == name and r.session_id is not None)
            assert times == Counter(dict.fromkeys(channel["answers"], 1)) + Counter(
                {request_id: n for request_id, n in self.conflicts.items() if request_id in channel["answers"]}
            )

        told = Counter(reply.request_id for reply in self.world.replies if reply.session_id is None)
        assert told == Counter(self.archives)

    def they_agree(self) -> None:
        """At most one session of a channel believes that it is the active one, and it is the channel's."""
        for (kind, name), state in self.world.states.items():
            if kind == CHANNEL:
                mine = [s for k, s in self.world.states.items() if k[0] == SESSION and s.channel == name]
                active = {session.session_id for session in mine if session.active and not session.archived}
                known = {session.session_id for session in mine}
                assert active == ({state.active} if state.active else set())
                rows = self.world.rows[CHANNEL, name].sessions
                assert {session_id for session_id, s in rows.items() if not s.archived} <= known
                for session in mine:
                    assert session.archived == rows[session.session_id].archived

    # ---- what always holds

    @invariant()
    def the_fold_is_what_the_model_says(self) -> None:
        for name, row in self.model.channels.items():
            channel = self.world.channel(name)
            assert channel.active == self.model.active(name)
            rows = self.world.rows.get((CHANNEL, name), RowsInMemory())
            by_rank = sorted(rows.sessions.values(), key=lambda session: session.rank)
            assert (channel.session_count, channel.archived_count) == (len(by_rank), len(row["archived"]))
            assert [session.session_id for session in by_rank] == row["opened"]
            assert {session.session_id for session in by_rank if session.archived} == row["archived"]
            answers = {
                request_id: (a.session_id, a.created) if a.kind == "decided" else a.code
                for request_id, a in rows.answers.items()
                if "\0" not in request_id
            }
            assert answers == row["answers"]
        for name, row in self.model.sessions.items():
            session = self.world.session(name)
            assert (session.channel, session.exists) == (row["channel"], row["exists"])
            assert (session.archived, session.active) == (row["archived"], row["active"])
            assert [*([session.running] if session.running else []), *session.queue] == row["turns"]
            assert [run.request_id for run in session.owed_runs] == row["owed"]
            ended = {a.turn_id: a.kind for a in session.answers.known.values() if a.turn_id and a.kind != "open"}
            assert ended == row["ended"]

    @invariant()
    def archived_is_for_ever_and_nothing_waits_there(self) -> None:
        for (kind, _), state in self.world.states.items():
            if kind == SESSION and state.archived:
                assert not state.queue
        for (kind, _), facts in self.world.facts.items():
            if kind == SESSION:
                archived = [i for i, fact in enumerate(facts) if isinstance(fact.event, ev.SessionArchived)]
                assert len(archived) <= 1
                later = facts[archived[0] :] if archived else []
                assert not [fact for fact in later if isinstance(fact.event, ev.TurnAccepted)]

    def teardown(self) -> None:
        self.everything_arrives()
        for stream, facts in self.world.facts.items():
            assert fold(stream, facts) == self.world.state(stream)
            accepted = [fact.turn_id for fact in facts if isinstance(fact.event, ev.TurnAccepted)]
            ends = Counter(fact.turn_id for fact in facts if isinstance(fact.event, TERMINAL))
            assert set(ends.values()) <= {1}
            assert set(ends) <= set(accepted)


LifecycleMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestLifecycle = LifecycleMachine.TestCase
