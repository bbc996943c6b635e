"""Turnlog's own REST on a real gateway, and the OpenAPI document of it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from tests.deployment import START_S, eventually_async
from tests.http_stack import HttpStack, http_stack, start_gateway
from tests.metric_families import gateway_families, materializer_families, worker_families
from tests.otlp_receiver import Receiver, Span, otlp_receiver
from tests.unit.test_serve_front import BOSS, SHOP, bearer, hashed, keys
from tests.waiting import eventually, until
from turnlog_workers.devstack.broker import DevBroker

SLOW = "script:slow?tools=0&words=400&delta_ms=30"
READER = {**SHOP, "name": "reader", "sha256": hashed("reader-key"), "scopes": ["read", "admin"]}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Of the spans of the stack's processes."""
    with otlp_receiver() as receiver, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        environment.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        yield receiver


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[HttpStack]:
    with http_stack(broker, tmp_path_factory.mktemp("rest"), metrics_port="0") as stack:
        yield stack


@pytest.fixture
async def http(stack: HttpStack) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=stack.address, timeout=60.0) as client:
        yield client


async def frames(http: httpx2.AsyncClient, url: str, end: str, **headers: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Position, type and content of the frames of a stream, up to the first of a type."""
    found = []
    async with http.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        block: dict[str, str] = {}
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                block[name] = value
            elif "data" in block:
                found.append((block["id"], block["event"], json.loads(block["data"])))
                if block["event"] == end:
                    return found
                block = {}
    raise AssertionError("the stream ended")


async def test_a_session_from_its_first_message_to_its_archive(http: httpx2.AsyncClient) -> None:
    path = "/v1/sessions/rest-1"
    new = {"title": "One", "metadata": {"page": "a"}, "channel": "rest"}
    begun = await http.post(f"{path}/turns", json={"text": "Hello", "new_session": new, "request_id": "r-1"})
    assert begun.status_code == 202, begun.text
    assert (begun.json()["opened_session"], begun.json()["request_id"]) == (True, "r-1")
    again = await http.post(f"{path}/turns", json={"text": "Hello", "new_session": new, "request_id": "r-1"})
    assert again.json()["turn_id"] == begun.json()["turn_id"]
    await frames(http, f"{path}/stream?beginning=true", "turn_completed")
    info = (await http.get(path)).json()
    assert (info["title"], info["metadata"], info["channel"], info["messages"]) == ("One", {"page": "a"}, "rest", 2)
    page = (await http.get(f"{path}/messages?limit=1")).json()
    assert (page["messages"][0]["role"], page["next_after"]) == ("user", 1)
    assert (await http.get("/v1/channels/rest")).json()["session_id"] == "rest-1"
    assert (await http.post(f"{path}/compact")).json()["changed"] is False
    assert (await http.post(f"{path}/reset")).status_code == 200
    hidden = await http.delete(f"{path}/turns/{begun.json()['turn_id']}")
    assert hidden.json()["hidden"] is True
    assert (await http.get(f"/v1/responses/{begun.json()['response_id']}")).status_code == 404

    async def listed() -> bool:
        found = (await http.get("/v1/sessions?metadata=page=a")).json()
        return [each["session_id"] for each in found["sessions"]] == ["rest-1"]

    await eventually_async(listed, "the snapshot lists it")
    assert (await http.post(f"{path}/archive")).json()["archived"] is True
    refused = await http.post(f"{path}/turns", json={"text": "More"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "archived")
    assert refused.headers["x-should-retry"] == "false"


async def test_a_trace_goes_from_the_http_request_to_the_model(http: httpx2.AsyncClient, receiver: Receiver) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    begun = await http.post(
        "/v1/sessions/traced-1/turns",
        json={"text": "A word that no span has"},
        headers={"traceparent": f"00-{trace}-{parent}-01", "authorization": "Bearer a-key-that-no-span-has"},
    )
    assert begun.status_code == 202, begun.text
    wanted = {"POST /v1/sessions/{session_id}/turns", "turnlog.request", "turnlog.queue", "turnlog.turn", "chat echo"}
    spans: dict[str, Span] = {}

    def arrived() -> bool:
        spans.update({span.name: span for span in receiver.of_trace(trace)})
        return wanted <= set(spans)

    await eventually(arrived, "the spans of the trace", 60.0)
    request = spans["POST /v1/sessions/{session_id}/turns"]
    assert (request.service, request.parent_id) == ("turnlog-gateway", parent)
    assert request.attributes["http.response.status_code"] == 202
    for name in ("turnlog.request", "turnlog.queue", "turnlog.turn"):
        assert (spans[name].service, spans[name].parent_id) == ("turnlog-worker", request.span_id), name
    assert spans["chat echo"].parent_id == spans["turnlog.turn"].span_id
    assert spans["chat echo"].attributes["gen_ai.conversation.id"] == "traced-1"
    assert "that-no-span-has" not in str(receiver.spans)
    assert "that no span has" not in str(receiver.spans)
    await eventually(lambda: "/v1/metrics" in receiver.paths, "the conventions' numbers", 60.0)


async def test_a_turn_is_cancelled_and_a_stream_goes_on_behind_its_position(http: httpx2.AsyncClient) -> None:
    path = "/v1/sessions/rest-2"
    begun = (await http.post(f"{path}/turns", json={"text": "Go", "model": SLOW})).json()
    first = await frames(http, f"{path}/stream?beginning=true", "text_delta")
    ended = await http.post(f"{path}/cancel", json={"turn_id": begun["turn_id"]})
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    rest = await frames(http, f"{path}/stream", "turn_cancelled", **{"last-event-id": first[-1][0]})
    whole = await frames(http, f"{path}/stream?beginning=true", "turn_cancelled")
    assert first + rest == whole
    assert len({position for position, _, _ in whole}) == len(whole)
    none = await http.post(f"{path}/cancel")
    assert (none.status_code, none.json()["error"]["code"]) == (409, "not_running")
    nobody = await http.post("/v1/sessions/nobody/cancel")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "not_found")
    for position, status in (("nonsense", 400), ("99-1", 400), (f"{whole[0][0].split('-')[0]}-999999", 410)):
        wrong = await http.get(f"{path}/stream", headers={"last-event-id": position})
        assert wrong.status_code == status


async def test_channels_and_settings(http: httpx2.AsyncClient) -> None:
    made = await http.post("/v1/channels/desk/sessions", json={"session_id": "desk-x", "title": "Desk"})
    assert (made.status_code, made.json()["session_id"]) == (201, "desk-x")
    assert (await http.post("/v1/channels/desk/resolve")).json()["session_id"] == "desk-x"
    rotated = (await http.post("/v1/channels/desk/rotate")).json()["session_id"]
    assert rotated != "desk-x"
    assert (await http.get("/v1/channels/nobody")).status_code == 404
    assert (await http.put("/v1/settings/fast-model", json={"value": "echo:"})).status_code == 200
    assert (await http.get("/v1/settings")).json() == {"fast-model": "echo:"}
    assert (await http.delete("/v1/settings/fast-model")).status_code == 200
    assert (await http.put("/v1/settings/nonsense", json={"value": "x"})).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/sessions/a/turns", {"text": "x", "tetx": "y"}, 400, "invalid_body"),
        ("POST", "/v1/sessions/a/turns", {}, 400, "invalid_body"),
        ("POST", "/v1/sessions/a%20b/turns", {"text": "x"}, 404, "not_found"),
        ("GET", "/v1/sessions/nobody", None, 404, "not_found"),
        ("GET", "/v1/sessions/nobody/messages?limit=0", None, 400, "invalid_query"),
        ("GET", "/v1/sessions/nobody/messages?limt=1", None, 400, "invalid_query"),
        ("GET", "/v1/sessions?limit=1&limit=2", None, 400, "invalid_query"),
        ("POST", "/v1/sessions/a/turns", {"text": " "}, 400, "empty_text"),
    ],
)
async def test_what_cannot_be_is_refused(
    http: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await http.request(method, path, json=body) if body is not None else await http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_namespace_is_all_that_a_key_sees(stack: HttpStack, http: httpx2.AsyncClient) -> None:
    process, address = start_gateway(stack.deployment, "keyed", http_keys=keys(SHOP, BOSS, READER))
    until(lambda: process.ready, "it is ready", START_S)
    await http.post("/v1/sessions/foreign/turns", json={"text": "Hello"})
    async with httpx2.AsyncClient(base_url=address, timeout=60.0) as keyed:
        mine = await keyed.post("/v1/sessions/a/turns", json={"text": "Hello"}, headers=bearer("shop-key"))
        assert mine.json()["session_id"] == "shop.a"
        reads = bearer("reader-key")
        assert (await keyed.get("/v1/sessions/foreign", headers=reads)).status_code == 404
        assert (await keyed.get("/v1/sessions/foreign/messages", headers=reads)).status_code == 404
        assert (await keyed.post("/v1/sessions/foreign/archive", headers=reads)).status_code == 404
        assert (await keyed.get("/v1/settings", headers=reads)).status_code == 403
        assert (await keyed.get("/v1/sessions/a", headers=reads)).json()["session_id"] == "shop.a"

        async def listed() -> list[str]:
            found = (await keyed.get("/v1/sessions", headers=reads)).json()
            return [each["session_id"] for each in found["sessions"]]

        await eventually_async(listed, "the snapshot lists it")
        assert await listed() == ["shop.a"]


async def test_a_gateway_that_stops_ends_its_streams_and_leaves_the_turn_alone(stack: HttpStack) -> None:
    process, address = start_gateway(stack.deployment, "stopping")
    until(lambda: process.ready, "it is ready", START_S)
    async with httpx2.AsyncClient(base_url=address, timeout=60.0) as http:
        await http.post("/v1/sessions/stop-1/turns", json={"text": "Go", "model": SLOW})
        async with http.stream("GET", "/v1/sessions/stop-1/stream?beginning=true") as response:
            lines = response.aiter_lines()
            while await anext(lines) != "event: text_delta":
                pass
            assert await asyncio.to_thread(process.stop) == 0
            with suppress(httpx2.HTTPError):
                async for line in lines:
                    assert line != "event: turn_completed"
    async with httpx2.AsyncClient(base_url=stack.address, timeout=60.0) as http:
        assert (await http.get("/v1/sessions/stop-1")).json()["running_turn_id"]
        assert (await http.post("/v1/sessions/stop-1/cancel")).status_code == 200


async def test_the_document_describes_what_is_there(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names)) > 15
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
    page = await http.get("/docs")
    assert "beginTurn" in text
    assert "/v1/sessions/{session_id}/turns" in page.text
    assert "script" not in page.headers["content-security-policy"]


async def test_every_process_is_ready_and_measured_on_a_port_of_its_own(
    stack: HttpStack, http: httpx2.AsyncClient
) -> None:
    await http.post("/v1/sessions/rest-seen/turns", json={"text": "Hello"})
    ports = set()
    for process, families in zip(
        stack.deployment.processes[:3], (worker_families, materializer_families, gateway_families), strict=True
    ):
        (port,) = re.findall(r"/metrics are on 127\.0\.0\.1 port (\d+)", process.log)
        ports.add(port)
        at = f"http://127.0.0.1:{port}"
        for path in ("/livez", "/readyz"):
            assert (await http.get(at + path)).text == "ok\n", process.name
        text = (await http.get(f"{at}/metrics")).text
        told = {
            f"{name}_total" if kind == "counter" and not name.endswith("_total") else name: kind
            for name, kind in re.findall(r"^# TYPE (turnlog_\w+?) (\w+)$", text, re.M)
            if not name.endswith("_created")
        }
        assert told == {name: kind for name, (kind, _) in families().items()}
    assert len(ports) == 3
    assert "turnlog_http_requests_total" in text
    assert not re.search("rest-seen|Hello", text)
