"""A turn's frames wherever they are: in the reply topic, else in the history. What nobody has is 404."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from turnlog.client.replies import ReplyFrame
from turnlog.errors import RequestTimedOutError
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import not_found
from turnlog.serve.request_records import TurnRequest
from turnlog.serve.turn_history import StoredTurn, stored_turn
from turnlog.serve.turn_ids import TurnRef
from turnlog.serve.turns import TURN_TIMEOUT_S, TurnGoneError

Frames = AsyncGenerator[ReplyFrame, None]
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Frames from the first one on. ``stored``: they are whole messages out of the history."""

    frames: Frames
    stored: StoredTurn | None = None


async def told(gateway: Gateway, turn: TurnRef, known: TurnRequest | None, *, follow: bool = True) -> Told:
    """The frames of a turn to its end, or without ``follow`` to what is there now. Close them. Raises 404."""
    frames = gateway.turns.replay(turn, known, follow=follow)
    try:
        first = await anext(frames, None)
    except TurnGoneError:
        first = None
    if first is not None:
        return Told(frames=_with_first(first, frames))
    stored = await stored_or_404(gateway, turn, known)
    if follow and not stored.ended:
        stored = await _ended(gateway, turn, known)
    return Told(frames=_each(stored.frames), stored=stored)


async def _ended(gateway: Gateway, turn: TurnRef, known: TurnRequest | None) -> StoredTurn:
    """The turn once it has ended: of its frames so far nothing is kept, so they come at once and whole."""
    try:
        async with asyncio.timeout(TURN_TIMEOUT_S):
            while not (stored := await stored_or_404(gateway, turn, known)).ended:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise RequestTimedOutError(f"turn {turn.turn_id} of {turn.session_id} has not ended in time") from None
    return stored


async def stored_or_404(gateway: Gateway, turn: TurnRef, known: TurnRequest | None) -> StoredTurn:
    """The turn as the history has it. Raises 404, also for one that is hidden."""

    async def ending() -> ReplyFrame | None:
        return await gateway.turns.ending(known) if known is not None else None

    stored = await stored_turn(gateway.client, turn, ending)
    if stored is None or stored.hidden:
        raise not_found(f"response {turn.response_id!r}")
    return stored


async def _with_first(first: ReplyFrame, rest: Frames) -> Frames:
    async with contextlib.aclosing(rest):
        yield first
        async for frame in rest:
            yield frame


async def _each(frames: tuple[ReplyFrame, ...]) -> Frames:
    for frame in frames:
        yield frame
