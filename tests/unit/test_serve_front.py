"""What stands before every endpoint of the HTTP front, and the streams of events."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
from starlette.responses import Response

from tests.waiting import eventually
from turnlog.errors import UsageError
from turnlog.serve.app import create_app
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import DONE, EventStream, event
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import json_response
from turnlog.serve.keys import read_keys
from turnlog.serve.limits import RateLimit, StreamLimit
from turnlog.serve.open_streams import OpenStreams
from turnlog.serve.server import check_exposure
from turnlog_workers.base.config import Settings

HERE = "http://127.0.0.1:8080"


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys(*entries: dict[str, Any]) -> str:
    return json.dumps(list(entries))


SHOP = {"name": "shop", "sha256": hashed("shop-key"), "scopes": ["chat"], "namespace": "shop."}
BOSS = {"name": "boss", "sha256": hashed("boss-key"), "scopes": ["read", "admin", "sql"]}


async def whoami(call: Call) -> Response:
    return json_response({"name": call.caller.name, "session": call.session()})


async def echo(call: Call) -> Response:
    return json_response(await call.json())


async def fails(call: Call) -> Response:
    raise RuntimeError("secret text of somebody")


ENDPOINTS = (
    Endpoint(path="/who/{session_id}", handler=whoami),
    Endpoint(path="/admin/{session_id}", handler=whoami, scopes=("admin",)),
    Endpoint(path="/echo", handler=echo, methods=("POST",), scopes=("chat", "admin")),
    Endpoint(path="/fails", handler=fails),
)


def client(**settings: Any) -> httpx2.AsyncClient:
    gateway = Gateway(Settings(**settings))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=create_app(gateway, ENDPOINTS)), base_url=HERE)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def code(response: httpx2.Response) -> str:
    error = response.json()["error"]
    assert all(isinstance(error[name], str) for name in ("message", "type", "param", "code"))
    return str(error["code"])


# ---- keys


async def test_a_key_opens_what_its_scopes_say() -> None:
    async with client(http_keys=keys(SHOP, BOSS)) as http:
        assert (await http.get("/who/x", headers=bearer("shop-key"))).json()["name"] == "shop"
        refused = await http.get("/admin/x", headers=bearer("shop-key"))
        assert (refused.status_code, code(refused)) == (403, "missing_scope")
        assert (await http.get("/admin/x", headers=bearer("boss-key"))).status_code == 200
        by_basic = await http.get("/admin/x", auth=httpx2.BasicAuth("anybody", "boss-key"))
        assert by_basic.status_code == 200
        for headers in ({}, bearer("wrong"), {"authorization": "Basic !!"}, {"authorization": "nonsense"}):
            refused = await http.get("/who/x", headers=headers)
            assert (refused.status_code, code(refused)) == (401, "invalid_api_key")
            assert "shop-key" not in refused.text


async def test_ids_are_in_the_namespace_of_their_caller() -> None:
    async with client(http_keys=keys(SHOP, BOSS)) as http:
        for named, full in (("a", "shop.a"), ("shop.a", "shop.a"), ("other.a", "shop.other.a")):
            assert (await http.get(f"/who/{named}", headers=bearer("shop-key"))).json()["session"] == full
        assert (await http.get("/who/shop.a", headers=bearer("boss-key"))).json()["session"] == "shop.a"
        assert (await http.get("/who/a%20b", headers=bearer("boss-key"))).status_code == 404
        assert (await http.get(f"/who/{'x' * 128}", headers=bearer("shop-key"))).status_code == 404


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("nonsense", "no JSON"),
        ("{}", "a list"),
        (keys({**SHOP, "sha256": "shop-key"}), "64 hex digits"),
        (keys({**SHOP, "scopes": ["root"]}), "scopes"),
        (keys({**SHOP, "scopes": []}), "scopes"),
        (keys({**SHOP, "name": "a b"}), "name"),
        (keys({**SHOP, "namespace": "a b"}), "namespace"),
        (keys({**SHOP, "key": "shop-key"}), "nothing else"),
        (keys({**SHOP, "scopes": ["sql"]}), "no namespace"),
        (keys(SHOP, SHOP), "two keys"),
        (keys(SHOP, {**BOSS, "scopes": ["read"], "namespace": "shop.eu."}), "lies in"),
    ],
)
def test_keys_that_cannot_be_are_refused_without_repeating_them(entries: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_keys(Settings(http_keys=entries))
    assert "shop-key" not in str(caught.value)


def test_keys_come_from_a_file_too(tmp_path: Any) -> None:
    path = tmp_path / "keys.json"
    path.write_text(keys(BOSS))
    ring = read_keys(Settings(http_keys=keys(SHOP), http_keys_file=path))
    assert [caller.name for caller in ring.callers] == ["shop", "boss"]
    path.write_text("[]")
    with pytest.raises(UsageError, match="has no key"):
        read_keys(Settings(http_keys_file=path))
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(Settings(http_keys_file=tmp_path / "missing"))


def test_without_keys_only_loopback_is_listened_on() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_exposure(Settings(http_host=host), has_keys=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"):
        with pytest.raises(UsageError, match="Without keys"):
            check_exposure(Settings(http_host=host), has_keys=False)
        check_exposure(Settings(http_host=host), has_keys=True)


# ---- where a request comes from


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:99"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "chat.example"}, 200),
        ({"host": ""}, 403),
        ({"origin": HERE}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://evil.example", "authorization": "Bearer any"}, 403),
        ({"origin": "https://app.example"}, 200),
    ],
)
async def test_without_keys_the_place_of_a_request_is_looked_at(headers: dict[str, str], status: int) -> None:
    settings = {"http_hosts": "chat.example", "http_cors_origins": "https://app.example"}
    async with client(**settings) as http:
        assert (await http.get("/who/x", headers=headers)).status_code == status


async def test_with_keys_a_bearer_may_come_from_anywhere_and_a_browser_may_not() -> None:
    async with client(http_keys=keys(BOSS)) as http:
        far = {"host": "any.example", "origin": "http://evil.example"}
        assert (await http.get("/who/x", headers={**far, **bearer("boss-key")})).status_code == 200
        assert (await http.get("/who/x", headers=far, auth=httpx2.BasicAuth("", "boss-key"))).status_code == 403
    async with client(http_keys=keys(BOSS), http_hosts="chat.example") as http:
        assert (await http.get("/who/x", headers={**far, **bearer("boss-key")})).status_code == 403


async def test_pages_of_other_origins_are_told_nothing_unless_they_are_named() -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight["access-control-request-headers"] = "authorization,content-type,x-stainless-retry-count"
    async with client() as http:
        answer = await http.options("/echo", headers=preflight)
        assert "access-control-allow-origin" not in answer.headers
    async with client(http_cors_origins="https://app.example", http_keys=keys(BOSS)) as http:
        answer = await http.options("/echo", headers=preflight)  # without a key, as browsers send it
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
        other = await http.options("/echo", headers={**preflight, "origin": "https://evil.example"})
        assert other.headers.get("access-control-allow-origin") is None


# ---- bodies, rates, errors


async def test_a_body_is_a_json_object_within_its_limit() -> None:
    async with client(http_max_body_bytes=1024) as http:
        assert (await http.post("/echo", json={"a": 1})).json() == {"a": 1}
        for content, kind, status in (
            (b'{"a": 1}', "text/plain", 415),
            (b"[1]", "application/json", 400),
            (b'{"a": NaN}', "application/json", 400),
            (b"\xff", "application/json", 400),
            (b"[" * 1000, "application/json", 400),
            (b'{"a": "' + b"x" * 1024 + b'"}', "application/json", 413),
        ):
            answer = await http.post("/echo", content=content, headers={"content-type": kind})
            assert (answer.status_code, bool(code(answer))) == (status, True)


async def test_a_key_has_so_many_requests_a_minute() -> None:
    async with client(http_max_requests_per_minute=2) as http:
        assert [(await http.get("/who/x")).status_code for _ in range(3)] == [200, 200, 429]
        refused = await http.get("/who/x")
        assert code(refused) == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_the_rate_is_refilled_evenly_and_each_caller_has_its_own() -> None:
    now = 0.0
    rate = RateLimit(60, lambda: now)

    def taken(caller: str) -> int:
        count = 0
        with contextlib.suppress(Exception):
            while True:
                rate.take(caller)
                count += 1
        return count

    assert taken("a") == 60
    assert taken("b") == 60
    now = 2.5
    assert taken("a") == 2
    now = 1000.0
    assert taken("a") == 60


def test_a_key_has_so_many_streams_open() -> None:
    limit = StreamLimit(1)
    give_back = limit.take("a")
    limit.take("b")
    with pytest.raises(Exception, match="1 streams are open"):
        limit.take("a")
    give_back()
    give_back()
    limit.take("a")
    assert limit.total == 2


async def test_every_response_has_its_headers_and_no_error_tells_what_was_in_it() -> None:
    async with client() as http:
        missing, failed, method = await http.get("/nothing"), await http.get("/fails"), await http.put("/echo")
        assert [answer.status_code for answer in (missing, failed, method)] == [404, 500, 405]
        assert "secret" not in failed.text
        for answer in (missing, failed, method, await http.get("/who/x")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-request-id"].startswith("req_")


async def test_health_says_whether_there_is_a_connection() -> None:
    gateway = Gateway(Settings())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=create_app(gateway)), base_url=HERE) as http:
        assert (await http.get("/health")).status_code == 503


# ---- streams


def test_an_event_is_one_line_of_data_that_ends_in_lf() -> None:
    assert event({"a": "x\r\ny"}, name="n", event_id="7") == b'id: 7\nevent: n\ndata: {"a":"x\\r\\ny"}\n\n'
    assert event("[DONE]") == DONE


class Reader:
    """The other end of a stream: what it is sent, and whether it reads and stays."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.cut = False

    def drop(self) -> None:
        self.cut = True
        self.gone.set()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if not self.cut:
            reading = asyncio.ensure_future(self.reads.wait())
            gone = asyncio.ensure_future(self.gone.wait())
            await asyncio.wait((reading, gone), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            gone.cancel()
            self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def start(self, response: EventStream, method: str = "GET") -> asyncio.Task[None]:
        scope = {"type": "http", "method": method, "state": {"cut": self.drop, "hang_up": self.drop}}
        return asyncio.create_task(response(scope, self.receive, self.send))  # type: ignore[arg-type]


def open_streams(**settings: float) -> OpenStreams:
    bounds = {"heartbeat_s": 60.0, "slow_reader_timeout_s": 60.0, **settings}
    return OpenStreams(clock=asyncio.get_running_loop().time, **bounds)


async def numbers(count: int, then: Callable[[], Awaitable[object]] | None = None) -> AsyncIterator[bytes]:
    for number in range(count):
        yield event(str(number))
    if then is not None:
        await then()


async def test_a_stream_is_sent_event_by_event_and_ends() -> None:
    reader, released = Reader(), []
    response = EventStream(numbers(3), open_streams(), release=lambda: released.append(1))
    await reader.start(response)
    bodies = [message["body"] for message in reader.sent[1:]]
    assert bodies == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b""]
    assert reader.sent[-1]["more_body"] is False
    headers = dict(reader.sent[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"x-accel-buffering"] == b"no"
    assert released == [1]
    assert not reader.cut


async def test_what_fails_in_the_middle_cuts_the_connection() -> None:
    async def fail() -> None:
        raise RuntimeError

    reader = Reader()
    await reader.start(EventStream(numbers(1, fail), open_streams()))
    assert reader.cut
    assert all(message.get("more_body", True) for message in reader.sent)


async def test_a_reader_that_goes_ends_its_stream_alone() -> None:
    streams, ended = open_streams(), asyncio.Event()

    async def forever() -> AsyncIterator[bytes]:
        try:
            yield event("0")
            await asyncio.Event().wait()
        finally:
            ended.set()

    one, other = Reader(), Reader()
    tasks = [reader.start(EventStream(forever(), streams)) for reader in (one, other)]
    await eventually(lambda: len(streams) == 2 and one.body and other.body, "both are open")
    one.gone.set()
    await tasks[0]
    assert ended.is_set()
    assert len(streams) == 1
    streams.stop()
    await tasks[1]
    assert other.cut
    late = Reader()
    await late.start(EventStream(numbers(1), streams))
    assert late.cut
    await streams.aclose()


async def test_silence_is_broken_by_comments() -> None:
    streams, reader = open_streams(heartbeat_s=0.1), Reader()
    task = reader.start(EventStream(numbers(1, asyncio.Event().wait), streams))
    await eventually(lambda: b": ping\n\n" in reader.body, "a heartbeat")
    reader.gone.set()
    await task
    await streams.aclose()


async def test_a_reader_that_does_not_read_is_cut() -> None:
    streams, stuck, go_on = open_streams(slow_reader_timeout_s=0.1), Reader(), asyncio.Event()

    async def two() -> AsyncIterator[bytes]:
        yield event("0")
        await go_on.wait()
        yield event("1")

    task = stuck.start(EventStream(two(), streams))
    await eventually(lambda: b"data: 0" in stuck.body, "it reads the first")
    stuck.reads.clear()
    go_on.set()
    await eventually(lambda: stuck.cut, "it is cut")
    await task
    assert streams.cut_readers == 1
    await streams.aclose()
