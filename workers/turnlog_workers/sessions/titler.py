"""A title by the fast model, for a session that has none but the beginning of its first message.

It is a courtesy: whatever goes wrong is told of in the log, and the session keeps the title that it has.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from turnlog_schemas.parts import Usage, text_content
from turnlog_streams.session.commands import TitleSession
from turnlog_streams.session.title import TitleTask, usable_title
from turnlog_workers.base.logs import at
from turnlog_workers.runners.base import Runner, RunnerError, TurnInput
from turnlog_workers.runners.contained import (
    TookTooLongError,
    close_outputs,
    close_runner,
    contained,
    new_runner,
)
from turnlog_workers.runners.traced import traced_outputs
from turnlog_workers.sessions.task_reader import TaskReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Titler:
    """Asks the fast model for a session's title."""

    session_id: str
    make_runner: Callable[[str], Runner]
    timeout_s: float

    async def title(self, task: TitleTask) -> TitleSession | None:
        """The command that gives the title; ``None``: the model has none to give."""
        place = at(session=self.session_id)
        try:
            text, usage = await contained(
                self._asked(task), timeout_s=self.timeout_s, what="a title", session_id=self.session_id
            )
        except RunnerError as error:
            log.warning("no title by the fast model: %s", error.code, extra=place)
            return None
        except TookTooLongError:
            log.warning("no title by the fast model within %g s", self.timeout_s, extra=place)
            return None
        title = usable_title(text)
        if not title:
            return None
        return TitleSession(title=title, instead_of=task.title, model=task.model, usage=usage)

    async def _asked(self, task: TitleTask) -> tuple[str, Usage]:
        turn = TurnInput(
            session_id=self.session_id,
            turn_id="title",
            attempt=1,
            turn_number=1,
            fencing_token=0,
            model=task.model,
            instructions=task.instructions,
            user_content=text_content(task.prompt),
            allow_tools=False,
        )
        runner = new_runner(self.make_runner, task.model)
        reader = TaskReader()
        try:
            outputs = traced_outputs(runner, turn)
            try:
                await reader.read(outputs)
            finally:
                await close_outputs(outputs, self.session_id)
        finally:
            await close_runner(runner, self.session_id)
        return reader.text, reader.usage
