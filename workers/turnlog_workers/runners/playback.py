"""What the offline runners share: they play a plan of whole messages, word by word."""

import asyncio
import math
import re
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from turnlog_schemas.parts import TEXT, ContentPart, Usage, content_text
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.tokens import file_tokens
from turnlog_workers.runners.base import AssistantMessage, RunnerError, ToolResult, TurnInput

_WORD = re.compile(r"\s*\S+\s*|\s+")
_CHARACTERS_PER_TOKEN = 4
_DELTAS_PER_LOOP_PASS = 32
_BEAT_S = 0.005  #: those that are due within it wait for one timer
_LEAST_SHARED_S = 0.02  #: a faster pace has timers of its own

Step = AssistantMessage | ToolResult
"""A message that a turn stores after the user's."""


class OfflineRunner:
    """The life of a runner that holds nothing outside of the process."""

    def __init__(self) -> None:
        self._closed = False

    @property
    def alive(self) -> bool:
        """True until it is closed."""
        return not self._closed

    async def aclose(self) -> None:
        """Nothing to free; the runner takes no further turn."""
        self._closed = True

    def _check_alive(self) -> None:
        if self._closed:
            raise RunnerError("runner_closed", "the runner of this session was closed", retryable=True)


def words(text: str) -> list[str]:
    """The text cut before each word but the first; joined they are the text again, white space included."""
    return _WORD.findall(text)


_Beats = dict[int, list["asyncio.Future[None]"]]
_BEATS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Beats] = WeakKeyDictionary()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _next_beat(delay_s: float) -> Awaitable[None]:
    """The end of a sleep, to the next beat: thousands of answers that are played side by side share their timers."""
    loop = asyncio.get_running_loop()
    beats = _BEATS.get(loop)
    if beats is None:
        beats = _BEATS[loop] = {}
    beat = math.ceil((loop.time() + delay_s) / _BEAT_S)
    waiting = beats.get(beat)
    if waiting is None:
        waiting = beats[beat] = []
        loop.call_at(beat * _BEAT_S, partial(_wake, beats, beat))
    future = loop.create_future()
    waiting.append(future)
    return future


def _wake(beats: _Beats, beat: int) -> None:
    for future in beats.pop(beat):
        if not future.done():  # its turn was cancelled
            future.set_result(None)


class Pace:
    """How fast deltas come: each at its place in time, so that one that comes late delays none after it.

    Those that are late already come together, as out of a connection that was not read for a while; others are still
    let go on every few deltas.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._count = 0
        self._began = 0.0  #: by the event loop's clock

    async def tick(self) -> None:
        """Wait before the next delta."""
        self._count += 1
        if self._delay_s > 0:
            now = _now()
            if self._count == 1:
                self._began = now
            left_s = self._began + self._count * self._delay_s - now
            if left_s > 0:
                await (_next_beat(left_s) if self._delay_s >= _LEAST_SHARED_S else asyncio.sleep(left_s))
                return
        if self._count % _DELTAS_PER_LOOP_PASS == 0:
            await asyncio.sleep(0)


def role_of(step: Step) -> str:
    """The role under which the session stores a step."""
    return "assistant" if isinstance(step, AssistantMessage) else "tool"


def resume_position(turn: TurnInput, steps: Sequence[Step]) -> int:
    """How many steps are stored already. By position: ids repeat. Raises :class:`RunnerError` if they are others."""
    stored = [message.role for message in turn.turn_messages]
    planned = [role_of(step) for step in steps]
    if stored != planned[: len(stored)]:
        reason = (
            f"session {turn.session_id}, turn {turn.turn_number}: the messages stored by an earlier attempt ({stored}) "
            f"are not how this turn begins ({planned}); was another model or file behind its name?"
        )
        raise RunnerError("resume_mismatch", reason, retryable=False)
    return len(stored)


def estimated_usage(turn: TurnInput, steps: Iterable[Step]) -> Usage:
    """Tokens of a whole turn, about 4 characters each: no tokenizer is at hand. Earlier attempts' steps count too."""
    stored = len(turn.turn_messages)
    prompt = input_tokens = output_tokens = model_calls = last_input_tokens = 0
    if stored or not turn.assembled:  # else the history is counted as it is now, and not twice
        prompt = estimated_tokens(turn.instructions) + _content_tokens(turn.user_content)
        prompt += _messages_tokens(turn.history)
    for index, step in enumerate(steps):
        if index == stored and turn.assembled:  # what comes from here on is made of the history as it is now
            prompt = estimated_tokens(turn.instructions) + _messages_tokens(turn.assembled)
        size = _message_tokens(step)
        if isinstance(step, AssistantMessage):
            model_calls += 1
            last_input_tokens = prompt
            input_tokens += prompt
            output_tokens += size
        prompt += size
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        model_calls=model_calls,
        last_input_tokens=last_input_tokens,
    )


def estimated_tokens(text: str | None) -> int:
    """About one token for 4 characters, rounded up."""
    return -(-len(text or "") // _CHARACTERS_PER_TOKEN)


def _messages_tokens(messages: Sequence[HistoryMessage]) -> int:
    tokens = 0
    for message in messages:  # each turn counts its whole history: no call for a message, nearly always
        content = message.content
        if content and len(content) == 1 and (part := content[0]).kind == TEXT and not message.tool_calls:
            tokens += -(-len(part.text or "") // _CHARACTERS_PER_TOKEN)
        else:
            tokens += _message_tokens(message)
    return tokens


def _content_tokens(content: Sequence[ContentPart] | None) -> int:
    return sum(estimated_tokens(part.text) if part.kind == TEXT else file_tokens(part) for part in content or ())


def _message_tokens(message: HistoryMessage | Step) -> int:
    tokens = _content_tokens(message.content)
    if not isinstance(message, ToolResult):
        for call in message.tool_calls:
            tokens += estimated_tokens(call.name) + estimated_tokens(call.arguments)
    return tokens


def text_pieces(content: tuple[ContentPart, ...] | None) -> list[str]:
    """The words of a message's text; none if it has no text."""
    return words(content_text(content) or "")
