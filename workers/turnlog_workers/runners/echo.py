"""``echo:[?deltas=N&delta_ms=N]``: answers with the user's own text. Offline and deterministic.

It reads the files that it is sent, and says what they are: so an operator sees whether workers can.

``deltas``: in so many pieces of the same length (fewer if the text has fewer characters); absent: one a word.
``delta_ms``: before each piece.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

from pydantic import Field

from turnlog_schemas.files import file_name
from turnlog_schemas.parts import ContentPart, content_text, files_of, text_content
from turnlog_workers.runners.base import AssistantMessage, Runner, RunnerOutput, TextDelta, TurnInput, UsageReport
from turnlog_workers.runners.options import Options, after_provider, bad_model_name, read_options
from turnlog_workers.runners.playback import OfflineRunner, Pace, estimated_usage, resume_position, words


class EchoOptions(Options):
    """What a model name ``echo:?…`` may say."""

    deltas: int | None = Field(default=None, ge=1, le=10_000)
    delta_ms: int = Field(default=0, ge=0, le=60_000)


class EchoRunner(OfflineRunner):
    """Says what it was told, by its user or else by tools that its client runs."""

    def __init__(self, options: EchoOptions) -> None:
        super().__init__()
        self._options = options

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """One assistant message, and what it would have cost."""
        self._check_alive()
        text = content_text(turn.user_content) or "\n".join(content_text(m.content) or "" for m in turn.tool_outputs)
        for part in files_of(turn.user_content):
            said = f"[{file_name(part)}: {part.media_type}, {await _measured(turn, part)}]"
            text = f"{text}\n{said}" if text else said
        message = AssistantMessage(content=text_content(text))
        if resume_position(turn, (message,)) == 0:
            pieces = words(text) if self._options.deltas is None else even_pieces(text, self._options.deltas)
            pace = Pace(self._options.delta_ms / 1000)
            for piece in pieces:
                await pace.tick()
                yield TextDelta(text=piece)
            yield message
        yield UsageReport(usage=estimated_usage(turn, (message,)))


async def _measured(turn: TurnInput, part: ContentPart) -> str:
    """The size and the hash of a file."""
    data = await turn.files.read(part)
    return f"{len(data)} bytes, sha256 {await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())}"


def even_pieces(text: str, count: int) -> list[str]:
    """The text in ``count`` pieces whose lengths differ by one at most; none of them is empty."""
    count = min(count, len(text))
    bounds = [len(text) * index // count for index in range(count + 1)] if count else []
    return [text[start:end] for start, end in pairwise(bounds)]


class EchoFactory:
    """Runners for ``echo:`` and its options."""

    def __call__(self, model: str) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError`."""
        rest, _, query = after_provider(model).partition("?")
        if rest:
            raise bad_model_name(model, "nothing but options (echo:?deltas=3) may follow echo:")
        return EchoRunner(read_options(model, query, EchoOptions))

    def media_types(self, model: str) -> Sequence[str]:
        """Whatever it is, it says what."""
        return ("*/*",)


factory = EchoFactory()
