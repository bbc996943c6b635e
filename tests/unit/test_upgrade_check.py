"""What ``make upgrade-check`` says of the session that was chatted in over HTTP."""

from functools import partial
from typing import Any, cast

import httpx2
import pytest

from tests import upgrade_check
from tests.upgrade_check import Visitor


def visitor(monkeypatch: pytest.MonkeyPatch, sent: list[str], stored: list[str]) -> Visitor:
    """One who sent these messages, and a gateway that shows those, two on a page."""

    def page(request: httpx2.Request) -> httpx2.Response:
        after = int(request.url.params["after"])
        messages = [{"content": [{"text": text}]} for text in stored[after : after + 2]]
        return httpx2.Response(
            200, json={"messages": messages, "next_after": after + 2 if stored[after + 2 :] else None}
        )

    client = partial(httpx2.AsyncClient, transport=httpx2.MockTransport(page))
    monkeypatch.setattr(upgrade_check.httpx2, "AsyncClient", client)
    monkeypatch.setattr(upgrade_check, "_ACCEPTED_S", 0.1)
    monkeypatch.setattr(Visitor, "_start", lambda self: None)
    one = Visitor(cast(Any, None))
    one.sent = sent
    return one


async def test_each_message_must_be_there_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = ["a", "b", "c"]
    assert await visitor(monkeypatch, sent, ["a", "a", "b", "b", "c", "c"]).wrong() == []
    for stored in (["a", "a", "b", "b", "b", "c", "c"], ["b", "b", "a", "a", "c", "c"]):
        assert "holds" in (await visitor(monkeypatch, sent, stored).wrong())[0]
    assert "4 of 6 messages" in (await visitor(monkeypatch, sent, ["a", "a", "b", "b"]).wrong())[0]
