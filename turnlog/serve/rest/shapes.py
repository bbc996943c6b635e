"""What the REST interface takes and gives that has no public type of its own."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from turnlog.serve.keys import Caller
from turnlog.serve.rest.operations import Body
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import NewSession, Usage


class GenerationBody(Body):
    """How a model is asked to generate."""

    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)

    def params(self) -> GenerationParams:
        """As the wire has it."""
        return GenerationParams(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            stop=tuple(self.stop),
            settings={name: json.dumps(value) for name, value in self.settings.items()},
        )


class NewSessionBody(Body):
    """How a session is made."""

    channel: str | None = None
    title: str | None = None
    instructions: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None
    history_max_tokens: int | None = None
    history_keep_tail: int | None = None

    def new_session(self, caller: Caller) -> NewSession:
        """As the wire has it, its channel in the caller's namespace."""
        return NewSession(
            channel=caller.own(self.channel) if self.channel is not None else None,
            title=self.title,
            instructions=self.instructions,
            model=self.model,
            metadata=self.metadata,
            history_max_tokens=self.history_max_tokens,
            history_keep_tail=self.history_keep_tail,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBegun:
    """A turn that is accepted."""

    session_id: str
    turn_id: str
    request_id: str
    response_id: str  #: of the same turn under ``/v1/responses``
    queued_turns: int  #: that come before it
    opened_session: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageShape:
    """What a turn cost, in tokens."""

    input_tokens: int
    output_tokens: int
    model_calls: int

    @classmethod
    def of(cls, usage: Usage) -> "UsageShape":
        """Without what only history compaction asks for."""
        return cls(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, model_calls=usage.model_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """How a turn ended."""

    session_id: str
    turn_id: str
    status: str
    text: str
    reason: str
    usage: UsageShape
