"""A good history, written event by event, into which tests plant what must not be."""

from dataclasses import dataclass, field, replace
from typing import Any

from tests.checker import check
from tests.checker.history import GroupCommit, History, SeenFrame, SentRequest, StoreContent, ToolRun
from tests.checker.log_view import accepted_events
from tests.checker.stores import expected_tables
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.frames import FrameHeader
from turnlog_schemas.parts import NewSession, ToolCall, Usage, text_content
from turnlog_streams.projection.state import ProjectionError
from turnlog_streams.reader_rule import LoggedEvent

SESSION = "web-1a2b3c4d"
USAGE = Usage(input_tokens=3, output_tokens=4, model_calls=1, last_input_tokens=3)


@dataclass
class Draft:
    """A history of one partition that can still be changed."""

    log: list[LoggedEvent] = field(default_factory=list)
    requests: list[SentRequest] = field(default_factory=list)
    frames: list[SeenFrame] = field(default_factory=list)
    tool_runs: list[ToolRun] = field(default_factory=list)
    commits: list[GroupCommit] = field(default_factory=list)
    parked: list[tuple[int, int]] = field(default_factory=list)
    stores: list[StoreContent] | None = None  #: ``None``: one that equals the log
    deleted_below: int = 0
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    quiet: bool = False
    frames_may_be_lost: bool = False
    drained: bool = True
    epoch: int = -1
    n: int = 0
    accepted: int = -1
    versions: dict[str, int] = field(default_factory=dict)
    frame_seqs: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def history(self) -> History:
        """As the checker wants it."""
        stores = self.stores
        if stores is None:
            try:
                stores = [StoreContent(name="s", tables=self.tables())]
            except ProjectionError:
                stores = [
                    StoreContent(name="s", tables={"partitions": [{"partition": 0, "next_offset": len(self.log)}]})
                ]
        return History(
            requests=self.requests,
            log={0: self.log},
            frames=self.frames,
            tool_runs=self.tool_runs,
            commits=self.commits,
            stores=stores,
            parked=self.parked,
            deleted_below={0: self.deleted_below} if self.deleted_below else {},
            unreadable=self.unreadable,
            quiet=self.quiet,
            frames_may_be_lost=self.frames_may_be_lost,
            drained=self.drained,
        )

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows that equal the log as it is now, to be changed at will."""
        return {name: [dict(row) for row in rows] for name, rows in expected_tables(0, self.log).items()}

    # ---- requests

    def request(
        self,
        text: str | None,
        request_id: str | None = None,
        session_id: str | None = SESSION,
        *,
        asks_only: bool = False,
    ) -> SentRequest:
        """A producer sends and the broker acknowledges."""
        sent = SentRequest(
            partition=0,
            offset=len(self.requests),
            session_id=session_id,
            request_id=request_id,
            command=text or "",
            text=text,
            asks_only=asks_only,
        )
        self.requests.append(sent)
        return sent

    # ---- the log

    def claim(self, generation: int = 1) -> None:
        """A new owner."""
        self.epoch, self.n = len(self.log), 0
        payload = ev.PartitionClaimed(
            log_format=ev.LOG_FORMAT,
            owner="w",
            incarnation=f"i{len(self.log)}",
            generation=generation,
            partition_count=1,
            requests_topic_id="t",
        )
        self._append(payload, ev.PARTITION, "0", 0, epoch=-1, n=-1, accepted=-1)

    def event(
        self,
        payload: Any,
        turn_id: str | None = None,
        attempt: int = 0,
        *,
        accepted: int | None = None,
        stream: str = SESSION,
        kind: str = ev.SESSION,
        **header: Any,
    ) -> LoggedEvent:
        """The owner appends the next event. ``accepted``: it raises that to this; ``header``: what is wrong with it."""
        self.accepted = max(self.accepted, -1 if accepted is None else accepted)
        partition_event = isinstance(payload, ev.RequestDeadLettered | ev.RequestsLost)
        kind, stream = (ev.PARTITION, "0") if partition_event else (kind, stream)
        version = self.versions.get(stream, 0) + (not partition_event)
        self.versions[stream] = version
        fields = {"epoch": self.epoch, "n": self.n, "accepted": self.accepted, **header}
        self.n += 1
        return self._append(payload, kind, stream, version, turn_id=turn_id, attempt=attempt, **fields)

    def _append(self, payload: Any, kind: str, stream: str, version: int, **fields: Any) -> LoggedEvent:
        header = ev.EventHeader(
            stream_kind=kind,
            stream_id=stream,
            **{"stream_version": version, "replied": -1, "recorded_at": 1000 + len(self.log), **fields},
        )
        self.log.append(LoggedEvent(partition=0, offset=len(self.log), header=header, payload=payload))
        return self.log[-1]

    def edit(self, offset: int, **changes: Any) -> None:
        """Change a record: fields of the payload, and ``header_...`` ones."""
        event = self.log[offset]
        header = {name.removeprefix("header_"): v for name, v in changes.items() if name.startswith("header_")}
        payload = {name: v for name, v in changes.items() if not name.startswith("header_")}
        self.log[offset] = replace(
            event, header=replace(event.header, **header), payload=replace(event.payload, **payload)
        )

    # ---- effects

    def frame(self, frame: Any, turn_id: str | None, attempt: int, request_id: str, **header: Any) -> SeenFrame:
        """The owner sends a frame, now."""
        key = turn_id or "", self.epoch, attempt
        seq = self.frame_seqs.get(key, 0)
        self.frame_seqs[key] = seq + 1
        fields = {
            "session_id": SESSION,
            "epoch": self.epoch,
            "frame_seq": seq,
            "turn_id": turn_id,
            "attempt": attempt,
            **header,
        }
        self.frames.append(
            SeenFrame(
                topic="chat.replies",
                partition=0,
                offset=len(self.frames),
                header=FrameHeader(request_id=request_id, **fields),
                frame=frame,
                log_end=len(self.log),
            )
        )
        return self.frames[-1]

    def tool(self, key: str, turn_id: str, attempt: int, **changes: Any) -> None:
        """A tool starts, now."""
        run = ToolRun(
            what="start",
            idempotency_key=key,
            session_id=SESSION,
            turn_id=turn_id,
            attempt=attempt,
            fencing_token=self.epoch,
            log_end=len(self.log),
        )
        self.tool_runs.append(replace(run, **changes))

    def commit(self, offset: int) -> None:
        """The group's offset is set, now."""
        self.commits.append(GroupCommit(partition=0, offset=offset, log_end=len(self.log)))

    # ---- whole turns

    def accept(self, turn_id: str, text: str, request_id: str, *, offset: int, new: bool = False) -> None:
        """A request becomes a turn that starts at once."""
        if new:
            self.event(ev.SessionCreated(new_session=NewSession(channel="web", title=text), request_id=request_id))
        turn = ev.TurnAccepted(request_id=request_id, command_hash=f"h-{text}", content=text_content(text))
        self.event(turn, turn_id)
        self.event(ev.TurnStarted(model="m", cause="first"), turn_id, 1)
        self.message(turn_id, 1, "user", text, accepted=offset)
        self.frame(fr.TurnAccepted(), turn_id, 0, request_id)
        self.frame(fr.TurnStarted(model="m"), turn_id, 1, request_id)

    def message(self, turn_id: str, attempt: int, role: str, text: str | None, **more: Any) -> int:
        """A message is stored; its offset."""
        header = {name: more.pop(name) for name in ("accepted", "epoch", "n") if name in more}
        stored_before = sum(isinstance(event.payload, ev.MessageStored) for event in accepted_events(self.log))
        seq = more.pop("message_seq", stored_before + 1)
        content = None if text is None else text_content(text)
        stored = ev.MessageStored(message_seq=seq, role=role, content=content, **more)
        return self.event(stored, turn_id, attempt, **header).offset

    def answer(self, turn_id: str, attempt: int, request_id: str, text: str) -> None:
        """Some deltas, the last message and the end."""
        self.frame(fr.TextDelta(text=text), turn_id, attempt, request_id)
        offset = self.message(turn_id, attempt, "assistant", text)
        self.event(ev.TurnCompleted(usage=USAGE), turn_id, attempt)
        seq = self.log[offset].payload.message_seq
        stored = fr.MessageStored(message_seq=seq, role="assistant", content=text_content(text))
        self.frame(stored, turn_id, attempt, request_id)
        self.frame(fr.TurnCompleted(text=text, usage=USAGE), turn_id, attempt, request_id)

    # ---- history compactions

    def compact_request(self, request_id: str, *, offset: int, text: str = "compact") -> None:
        """A request to compact the history is accepted."""
        requested = ev.HistoryCompactionRequested(request_id=request_id, command_hash=f"h-{text}")
        self.event(requested, accepted=offset)

    def compacted(self, to_seq: int, request_id: str | None = None, **more: Any) -> ev.HistoryCompacted:
        """A run makes a summary."""
        stored = sum(isinstance(event.payload, ev.MessageStored) for event in accepted_events(self.log))
        fields = {
            "history_compaction_id": f"hc-{to_seq}",
            "from_seq": 1,
            "summary": f"of {to_seq} messages",
            "history_seq": stored,
            "method": "model",
            "trigger": "automatic" if request_id is None else "manual",
            "tokens_before": 30,
            "tokens_after": 20,
            "usage": USAGE,
            **more,
        }
        made = ev.HistoryCompacted(to_seq=to_seq, request_id=request_id, **fields)
        self.event(made)
        return made

    def not_compacted(self, request_id: str | None = None, **more: Any) -> None:
        """A run's model makes no summary."""
        trigger = "automatic" if request_id is None else "manual"
        fields = {"history_seq": 1, "trigger": trigger, "code": "overloaded", "reason": "x", "usage": USAGE, **more}
        self.event(ev.HistoryCompactionFailed(request_id=request_id, **fields))

    # ---- requests to a channel

    def decide(
        self, request_id: str, session_id: str, *, channel: str = "c", created: bool = True, **header: Any
    ) -> None:
        """A channel answers a lifecycle request."""
        if created:
            opened = ev.ChannelSessionOpened(session_id=session_id, by="request", new_session=NewSession())
            self.event(opened, kind=ev.CHANNEL, stream=channel)
        decided = ev.RequestDecided(
            request_id=request_id, command_hash=f"h-{request_id}", session_id=session_id, created=created
        )
        self.event(decided, kind=ev.CHANNEL, stream=channel, **header)

    def info(self, request_id: str, session_id: str, channel: str | None = "c", **info: Any) -> SeenFrame:
        """What is told of a session, by its channel or by its owner."""
        frame = fr.SessionInfo(**info)
        return self.frame(frame, None, 0, request_id, session_id=session_id, channel=channel, frame_seq=0)


