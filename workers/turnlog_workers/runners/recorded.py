"""``recorded:FILE#ID[?delta_ms=N]``: replays a conversation from a file, with its tool calls and results.

FILE holds a conversation a line, ``{"id": …, "messages": […]}`` in the OpenAI chat format. Turn k is what follows the
k-th user message. It comes back as it is: ``null`` and ``""`` differ, arguments stay text, ids may repeat, and a turn
may have no assistant message. The tools run nothing, so all calls are idempotent.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from turnlog_schemas.files import shown_text
from turnlog_schemas.parts import ToolCall
from turnlog_workers.runners.base import (
    AssistantMessage,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_workers.runners.options import Options, after_provider, bad_model_name, read_options
from turnlog_workers.runners.playback import OfflineRunner, Pace, Step, estimated_usage, resume_position, text_pieces
from turnlog_workers.runners.recordings import Message, Recordings, UnreadableRecording

RECORDINGS = Recordings()
"""The files that this process has read."""


class RecordedOptions(Options):
    """What a model name ``recorded:FILE#ID?…`` may say."""

    delta_ms: int = Field(default=0, ge=0, le=60_000)  #: before each word


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTurn:
    """One turn of a recording."""

    user: Message
    steps: tuple[Step, ...]


def recorded_turn(messages: Sequence[Message], turn_number: int) -> RecordedTurn:
    """A turn of a conversation, from 1. What stands before the first user message belongs to none.

    Raises :class:`UnreadableRecording` if there is no such turn.
    """
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not 1 <= turn_number <= len(users):
        raise UnreadableRecording("recording_mismatch", f"the recording has {len(users)} user messages")
    start, end = [*users, len(messages)][turn_number - 1 : turn_number + 1]
    return RecordedTurn(user=messages[start], steps=tuple(_step(message) for message in messages[start + 1 : end]))


def _step(message: Message) -> Step:
    if message.role == "assistant":
        calls = tuple(
            ToolCall(call_id=call.call_id, name=call.name, arguments=call.arguments, idempotent=True)
            for call in message.tool_calls
        )
        return AssistantMessage(content=message.content, tool_calls=calls)
    if message.role == "tool" and message.tool_call_id is not None:
        return ToolResult(call_id=message.tool_call_id, content=message.content, name=message.name)
    raise UnreadableRecording("recording_unsupported", f"a {message.role!r} message (or one without an id) in a turn")


class RecordedRunner(OfflineRunner):
    """Plays one conversation. The file is read again for each turn: a session at rest holds nothing."""

    def __init__(self, path: str, conversation_id: str, options: RecordedOptions, recordings: Recordings) -> None:
        super().__init__()
        self._path = path
        self._conversation_id = conversation_id
        self._options = options
        self._recordings = recordings

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """What the recording has after the user's message and is not stored yet. Raises :class:`RunnerError`."""
        self._check_alive()
        try:
            recorded = await asyncio.to_thread(self._read, turn.turn_number)
        except UnreadableRecording as error:
            raise RunnerError(error.code, f"{self._where(turn)}: {error}", retryable=False) from error
        if (shown_text(turn.user_content) or "") != (shown_text(recorded.user.content) or ""):
            reason = f"{self._where(turn)}: the recording has another user message there"
            raise RunnerError("recording_mismatch", reason, retryable=False)
        for step in recorded.steps[resume_position(turn, recorded.steps) :]:
            if isinstance(step, AssistantMessage):
                pace = Pace(self._options.delta_ms / 1000)
                for piece in text_pieces(step.content):
                    await pace.tick()
                    yield TextDelta(text=piece)
            yield step
        yield UsageReport(usage=estimated_usage(turn, recorded.steps))

    def _read(self, turn_number: int) -> RecordedTurn:
        return recorded_turn(self._recordings.messages(self._path, self._conversation_id), turn_number)

    def _where(self, turn: TurnInput) -> str:
        return f"turn {turn.turn_number} of session {turn.session_id}, conversation {self._conversation_id!r}"


def factory(model: str) -> Runner:
    """A runner for ``recorded:FILE#ID``. FILE may have a ``#`` in its name: the last one counts."""
    path, hash_mark, rest = after_provider(model).rpartition("#")
    conversation_id, _, query = rest.partition("?")
    if not hash_mark or not path or not conversation_id:
        raise bad_model_name(model, "write recorded:FILE#ID, the file and the id of a conversation in it")
    return RecordedRunner(path, conversation_id, read_options(model, query, RecordedOptions), RECORDINGS)
