"""A turn out of the history: of the snapshot, and of the session's owner where the snapshot is behind."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from turnlog.client.async_client import Client
from turnlog.client.session_info import HistoryPage, SessionInfo
from turnlog.serve import turn_history
from turnlog.serve.turn_history import StoredTurn, stored_turn
from turnlog.serve.turn_ids import TurnRef
from turnlog_schemas.frames import TurnCompleted
from turnlog_schemas.parts import HistoryEntry, text_content

TURN = TurnRef(session_id="web-1", partition=3, offset=7)


class Owner:
    """A session's owner, as far as it is asked here."""

    def __init__(self, path: Path, *, running: bool) -> None:
        self.settings = SimpleNamespace(snapshot=path)
        self._running = TURN.turn_id if running else None

    async def get(self, session_id: str) -> SessionInfo:
        return SessionInfo(
            session_id=session_id, channel=None, request_id="r", messages=2, running_turn_id=self._running
        )

    async def history(self, session_id: str, **_: Any) -> HistoryPage:
        said = (("user", "Hi"), ("assistant", "Hello")) if self._running is None else (("user", "Hi"),)
        messages = tuple(
            HistoryEntry(message_seq=seq, turn_id=TURN.turn_id, role=role, content=text_content(text))
            for seq, (role, text) in enumerate(said, 1)
        )
        return HistoryPage(session_id=session_id, messages=messages)


async def nobody_knows() -> None:
    return None


def row(*, ended: bool = False, hidden: bool = False) -> Callable[[Path, TurnRef], StoredTurn]:
    return lambda _path, _turn: StoredTurn(
        request_id="r", accepted_at_ms=1, said=(), frames=(), ended=ended, hidden=hidden
    )


@pytest.mark.parametrize(
    ("of_snapshot", "running", "ended"),
    [(row(), False, True), (row(), True, False), (row(ended=True), True, True), (row(hidden=True), False, False)],
)
async def test_a_turn_that_runs_by_the_snapshot_may_have_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_snapshot: Callable[[Path, TurnRef], StoredTurn],
    running: bool,
    ended: bool,
) -> None:
    path = tmp_path / "snapshot.duckdb"
    path.touch()
    monkeypatch.setattr(turn_history, "_from_snapshot", of_snapshot)
    owner = cast(Client, Owner(path, running=running))
    found = await stored_turn(owner, TURN, nobody_knows)
    assert found is not None
    assert found.ended is ended
    asked = found.accepted_at_ms is None
    assert asked is not ((ended and running) or found.hidden)
    if asked and ended:
        assert isinstance(found.frames[-1].frame, TurnCompleted)
        assert found.frames[-1].frame.text == "Hello"
