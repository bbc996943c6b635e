"""Random event logs that the real decisions make: many sessions and channels, takeovers, failures, bad requests, newer
versions, and the late events of zombies in between."""

import random
from dataclasses import dataclass, field, replace

from tests.compaction_steps import compaction_step
from tests.lifecycle_steps import ADDRESSES, lifecycle_step
from tests.lifecycle_world import Network, decided, looked_up
from turnlog_schemas import events as ev
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.commands import Chat, UpdateSession
from turnlog_schemas.parts import (
    OUTCOMES,
    ClientTool,
    ContentPart,
    InitialMessage,
    NewSession,
    ToolCall,
    ToolOutput,
    Usage,
    text_content,
)
from turnlog_streams.channel.state import Channel, evolve_channel, rows_of_channel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.fold import StreamName, window
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.history.messages import HistoryMessage, history_message
from turnlog_streams.lookups import RowsInMemory
from turnlog_streams.policy import Policy
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, advance, is_accepted
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import (
    AcceptChat,
    CompleteTurn,
    FailAttempt,
    Hide,
    RecordMessage,
    ResumeTurn,
    Update,
)
from turnlog_streams.session.state import Session, evolve
from turnlog_workers.store.port import LoadedStream

CONTENTS: tuple[tuple[ContentPart, ...] | None, ...] = (
    None,
    (),
    text_content(""),
    text_content("plain"),
    text_content("nul \0, 'quotes' \"double\", \\ and 🜁 ü"),
    (ContentPart(text="two"), ContentPart(text=" parts")),
    (ContentPart(text=None),),
    (ContentPart(kind="file_ref", uri="https://files.example/1.png", media_type="image/png", bytes=12),),
)
AT_THE_END = (ToolCall(call_id="call-0", name="look_up", arguments="{}"),)
SAID = (
    InitialMessage(role="system", content=text_content("Be kind.")),
    InitialMessage(role="user", content=text_content("Is it raining?")),
    InitialMessage(role="assistant", content=text_content("I see."), tool_calls=AT_THE_END),
    InitialMessage(role="tool", tool_call_id="call-0", name="look_up", content=text_content("rain")),
    InitialMessage(role="assistant", tool_calls=AT_THE_END),
)
START_MS = 1_790_000_000_000


