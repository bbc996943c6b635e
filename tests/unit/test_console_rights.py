"""Who may what on the console's pages, and which forms are taken. No broker: what reaches Kafka is 503 here."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.console_snapshot import make_snapshot
from turnlog.errors import UsageError
from turnlog.serve.app import create_app
from turnlog.serve.console import saved_queries
from turnlog.serve.gateway import Gateway
from turnlog_streams.runtime_settings import (
    MAX_QUERY_CHARS,
    UnknownSettingError,
    check_setting,
    query_setting,
)
from turnlog_streams.runtime_settings import saved_queries as saved_in
from turnlog_workers.base.config import Settings

HERE = "http://127.0.0.1:8080"
FORM = {"content-type": "application/x-www-form-urlencoded", "origin": HERE}


def key(name: str, *scopes: str, namespace: str = "") -> dict[str, Any]:
    digest = hashlib.sha256(f"{name}-key".encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes), "namespace": namespace}


KEYS = json.dumps(
    [
        key("boss", "read", "chat", "admin", "sql"),
        key("reader", "read"),
        key("chatter", "chat"),
        key("mail", "read", namespace="mail-"),
    ]
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("console") / "snapshot.duckdb")


def client(snapshot: Path, name: str | None = None, **settings: Any) -> httpx2.AsyncClient:
    made = Settings(snapshot_path=snapshot, http_keys=KEYS if name else "", **settings)
    transport = httpx2.ASGITransport(app=create_app(Gateway(made)))
    auth = httpx2.BasicAuth("", f"{name}-key") if name else None
    return httpx2.AsyncClient(transport=transport, base_url=HERE, auth=auth)


def token(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]+)"', page)
    assert found is not None
    return found[1]


async def status(http: httpx2.AsyncClient, path: str, **fields: str) -> int:
    if not fields:
        return (await http.get(path)).status_code
    return (await http.post(path, data=fields, headers=FORM)).status_code


async def test_scopes_and_namespaces_say_which_pages_there_are(snapshot: Path) -> None:
    paths = (
        "/",
        "/console/sessions/web-1",
        "/console/sessions/mail-2",
        "/console/dead-letters",
        "/console/sql?q=SELECT+1",
    )
    told = {}
    for name in ("boss", "reader", "chatter", "mail"):
        async with client(snapshot, name) as http:
            told[name] = [await status(http, path) for path in paths]
    assert told["boss"] == [200, 200, 200, 200, 200]
    assert told["reader"] == [200, 200, 200, 200, 403]
    assert told["chatter"] == [403] * 5
    assert told["mail"][0] == told["mail"][2] == 200
    assert told["mail"][1] in (404, 503), "it is asked for in the namespace, where nobody knows it"
    assert told["mail"][3:] == [404, 403]
    async with client(snapshot, "mail") as http:
        page = (await http.get("/")).text
    assert "mail-2" in page
    assert "web-1" not in page
    async with client(snapshot, "nobody") as http:
        refused = await http.get("/", headers={"accept": "text/html"})
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")


async def test_forms_are_taken_from_our_own_pages_only(snapshot: Path) -> None:
    send = "/console/sessions/web-1/send"
    async with client(snapshot) as http:
        own = token((await http.get("/console/sessions/web-1")).text)
        right = {"token": own, "text": "Hi"}
        assert await status(http, send, **right) == 503, "all but Kafka is well"
        assert await status(http, send, text="Hi", token="0" * 64) == 403
        assert await status(http, send, text="Hi", token="") == 403
        for headers in (
            {"origin": "https://example.org"},
            {"origin": "null"},
            {"origin": HERE, "sec-fetch-site": "cross-site"},
            {"origin": HERE, "sec-fetch-site": "same-site"},
        ):
            answer = await http.post(send, data=right, headers=headers)
            assert answer.status_code == 403, headers
        assert (await http.post(send, json=right)).status_code == 415
        assert (await http.get("/", headers={"host": "example.org"})).status_code == 403
    async with client(snapshot) as another:  # another gateway without keys has a secret of its own process
        assert token((await another.get("/console/sessions/web-1")).text) == own
    async with client(snapshot, "boss") as http:
        assert token((await http.get("/console/sessions/web-1")).text) != own


async def test_what_may_be_done_follows_the_scopes(snapshot: Path) -> None:
    forms = {name: f"/console/sessions/web-1/{name}" for name in ("send", "cancel", "compact", "archive")}
    forms["save"] = "/console/sql/save"
    async with client(snapshot, "reader") as http:
        assert {await status(http, path, token="x") for path in forms.values()} == {403}
    async with client(snapshot, "chatter") as http:
        for name, path in forms.items():
            answer = await http.post(path, data={"token": "x"}, headers=FORM)
            of_token = "not one of this gateway" in answer.text
            assert (answer.status_code, of_token) == (403, name in ("send", "cancel"))


async def test_a_link_of_another_site_runs_no_statement(snapshot: Path) -> None:
    async with client(snapshot) as http:
        shown = await http.get("/console/sql?q=SELECT+42+AS+answer", headers={"sec-fetch-site": "cross-site"})
        assert "A link of another site" in shown.text
        assert "<td" not in shown.text
        own = await http.get("/console/sql?q=SELECT+42+AS+answer", headers={"sec-fetch-site": "same-origin"})
        assert '<td class="n">42</td>' in own.text
        for statement in ("DROP TABLE messages", "SELECT * FROM read_text('x')", "ATTACH 'x'", "nonsense"):
            refused = await http.get("/console/sql", params={"q": statement})
            assert (refused.status_code, "note bad" in refused.text) == (400, True)


async def test_pages_say_what_they_may_load(snapshot: Path) -> None:
    async with client(snapshot) as http:
        for path in ("/", "/console/static/console.js", "/console/sessions/x/events"):
            answer = await http.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'" in policy
            assert "unsafe" not in policy
        assert (await http.get("/console/static/..%2Fpages.py")).status_code == 404
        assert (await http.get("/console/static/nothing.js")).status_code == 404
        style = await http.get("/console/static/console.css")
        again = await http.get("/console/static/console.css", headers={"if-none-match": style.headers["etag"]})
        assert again.status_code == 304


def test_saved_queries_are_settings_of_a_bounded_size() -> None:
    name = query_setting("by-role")
    check_setting(name, "x" * MAX_QUERY_CHARS)
    for wrong in ("x" * (MAX_QUERY_CHARS + 1), ""):
        with pytest.raises(UnknownSettingError, match="characters"):
            check_setting(name, wrong)
    with pytest.raises(UnknownSettingError, match="no setting"):
        check_setting(query_setting("a b"), "x")
    assert saved_in({name: "SELECT 1", "default-model": "echo:"}) == {"by-role": "SELECT 1"}


async def test_saved_queries_are_of_a_bounded_number() -> None:
    class Kept:
        """A client that has settings."""

        def __init__(self) -> None:
            self.values = {query_setting(f"q{number}"): "SELECT 1" for number in range(saved_queries.MAX_QUERIES)}

        async def get_settings(self) -> dict[str, str]:
            return self.values

        async def set_setting(self, name: str, value: str | None) -> None:
            self.values[name] = value or ""

    class Connected:
        client = Kept()

    gateway: Any = Connected()
    with pytest.raises(UsageError, match="no more"):
        await saved_queries.save(gateway, "one-more", "SELECT 2")
    await saved_queries.save(gateway, "q7", "SELECT 2")
    assert gateway.client.values[query_setting("q7")] == "SELECT 2"
