"""What ``make upgrade-check`` says of the session that was chatted in over HTTP."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from tests import upgrade_check
from tests.upgrade_check import Visitor, last_release

Handler = Callable[[httpx2.Request], httpx2.Response]


def alone(monkeypatch: pytest.MonkeyPatch, gateway: Handler) -> Visitor:
    """A visitor of a gateway that the test plays."""
    client = partial(httpx2.AsyncClient, transport=httpx2.MockTransport(gateway))
    monkeypatch.setattr(upgrade_check.httpx2, "AsyncClient", client)
    monkeypatch.setattr(Visitor, "_start", lambda self: None)
    return Visitor(cast(Any, None))


def visitor(monkeypatch: pytest.MonkeyPatch, sent: list[str], stored: list[str]) -> Visitor:
    """One who sent these messages, and a gateway that shows those, two on a page."""

    def page(request: httpx2.Request) -> httpx2.Response:
        after = int(request.url.params["after"])
        messages = [{"content": [{"text": text}]} for text in stored[after : after + 2]]
        return httpx2.Response(
            200, json={"messages": messages, "next_after": after + 2 if stored[after + 2 :] else None}
        )

    monkeypatch.setattr(upgrade_check, "_ACCEPTED_S", 0.1)
    one = alone(monkeypatch, page)
    one.sent = sent
    return one


def test_the_last_release_is_found_with_and_without_tags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(upgrade_check, "ROOT", tmp_path)

    def commit(changelog: str) -> str:
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        for argv in (
            ["add", "-A"],
            ["-c", "user.name=n", "-c", "user.email=e@example.com", "commit", "-qm", "one more"],
        ):
            subprocess.run(["git", *argv], cwd=tmp_path, check=True)
        argv = ["git", "rev-parse", "HEAD"]
        return subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit("## [0.1.0] (unreleased)\n")
    assert last_release() == ""
    released = commit("## [0.1.0] - 2026-01-01\n")
    commit("## [0.1.1] (unreleased)\n\n- Faster.\n\n## [0.1.0] - 2026-01-01\n")
    commit("## [0.1.1] - 2026-01-02\n\n- Faster.\n\n## [0.1.0] - 2026-01-01\n")
    assert last_release() == released
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "2", f"file://{tmp_path}", shallow], cwd=tmp_path, check=True)
    monkeypatch.setattr(upgrade_check, "ROOT", shallow)
    with pytest.raises(SystemExit, match="shallow"):
        last_release()
    monkeypatch.setattr(upgrade_check, "ROOT", tmp_path)
    subprocess.run(["git", "tag", "v0.1.0", released], cwd=tmp_path, check=True)
    subprocess.run(["git", "tag", "v0.1.1"], cwd=tmp_path, check=True)
    assert last_release() == "v0.1.0"


async def test_the_visitor_hears_whether_his_last_message_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_check, "_PAUSE_S", 0.0)

    def accept(request: httpx2.Request) -> httpx2.Response:
        one.leaving = one.tried == 3  # meanwhile
        return httpx2.Response(202)

    one = alone(monkeypatch, accept)
    await one.chat()
    assert one.sent == ["Message 0", "Message 1", "Message 2"]


async def test_each_message_must_be_there_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = ["a", "b", "c"]
    assert await visitor(monkeypatch, sent, ["a", "a", "b", "b", "c", "c"]).wrong() == []
    for stored in (["a", "a", "b", "b", "b", "c", "c"], ["b", "b", "a", "a", "c", "c"]):
        assert "holds" in (await visitor(monkeypatch, sent, stored).wrong())[0]
    assert "4 of 6 messages" in (await visitor(monkeypatch, sent, ["a", "a", "b", "b"]).wrong())[0]