@dataclass(slots=True)
class LogWriter:
    """One partition's log, written by one owner after the other."""

    rng: random.Random
    partition: int = 0
    policy: Policy = field(default_factory=lambda: Policy(max_queued_turns=3, max_takeovers=2))
    records: list[LoggedEvent] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    histories: dict[str, list[HistoryMessage]] = field(default_factory=dict)
    last_offsets: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    epoch: int = -1
    n: int = 0
    partition_version: int = 0
    turns: int = 0
    inert: set[int] = field(default_factory=set)  #: offsets of what zombies wrote
    channels: dict[str, Channel] = field(default_factory=dict)
    rows_of_channels: dict[str, RowsInMemory] = field(default_factory=dict)
    rows_of_sessions: dict[str, RowsInMemory] = field(default_factory=dict)
    first_offsets: dict[StreamName, int] = field(default_factory=dict)
    last_offsets_of_channels: dict[str, int] = field(default_factory=dict)
    unknown_of_channels: dict[str, int] = field(default_factory=dict)
    network: Network = field(default_factory=Network)

    def session(self, session_id: str) -> Session:
        """The folded session."""
        return self.sessions.get(session_id) or Session(session_id=session_id)

    def _header(self, kind: str, stream_id: str, version: int, *, fact: Fact | None = None) -> ev.EventHeader:
        return ev.EventHeader(
            stream_kind=kind,
            stream_id=stream_id,
            stream_version=version,
            epoch=self.epoch,
            n=self.n,
            accepted=len(self.records),
            replied=len(self.records) // 2,
            turn_id=fact.turn_id if fact else None,
            attempt=fact.attempt if fact else 0,
            recorded_at=START_MS + self.rng.randrange(100_000),  # clocks go back and forth
        )

    def _append(self, header: ev.EventHeader, payload: object) -> int:
        offset = len(self.records)
        self.records.append(
            LoggedEvent(
                partition=self.partition,
                offset=offset,
                header=header,
                payload=payload,
                logged_at=header.recorded_at,
            )
        )
        return offset

    def claim(self) -> None:
        """A new owner."""
        payload = ev.PartitionClaimed(
            log_format=ev.LOG_FORMAT,
            owner="worker",
            incarnation=f"incarnation-{len(self.records)}",
            generation=len(self.records),
            partition_count=1,
            requests_topic_id="topic-1",
        )
        header = self._header(ev.PARTITION, str(self.partition), 0)
        self.epoch = self._append(replace(header, epoch=-1, n=-1), payload)
        self.n = 0

    def partition_event(self, payload: object) -> None:
        """An event of the partition itself."""
        self.partition_version += 1
        self._append(self._header(ev.PARTITION, str(self.partition), self.partition_version), payload)
        self.n += 1

    def facts(self, session_id: str, facts: list[Fact]) -> None:
        """Append and fold the events of a session's decision."""
        for fact in facts:
            session = self.session(session_id)
            header = self._header(ev.SESSION, session_id, session.version + 1, fact=fact)
            offset = self._append(header, fact.event)
            self.n += 1
            after = self.sessions[session_id] = evolve(session, fact)
            rows = self.rows_of_sessions.get(session_id, RowsInMemory())
            self.rows_of_sessions[session_id] = rows.with_written(leaving(session, after, fact))
            self.last_offsets[session_id] = offset
            self.first_offsets.setdefault((ev.SESSION, session_id), offset)
            if isinstance(fact.event, ev.MessageStored):
                history = self.histories.setdefault(session_id, [])
                history.append(history_message(fact.turn_id or "", fact.event))

    def channel(self, channel: str) -> Channel:
        """The folded channel."""
        return self.channels.get(channel) or Channel(channel=channel)

    def channel_facts(self, name: str, facts: list[Fact]) -> None:
        """Append and fold the events of a channel's decision."""
        for fact in facts:
            channel = self.channel(name)
            header = self._header(ev.CHANNEL, name, channel.version + 1, fact=fact)
            self.last_offsets_of_channels[name] = self._append(header, fact.event)
            self.first_offsets.setdefault((ev.CHANNEL, name), self.last_offsets_of_channels[name])
            self.n += 1
            self.rows_of_channels[name] = self.rows(name).with_written(rows_of_channel(channel, fact))
            self.channels[name] = evolve_channel(channel, fact)

    def rows(self, channel: str) -> RowsInMemory:
        """The channel's rows."""
        return self.rows_of_channels.get(channel, RowsInMemory())

    def tell(self, name: str, command: object, kind: str = ev.SESSION) -> None:
        """Decide a command."""
        state = self.session(name) if kind == ev.SESSION else self.channel(name)
        rows = self.rows_of_sessions.get(name, RowsInMemory()) if kind == ev.SESSION else self.rows(name)
        facts = decided(state, command, self.policy, looked_up(state, command, rows))
        if kind == ev.SESSION:
            self.facts(name, facts)
        else:
            self.channel_facts(name, facts)
        state = self.session(name) if kind == ev.SESSION else self.channel(name)
        self.network.send_due((kind, name), state.outbox)

    def newer_event(self, name: str, kind: str = ev.SESSION) -> None:
        """An event type that this version does not know."""
        state = self.session(name) if kind == ev.SESSION else self.channel(name)
        payload = UnknownPayload(name="SessionDreamt", fields={"stream_id": name, "of": b"sheep", "deep": 1.5})
        offset = self._append(self._header(kind, name, state.version + 1), payload)
        self.n += 1
        self.first_offsets.setdefault((kind, name), offset)
        if isinstance(state, Session):
            self.last_offsets[name] = offset
            self.sessions[name] = replace(state, version=state.version + 1)
            self.unknown[name] = self.unknown.get(name, 0) + 1
        else:
            self.last_offsets_of_channels[name] = offset
            self.channels[name] = replace(state, version=state.version + 1)
            self.unknown_of_channels[name] = self.unknown_of_channels.get(name, 0) + 1

    def zombie(self) -> None:
        """A late event of an owner that was fenced, or a copy of one that was appended already."""
        if not self.records:
            return
        victim = self.rng.choice(self.records)
        if isinstance(victim.payload, ev.PartitionClaimed):
            return
        if self.rng.random() < 0.5:
            header = replace(victim.header, epoch=max(0, self.epoch - 1), n=self.rng.randrange(5))
        else:
            header = replace(victim.header, n=max(0, self.n - 1 - self.rng.randrange(3)))
        if (header.epoch, header.n) != (self.epoch, self.n):
            self.inert.add(self._append(header, victim.payload))

    @property
    def streams(self) -> list[StreamName]:
        """The names of all streams."""
        return [(ev.SESSION, name) for name in self.sessions] + [(ev.CHANNEL, name) for name in self.channels]

    def expected(self) -> dict[StreamName, LoadedStream]:
        """What a store has to give back."""
        sessions = {
            (ev.SESSION, session_id): LoadedStream(
                state=session,
                history=window(session).of(self.histories.get(session_id, ())),
                stream_offset=self.first_offsets[ev.SESSION, session_id],
                last_offset=self.last_offsets[session_id],
                unknown_events=self.unknown.get(session_id, 0),
            )
            for session_id, session in self.sessions.items()
        }
        channels = {
            (ev.CHANNEL, name): LoadedStream(
                state=channel,
                history=[],
                stream_offset=self.first_offsets[ev.CHANNEL, name],
                last_offset=self.last_offsets_of_channels[name],
                unknown_events=self.unknown_of_channels.get(name, 0),
            )
            for name, channel in self.channels.items()
        }
        return sessions | channels


