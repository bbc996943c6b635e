"""``hang:``: a runner of somebody's own, as an installed plug-in, that blocks the event loop for ever."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from turnlog.runner import AssistantMessage, TurnInput
from turnlog_schemas.parts import text_content

ROOT = Path(__file__).parents[2]
_FOR_EVER_S = 3600.0


class HangingRunner:
    """What nobody should write: it waits without ``await``."""

    async def run(self, turn: TurnInput) -> AsyncIterator[AssistantMessage]:
        threading.Event().wait(_FOR_EVER_S)
        yield AssistantMessage(content=text_content("late"))

    async def aclose(self) -> None:
        """Nothing is held."""


def factory(model: str, **_: object) -> HangingRunner:
    """One for each session."""
    return HangingRunner()


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """For the processes that are started meanwhile, the package with this entry point is installed."""
    package = folder / "installed" / "hanging_runner-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging-runner\nVersion: 0\n")
    (package / "entry_points.txt").write_text("[turnlog.runners]\nhang = tests.game_day.hanging:factory\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
        yield