def good() -> Draft:
    """Three turns, two owners, a retry, a conflict, a refusal, a dead letter, tools, a fenced owner's last words."""
    d = Draft()
    d.claim()
    d.request("one", "r1")
    d.accept("t1", "one", "r1", offset=0, new=True)
    calls = (
        ToolCall(call_id="c", name="a", arguments="{}", idempotent=True, idempotency_key="k1"),
        ToolCall(call_id="c", name="b", arguments="{}", idempotent=True, idempotency_key="k2"),
    )
    asked = d.message("t1", 1, "assistant", None, tool_calls=calls)
    seq = d.log[asked].payload.message_seq
    d.frame(fr.MessageStored(message_seq=seq, role="assistant", tool_calls=calls), "t1", 1, "r1")
    d.frame(fr.ToolCallStarted(message_seq=seq, call=calls[0]), "t1", 1, "r1")
    d.tool("k1", "t1", 1, idempotent=True)
    d.message("t1", 1, "tool", "found", tool_call_id="c")
    d.tool("k2", "t1", 1, idempotent=True)
    old, old_n = d.epoch, d.n
    d.claim(generation=2)
    d.message("t1", 1, "tool", "late", tool_call_id="c", epoch=old, n=old_n, message_seq=9)  # inert
    d.n, d.versions[SESSION] = 0, d.versions[SESSION] - 1
    d.event(ev.TurnStarted(model="m", cause="takeover"), "t1", 2)
    d.frame(fr.TurnStarted(model="m"), "t1", 2, "r1")
    d.tool("k2", "t1", 2, idempotent=True)
    d.message("t1", 2, "tool", "found again", tool_call_id="c")
    d.request("one", "r1")  # the producer sends it again
    d.request("two")
    two = "chat.requests-0-2"
    d.event(ev.TurnAccepted(request_id=two, command_hash="h-two", content=text_content("two")), "t2", accepted=2)
    d.frame(fr.TurnAccepted(queued_turns=1), "t2", 0, two)
    d.commit(3)
    d.message("t1", 2, "assistant", "done")
    d.event(ev.TurnCompleted(usage=USAGE), "t1", 2)
    d.event(ev.TurnStarted(model="m", cause="first"), "t2", 1)
    d.message("t2", 1, "user", "two")
    d.frame(fr.TurnCompleted(text="done", usage=USAGE), "t1", 2, "r1")
    d.frame(fr.TurnStarted(model="m"), "t2", 1, two)
    d.event(ev.TurnFailed(code="model_error", reason="no", usage=USAGE), "t2", 1)
    d.frame(fr.TurnFailed(code="model_error", reason="no", usage=USAGE), "t2", 1, two)
    d.frame(fr.TurnCompleted(text="done", usage=USAGE), "t1", 2, "r1", frame_seq=0)  # once more, for the retry
    d.request(None, session_id=None)
    d.parked.append((0, 3))
    d.event(ev.RequestDeadLettered(offset=3, code="malformed", reason="x"), accepted=3)
    d.request("another", "r1")  # the same id for another command
    refused = ev.RequestRefused(request_id="r1", command_hash="h-another", code="conflict", reason="x")
    d.event(refused, accepted=4)
    d.frame(fr.RequestRefused(code="conflict", reason="x"), None, 0, "r1")
    d.request("three", "r3")
    d.accept("t3", "three", "r3", offset=5)
    asked = d.message("t3", 1, "assistant", None, tool_calls=(_unsafe(),))
    d.tool("k3", "t3", 1)
    d.message("t3", 1, "tool", "x", tool_call_id="c3")
    d.answer("t3", 1, "r3", "bye")
    d.commit(6)
    return d


