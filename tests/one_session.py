"""A session in memory with its actor: real decisions, models that the test writes, a log that confirms at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from tests.waiting import eventually
from turnlog.runner import (
    AssistantMessage,
    RunnerOutput,
    TextDelta,
    TurnInput,
    UsageReport,
)
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import ReplyAddress, Usage, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages, validate_openai
from turnlog_streams.policy import Policy
from turnlog_streams.session.commands import AcceptChat, RequestHistoryCompaction, SessionCommand
from turnlog_streams.session.decide import decide
from turnlog_streams.session.state import Session
from turnlog_streams.session.title import TitleTask
from turnlog_workers.files.reader import FileReader
from turnlog_workers.sessions.history_compactor import CompactionInput
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.sessions.turn_host import ActorLimits
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.tools.toolbox import Toolbox

LONG = "word " * 100  #: more than 100 tokens
SMALL = Policy(
    default_model="main:",
    fast_model="fast:",
    allow_models=("*",),
    history=HistoryCompactionPolicy(max_tokens=600, keep_tail=2),
)
LIMITS = ActorLimits(
    turn_timeout_s=5.0,
    retry_delay_s=0.0,
    delta_interval_s=0.0,
    max_text_bytes=100_000,
    max_tool_result_bytes=100_000,
    summary_timeout_s=5.0,
)
Play = Callable[[TurnInput], AsyncIterator[RunnerOutput]]


@dataclass(eq=False)
class PlayedRunner:
    """Plays what the test wrote. Every history that it is given must be one that a provider takes."""

    model: str
    play: Play
    given: list[TurnInput]
    alive: bool = True
    closed: int = 0

    def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        assert self.alive, "a closed runner takes no turn"
        self.given.append(turn)
        if turn.allow_tools:
            validate_openai(openai_messages(turn.instructions, turn.assembled))
        return self.play(turn)

    async def aclose(self) -> None:
        self.alive = False
        self.closed += 1


async def answers(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    """A long answer."""
    yield AssistantMessage(content=text_content(f"answer {turn.turn_number} {LONG}"))


async def summarises(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text="The user asked ")
    yield AssistantMessage(content=text_content("The user asked for words."))
    yield UsageReport(usage=Usage(input_tokens=100, output_tokens=5, model_calls=1, last_input_tokens=100))


@dataclass
class OneSession:
    """A session, its actor, and a log that confirms at once."""

    main: Play = answers
    fast: Play = summarises
    policy: Policy = SMALL
    limits: ActorLimits = LIMITS
    toolbox: Toolbox | None = None
    files: FileReader | None = None
    events: list[ev.Event] = field(default_factory=list)
    given: list[TurnInput] = field(default_factory=list)
    runners: list[PlayedRunner] = field(default_factory=list)
    deltas: list[str] = field(default_factory=list)
    submitted: list[list[str]] = field(default_factory=list)
    requests: int = 0
    end_decided: bool = False  #: of the turn that runs; the log has not confirmed it
    asked_after_end: int = 0  #: how often somebody asked whether it still runs

    def __post_init__(self) -> None:
        self.live = SessionInMemory(Session(session_id="s"))
        self.actor = SessionActor(
            "s",
            host=self,
            make_runner=self.make_runner,
            running=asyncio.Semaphore(1),
            limits=self.limits,
            toolbox=self.toolbox,
            files=self.files,
        )
        self.live.actor = self.actor

    def make_runner(self, model: str) -> PlayedRunner:
        runner = PlayedRunner(model, self.fast if model.startswith("fast:") else self.main, self.given)
        self.runners.append(runner)
        return runner

    # ---- what the actor asks for

    async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
        await asyncio.sleep(0)
        self.submitted.append([type(command).__name__ for command in commands])
        for command in commands:
            self.tell(command)

    def failed(self, session_id: str, outcome: SessionCommand) -> None:
        self.tell(outcome)

    def is_running(self, session_id: str, turn_id: str) -> bool:
        self.asked_after_end += self.end_decided
        return self.live.state.running == turn_id and not self.end_decided

    async def confirm_ownership(self) -> None:
        pass

    def send_delta(self, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> None:
        self.deltas.append(frame.text)

    def turn_input(self, session_id: str, turn_id: str) -> TurnInput | None:
        return self.live.turn_input(turn_id, 7) if self.live.state.running == turn_id else None

    def title_task(self, session_id: str) -> TitleTask | None:
        return self.live.title_task(self.policy)

    async def earlier_messages(self, session_id: str, after: int, upto: int) -> list[HistoryMessage]:
        return []

    def history_fits(self, session_id: str, usage: Usage | None = None) -> bool:
        return self.live.history_fits(self.policy, usage)

    def compaction_input(self, session_id: str, usage: Usage | None = None) -> CompactionInput:
        return self.live.compaction_input(self.policy, 7, usage)

    # ---- what the test does

    def tell(self, command: SessionCommand) -> None:
        """Decide, fold, and do what the serving does then."""
        started = None
        for fact in decide(self.live.state, command, self.policy):
            self.live.take(fact)
            self.events.append(fact.event)
            if isinstance(fact.event, ev.TurnCancelled) and fact.turn_id:
                self.actor.cancel(fact.turn_id)
            if isinstance(fact.event, ev.HistoryCompactionRequested):
                self.actor.compact(self.live.state.owed_runs[-1])
            if isinstance(fact.event, ev.TurnStarted):
                started = fact.turn_id
        session = self.live.state
        if started is not None and session.running == started:
            turn = session.turns[started]
            self.actor.start(
                turn.turn_id, turn.attempt, next_message_seq=session.messages + 1, failures=turn.runner_failures
            )

    def chat(self, text: str, **fields: object) -> str:
        self.requests += 1
        fields.setdefault("content", text_content(text))
        chat = Chat(**fields)  # type: ignore[arg-type]
        turn_id = f"t{self.requests}"
        self.tell(
            AcceptChat(
                request_id=f"r{self.requests}", command_hash="h", turn_id=turn_id, chat=chat, reply=ReplyAddress()
            )
        )
        return turn_id

    def ask(self, request_id: str = "hc", instructions: str | None = None) -> None:
        self.tell(
            RequestHistoryCompaction(
                request_id=request_id, command_hash="h", instructions=instructions, reply=ReplyAddress()
            )
        )

    async def settle(self) -> None:
        def at_rest() -> bool:
            session = self.live.state
            return not (self.actor.busy or session.open_turns or session.owed_runs)

        await eventually(at_rest, "the session is at rest")

    async def say(self, text: str, **fields: object) -> None:
        self.chat(text, **fields)
        await self.settle()

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]
