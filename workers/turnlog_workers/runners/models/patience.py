"""How long a model server may be silent. Only the time spent waiting counts, not what is done with an answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from turnlog_schemas.generation import GenerationParams
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.models.faults import fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Bounds of a model call."""

    connect_s: float
    first_event_s: float  #: long: a request that waits in a server's queue may get no byte at all
    stall_s: float  #: between two events; pings and comments are none
    max_answer_tokens: int
    max_calls: int  #: of one attempt

    def answer_tokens(self, params: GenerationParams) -> int:
        """What one model call may generate: what was asked for, within the worker's bound."""
        return min(params.max_tokens or self.max_answer_tokens, self.max_answer_tokens)

    @classmethod
    def of(cls, settings: Settings) -> "ModelLimits":
        """As the settings have them."""
        return cls(
            connect_s=settings.model_connect_timeout_s,
            first_event_s=settings.model_first_event_timeout_s,
            stall_s=settings.model_stall_timeout_s,
            max_answer_tokens=settings.max_answer_tokens,
            max_calls=settings.max_model_calls,
        )


class Patience:
    """The time that is left until the next event of one answer."""

    def __init__(self, limits: ModelLimits) -> None:
        self._limits = limits
        self._left_s = limits.first_event_s
        self._heard = False

    def heard(self) -> None:
        """An event came."""
        self._heard = True
        self._left_s = self._limits.stall_s

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Around each wait. Raises the fault of a server that was silent for too long."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timeout = asyncio.timeout(max(0.0, self._left_s))
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            if self._heard:
                raise fault("stream_stalled", f"nothing came for {self._limits.stall_s:g} s") from None
            raise fault("no_answer", f"nothing came for {self._limits.first_event_s:g} s") from None
        finally:
            self._left_s -= loop.time() - began