def random_log(
    seed: int, steps: int, *, partition: int = 0, sessions: int = 4, zombies: bool = True, newer: bool = True
) -> LogWriter:
    """A log of about ``1.5 * steps`` records."""
    writer = LogWriter(random.Random(seed), partition)
    writer.claim()
    write_on(writer, steps, sessions=sessions, zombies=zombies, newer=newer)
    return writer


def write_on(writer: LogWriter, steps: int, *, sessions: int = 4, zombies: bool = True, newer: bool = True) -> None:
    """More of the same."""
    for _ in range(steps):
        session_id = f"s{writer.partition}-{writer.rng.randrange(sessions)}"
        if writer.rng.random() < 0.2 and writer.sessions:
            session_id = writer.rng.choice(sorted(writer.sessions))  # one that a channel made, perhaps
        _step(writer, session_id, zombies, newer)
        if writer.rng.random() < 0.3:
            lifecycle_step(writer, newer=newer)


def _step(writer: LogWriter, session_id: str, zombies: bool, newer: bool) -> None:
    rng = writer.rng
    kind = rng.random()
    if kind < 0.25:
        _chat(writer, session_id)
    elif kind < 0.75:
        _run(writer, session_id)
    elif kind < 0.80:
        writer.claim()
        for name, session in list(writer.sessions.items()):
            if session.running is not None:
                turn = session.turns[session.running]
                writer.tell(name, ResumeTurn(turn_id=turn.turn_id, attempt=turn.attempt))
    elif kind < 0.85:
        refuse = Refuse(
            request_id=f"r{rng.randrange(30)}",
            command_hash=f"h{rng.randrange(3)}",
            code="unknown_command",
            reason="no such command",
            reply=rng.choice(ADDRESSES),
        )
        writer.tell(session_id, refuse)
    elif kind < 0.88:
        lost = ev.RequestsLost(from_offset=1, to_offset=2)
        dead = ev.RequestDeadLettered(offset=rng.randrange(1000), code="undecodable", reason="random bytes")
        writer.partition_event(rng.choice([lost, dead]))
    elif kind < 0.89:
        _cancel(writer, session_id)
    elif kind < 0.90:
        (_hide if rng.random() < 0.5 else _update)(writer, session_id)
    elif kind < 0.95:
        compaction_step(writer, session_id)
    elif kind < 0.96 and newer:
        writer.newer_event(session_id)
    elif zombies:
        writer.zombie()


def _hide(writer: LogWriter, session_id: str) -> None:
    rng = writer.rng
    of_request = rng.random() < 0.5
    writer.tell(
        session_id,
        Hide(
            request_id=f"r{rng.randrange(30)}",
            command_hash=f"h{rng.randrange(3)}",
            turn_id=None if of_request else f"t-{writer.partition}-{rng.randrange(writer.turns + 2)}",
            of_request=f"r{rng.randrange(30)}" if of_request else None,
            reply=rng.choice(ADDRESSES),
        ),
    )


def _update(writer: LogWriter, session_id: str) -> None:
    rng = writer.rng
    update = UpdateSession(
        title=rng.choice([None, "", "Another title"]),
        model=rng.choice([None, "", "echo:other"]),
        instructions=rng.choice([None, "", "Be brief."]),
        set_metadata=rng.choice([{}, {"c": "ä"}]),
        remove_metadata=rng.choice([(), ("a", "never")]),
    )
    request_id, command_hash = f"r{rng.randrange(30)}", f"h{rng.randrange(3)}"
    reply = rng.choice(ADDRESSES)
    writer.tell(session_id, Update(request_id=request_id, command_hash=command_hash, update=update, reply=reply))


