"""``turnlog sessions erase``: who is erased is told, whatever becomes of the others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turnlog.cli import erasing
from turnlog.cli.app import app
from turnlog.client.session_info import ErasureReceipt
from turnlog.errors import BrokerUnreachableError, RequestRefusedError

DAY_MS = 86_400_000
RECEIPT = ErasureReceipt(requests_kept_ms=14 * DAY_MS, replies_kept_ms=-1, dead_letters_kept_ms=0, key_kept_ms=DAY_MS)


class Owners:
    """A client of sessions that are erased, or are not."""

    def __init__(self, **errors: Exception) -> None:
        self.asked: list[str] = []
        self._errors = errors

    async def erase(self, session_id: str, *, timeout_s: float) -> ErasureReceipt:
        self.asked.append(session_id)
        if session_id in self._errors:
            raise self._errors[session_id]
        return RECEIPT


def erase(monkeypatch: pytest.MonkeyPatch, owners: Owners, *words: str) -> Result:
    def ask_once(settings: Any, verb: Callable[[Any], Awaitable[Any]]) -> Any:
        async def ask() -> Any:
            return await verb(owners)

        return asyncio.run(ask())

    monkeypatch.setattr(erasing, "ask_once", ask_once)
    return CliRunner().invoke(app, ["sessions", "erase", *words])


def test_all_are_erased_and_what_is_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Owners()
    done = erase(monkeypatch, owners, "a", "b", "a", "--yes")
    assert (done.exit_code, done.stdout, owners.asked) == (0, "a\nb\n", ["a", "b"])
    assert "still there: requests, until 20" in done.stderr
    assert "still there: replies, for ever" in done.stderr
    assert "dead letters" not in done.stderr
    told = json.loads(erase(monkeypatch, owners, "a", "--yes", "--json").stdout)
    assert told["a"]["requests_kept_ms"] == 14 * DAY_MS


def test_one_that_is_refused_keeps_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Owners(a=RequestRefusedError("set_aside", "it is set aside"))
    done = erase(monkeypatch, owners, "a", "b", "--yes")
    assert (done.exit_code, done.stdout) == (RequestRefusedError.exit_code, "b\n")
    assert "session a is not erased: refused (set_aside)" in done.stderr
    assert "1 of 2 sessions are erased: run it again" in done.stderr


def test_a_broker_that_is_away_is_asked_once_and_what_was_done_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Owners(b=BrokerUnreachableError("the broker is away"))
    done = erase(monkeypatch, owners, "a", "b", "c", "--yes")
    assert (done.exit_code, done.stdout, owners.asked) == (BrokerUnreachableError.exit_code, "a\n", ["a", "b"])


def test_nothing_is_erased_unless_somebody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Owners()
    assert erase(monkeypatch, owners, "a").exit_code == 1
    assert erase(monkeypatch, owners, "--yes").exit_code == 2
    assert erase(monkeypatch, owners, "a", "--meta", "user_id=ada", "--yes").exit_code == 2
    assert owners.asked == []
