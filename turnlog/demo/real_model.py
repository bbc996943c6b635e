"""The demo's second act: a real model answers, its worker is killed in the middle, another one asks the model anew."""

import asyncio
from dataclasses import dataclass

from turnlog.client.async_client import Client
from turnlog.demo.killer import Killer
from turnlog.demo.screen import Screen
from turnlog.errors import TurnFailedError, TurnlogError
from turnlog.snapshot.history import Histories, ended_turns
from turnlog.terminal.live import LiveTurn
from turnlog_schemas.frames import TextDelta
from turnlog_schemas.parts import content_text
from turnlog_workers.base.config import Settings

SESSION = "demo-real-model"
QUESTION = "Why is the sea salty? Explain it in a few paragraphs."
_MODEL = "smollm2:?max_tokens=120&temperature=0.8"
_REQUEST = "demo-real-model-1"
_KILL_AFTER_PIECES = 12
_TURN_TIMEOUT_S = 180.0
_SNAPSHOT_TIMEOUT_S = 20.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the model said."""

    interrupted: str  #: of the attempt whose worker was killed
    answer: str
    attempts: int


async def show_real_model(missing: str, settings: Settings, screen: Screen, killer: Killer) -> Shown | None:
    """Ask it, kill the worker in the middle of the answer, show the answer that counts; ``None``: there is no model."""
    if missing:
        screen.line(f"\nNo real model here: {missing} What you saw was a recorded one.")
        return None
    screen.heading("A real model: SmolLM2-135M, on this machine, without network or key")
    screen.line(f"(one process of its own for all workers; it is small, and often wrong)\n\nuser> {QUESTION}")
    killed = len(killer.victims)
    said: dict[int, list[str]] = {}
    async with Client(settings) as client:
        turn = client.chat(
            SESSION, QUESTION, model=_MODEL, request_id=_REQUEST, timeout_s=_TURN_TIMEOUT_S, resend_after_s=5.0
        )
        live = LiveTurn(screen.write)
        async with turn:
            async for reply in turn:
                live.show(reply)
                if isinstance(reply.frame, TextDelta):
                    pieces = said.setdefault(reply.header.attempt, [])
                    pieces.append(reply.frame.text)
                    if len(pieces) == _KILL_AFTER_PIECES and len(killer.victims) == killed:
                        await killer.kill_owner(settings, SESSION, epoch=reply.header.epoch)
            live.finish()
        finished = await turn.result()
    try:
        finished.raise_for_status()
    except TurnFailedError as error:
        if error.code != "model_unavailable":
            raise
        screen.line(f"No real model here: {error.reason}. What you saw was a recorded one.")
        return None
    first = min(said) if said else 1
    interrupted = "".join(said.get(first, [])) if len(said) > 1 else ""
    if interrupted:
        screen.line("(A model does not say the same twice: the new attempt is another answer, and it alone counts.)")
    return Shown(interrupted=interrupted, answer=finished.text or "", attempts=len(said))


def prove_real_model(shown: Shown, stored: list[tuple[str, str | None]], screen: Screen) -> None:
    """Its history, out of DuckDB: the question once, the answer once. Raises :class:`TurnlogError`."""
    if stored != [("user", QUESTION), ("assistant", shown.answer)]:
        raise TurnlogError(f"The history of {SESSION} is not the question and the answer that was shown.")
    again = "" if shown.attempts < 2 else f", of {shown.attempts} attempts the last one alone"
    screen.line(f"{SESSION}: one question, one answer of the real model{again}.")


async def published(settings: Settings) -> list[tuple[str, str | None]]:
    """Role and text of its messages, once the published snapshot has the end of the turn."""
    return await asyncio.wait_for(_stored(settings), _SNAPSHOT_TIMEOUT_S)


async def _stored(settings: Settings) -> list[tuple[str, str | None]]:
    while True:
        if await asyncio.to_thread(ended_turns, settings.snapshot, [SESSION]):
            found = (await asyncio.to_thread(Histories, settings.snapshot, [SESSION])).messages(SESSION) or []
            return [(message.role, content_text(message.content)) for message in found]
        await asyncio.sleep(_POLL_S)