def _chat(writer: LogWriter, session_id: str) -> None:
    rng = writer.rng
    writer.turns += 1
    session = writer.session(session_id)
    new = NewSession(
        messages=rng.choice([(), (), SAID]),
        channel=rng.choice([None, f"c{writer.partition}"]),
        title="A title",
        instructions=rng.choice([None, "", "Be kind."]),
        metadata={"b": "1", "a": "\0"},
        history_max_tokens=rng.choice([None, 0, -1, 1000]),
        history_keep_tail=rng.choice([None, 0, 7]),
    )
    chat = Chat(
        content=rng.choice([content for content in CONTENTS if content is not None]),
        model=rng.choice([None, "echo:", "echo:other"]),
        on_busy=rng.choice(["enqueue", "enqueue", "enqueue", "reject", "interrupt"]),
        new_session=rng.choice([None, new]),
        tools=rng.choice([(), (ClientTool(name="look_up"),)]),
    )
    if (owed := session.awaited or (() if session.exists else AT_THE_END)) and rng.random() < 0.7:
        outputs = [ToolOutput(call_id=call.call_id, output="done", is_error=rng.random() < 0.3) for call in owed]
        if rng.random() < 0.3:  # too few, or none that fits
            outputs = rng.choice([outputs[1:], [ToolOutput(call_id="call-9", output="?")]])
        content = chat.content if rng.random() < 0.3 or not outputs else ()
        chat = replace(chat, content=content, tool_outputs=tuple(outputs))
    accept = AcceptChat(
        request_id=f"r{rng.randrange(30)}",
        command_hash=f"h{rng.randrange(3)}",
        turn_id=f"t-{writer.partition}-{writer.turns}",
        chat=chat,
        reply=rng.choice(ADDRESSES),
    )
    writer.tell(session_id, accept)


def _run(writer: LogWriter, session_id: str) -> None:
    """The next thing that the runner of a session's turn does."""
    rng = writer.rng
    session = writer.session(session_id)
    if session.running is None:
        for turn_id in session.queue[:1]:
            writer.tell(session_id, ResumeTurn(turn_id=turn_id, attempt=0))
        return
    turn = session.turns[session.running]
    kind = rng.random()
    usage = Usage(input_tokens=rng.randrange(100), output_tokens=rng.randrange(100), model_calls=1, last_input_tokens=7)
    if kind < 0.65:
        role = "tool" if turn.open_calls and rng.random() < 0.7 else "assistant"
        # Ids repeat, within a message and over the session; now and then a result names a call that is not open.
        calls = [
            ToolCall(
                call_id=f"call-{rng.randrange(2)}",
                name="look_up",
                arguments=rng.choice(['{"a": 1 }', "", "not json"]),
                idempotent=rng.random() < 0.5,
                client=rng.random() < 0.3,
            )
            for _ in range(rng.choice([0, 0, 1, 2, 3]))
        ]
        message = RecordMessage(
            turn_id=turn.turn_id,
            attempt=turn.attempt,
            message_seq=session.messages + 1,
            role=role,
            content=rng.choice(CONTENTS),
            tool_calls=tuple(calls) if role == "assistant" else (),
            tool_call_id=f"call-{rng.randrange(3)}" if role == "tool" else None,
            name=rng.choice([None, "look_up"]),
            truncated=rng.random() < 0.1,
            outcome=(None, *OUTCOMES)[session.messages % 5] if role == "tool" else None,
            usage=usage if session.messages % 3 == 0 else None,
        )
        writer.tell(session_id, message)
    elif kind < 0.85:
        done = CompleteTurn(turn_id=turn.turn_id, attempt=turn.attempt, usage=usage, duration_ms=rng.randrange(5000))
        writer.tell(session_id, done)
    else:
        failed = FailAttempt(
            turn_id=turn.turn_id,
            attempt=turn.attempt,
            code="runner_error",
            reason="it raised",
            retryable=rng.random() < 0.7,
            usage=usage,
        )
        writer.tell(session_id, failed)


def _cancel(writer: LogWriter, session_id: str) -> None:
    """What no request asked for."""
    open_turns = list(writer.session(session_id).turns.values())
    if open_turns:
        turn = writer.rng.choice(sorted(open_turns, key=lambda turn: turn.turn_id))
        event = ev.TurnCancelled(reason="enough", usage=Usage(output_tokens=3))
        writer.facts(session_id, [Fact(event=event, turn_id=turn.turn_id, attempt=turn.attempt)])


def accepted_batches(
    records: list[LoggedEvent], size: int, start: LogPosition | None = None
) -> list[tuple[list[LoggedEvent], LogPosition]]:
    """What a tail hands to a store: the accepted events of ``size`` records, and where it stands after them."""
    position = start or LogPosition()
    batches = []
    records = [record for record in records if record.offset >= position.next_offset]
    for first in range(0, len(records), size):
        events = []
        for record in records[first : first + size]:
            if is_accepted(position, record.header, record.payload):
                events.append(record)
            position = advance(position, record.offset, record.header, record.payload)
        batches.append((events, position))
    return batches
