"""What a tool is: to a model a name, a description and a JSON schema; to the worker something to run within bounds."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from turnlog_workers.runners.base import ToolDefinition

#: What every provider takes as a tool's name.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolError(Exception):
    """A tool could not do what it was asked for. The model reads the message, so no secret is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What a tool may know of the call that it serves."""

    session_id: str
    channel: str
    turn_id: str
    attempt: int
    call_id: str  #: as the model named it; repeats in real conversations
    idempotency_key: str  #: the same whenever this call is started again, and of no other call, for ever
    fencing_token: int  #: rises with each owner of the session: refuse a call with a lower one than you have seen


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """Bounds of a tool's calls; ``None``: the worker's."""

    timeout_s: float | None = None
    max_output_bytes: int | None = None
    max_running: int | None = None  #: calls at a time, in one worker


class Tool(Protocol):
    """Something that a model may call."""

    @property
    def definition(self) -> ToolDefinition:
        """What models are told of it."""
        ...

    @property
    def limits(self) -> ToolLimits:
        """Its own bounds."""
        ...

    @property
    def blocking(self) -> bool:
        """Does it hold its thread? Then it gets one of its own."""
        ...

    def bind(self, arguments: str, context: ToolContext) -> Callable[[], object] | Callable[[], Awaitable[object]]:
        """The call, ready to be made. ``arguments``: as the model wrote them. Raises :class:`ToolError`."""
        ...