def with_runs() -> Draft:
    """The same, then history compactions: on request (and again), with nothing to do, in vain, and automatic ones."""
    d = good()
    d.request("compact", "h0")
    d.compact_request("h0", offset=6)
    d.event(ev.HistoryCompactionSkipped(request_id="h0"))
    d.frame(fr.HistoryCompacted(summary=""), None, 0, "h0", frame_seq=0)
    d.request("compact", "h1")
    d.compact_request("h1", offset=7)
    made = d.compacted(4, "h1")
    told = fr.HistoryCompacted(
        summary=made.summary, from_seq=1, to_seq=4, changed=True, tokens_before=30, tokens_after=20, usage=USAGE
    )
    d.frame(told, None, 0, "h1", frame_seq=0)
    d.request("compact", "h1")  # the producer sends it again
    d.frame(told, None, 0, "h1", frame_seq=0)
    d.request("compact", "h2")
    d.compact_request("h2", offset=9)
    d.event(ev.HistoryCompactionSkipped(request_id="h2"))
    there = fr.HistoryCompacted(summary=made.summary, from_seq=1, to_seq=4)
    d.frame(there, None, 0, "h2", frame_seq=0)
    d.request("compact", "h3")
    d.compact_request("h3", offset=10)
    d.not_compacted("h3")
    d.frame(fr.HistoryCompactionFailed(code="overloaded", reason="x"), None, 0, "h3", frame_seq=0)
    d.compacted(6)
    d.not_compacted()
    d.compacted(9, method="truncation", history_compaction_id="hc-cut")
    d.commit(11)
    return d


def found(draft: Draft) -> set[str]:
    """The kinds of anomalies that a draft has."""
    return {anomaly.kind for anomaly in check(draft.history())}


def offset_of(draft: Draft, kind: type, number: int = 0) -> int:
    """Where the n-th event of a type is (inert ones too)."""
    return [event.offset for event in draft.log if isinstance(event.payload, kind)][number]


def frame_of(draft: Draft, kind: type, number: int = 0) -> int:
    """Which frame is the n-th of a type."""
    return [index for index, seen in enumerate(draft.frames) if isinstance(seen.frame, kind)][number]


def _unsafe() -> ToolCall:
    return ToolCall(call_id="c3", name="c", arguments="{}", idempotency_key="k3")
