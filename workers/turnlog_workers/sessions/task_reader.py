"""The answer of a model to a small task of ours (a summary, a title): its text, within bounds."""

import asyncio
from collections.abc import AsyncIterator

from turnlog_schemas.parts import Usage, content_text
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.runners.base import AssistantMessage, RunnerOutput, TextDelta, UsageReport
from turnlog_workers.runners.checked import MAX_OUTPUTS, OutputError, TextJoiner, checked
from turnlog_workers.runners.contained import fault_of

_MAX_TEXT_BYTES = 1024 * 1024  #: that a model may write in one call: more is no summary
_OUTPUTS_PER_LOOP_PASS = 32


class TaskReader:
    """Takes in what the runner of a task yields, checked."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.called_tools = False
        self._pieces: list[str] = []
        self._joiner = TextJoiner()
        self._size = 0
        self._message: str | None = None

    @property
    def text(self) -> str:
        """The newest whole message, or else what was streamed."""
        if self.called_tools:
            return ""
        return self._message if self._message is not None else "".join(self._pieces)

    async def read(self, outputs: AsyncIterator[RunnerOutput]) -> None:
        """Until it has no more, or calls a tool. Raises :class:`RunnerError`."""
        for count in range(MAX_OUTPUTS):
            try:
                output = await outputs.__anext__()
            except StopAsyncIteration:
                self._add(self._joiner.end())
                return
            except BaseException as error:
                if was_cancelled(error):
                    raise
                raise fault_of(error) from error
            if count % _OUTPUTS_PER_LOOP_PASS == 0:
                await asyncio.sleep(0)
            match checked(output):
                case TextDelta() as delta:
                    self._add(self._joiner.add(delta.text))
                case UsageReport() as report:
                    self.usage = report.usage
                case AssistantMessage(tool_calls=calls) if calls:
                    self.called_tools = True
                    return
                case AssistantMessage() as message:
                    self._message = content_text(message.content)
                    self._count(self._message or "")
        raise OutputError("too_many_outputs", f"more than {MAX_OUTPUTS} outputs in a small task")

    def _add(self, text: str) -> None:
        self._count(text)
        if text:
            self._pieces.append(text)

    def _count(self, text: str) -> None:
        self._size += len(text.encode())
        if self._size > 2 * _MAX_TEXT_BYTES:  # the pieces, and the whole message that they make
            raise OutputError("text_too_long", f"more than {_MAX_TEXT_BYTES} bytes in a small task")
