"""OpenAI's protocols on a real broker, worker and gateway, asked by the pinned ``openai`` package."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from kafka import KafkaAdminClient, TopicPartition
from openai import AsyncOpenAI
from openai.types.responses import Response

from tests.deployment import START_S
from tests.http_node import run_node
from tests.http_stack import HttpStack, http_stack, start_gateway
from tests.open_responses import check_events, check_response
from tests.unit.test_serve_front import BOSS, SHOP, bearer, keys
from tests.waiting import tried, until
from turnlog import Client
from turnlog.serve.turn_ids import response_ref
from turnlog_schemas.parts import content_text
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.kafka_python import connected

SLOW = "script:slow?tools=0&words=400&delta_ms=30"
SHORT = "script:short?tools=1&words=30&delta_ms=10&reasoning=true"
CALLS = "script:7?tools=0&client_calls=1&words=5"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
PROGRAMS = Path(__file__).parents[1] / "data" / "chat_programs"


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStack]:
    """The gateway without keys, and one with keys beside it."""
    with http_stack(broker, tmp_path_factory.mktemp("http"), http_chat_id_header="X-OpenWebUI-Chat-Id") as stack:
        yield stack


@pytest.fixture(scope="module")
def other(stack: HttpStack) -> str:
    """The address of another gateway, which asks for keys."""
    settings = {"http_keys": keys(SHOP, BOSS)}
    process, address = start_gateway(stack.deployment, "keyed", http_chat_id_header="X-Conversation-Id", **settings)
    until(lambda: process.ready, "it is ready", START_S)
    return address


@pytest.fixture
async def ai(stack: HttpStack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{stack.address}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(stack: HttpStack) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=stack.address, timeout=60.0) as client:
        yield client


async def events_of(http: httpx2.AsyncClient, method: str, url: str, **arguments: Any) -> list[dict[str, Any]]:
    """The events of a stream, as they are on the wire."""
    found = []
    async with http.stream(method, url, **arguments) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream"
        text = (await response.aread()).decode()
    assert "\r" not in text
    *blocks, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    for block in blocks:
        if block != ": ping":
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


# ---- what the compliance suite of Open Responses asks, by its names


async def answered(http: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post("/v1/responses", json={"model": "echo:", **body})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    check_response(found)
    return found


async def test_compliance_basic_response(http: httpx2.AsyncClient) -> None:
    said = [{"type": "message", "role": "user", "content": "Say hello in exactly 3 words."}]
    found = await answered(http, input=said)
    assert found["status"] == "completed"
    assert found["output"][0]["content"][0]["text"] == "Say hello in exactly 3 words."


async def test_compliance_streaming_response(http: httpx2.AsyncClient) -> None:
    body = {"model": SHORT, "stream": True, "input": [{"type": "message", "role": "user", "content": "Count to 5."}]}
    events = await events_of(http, "POST", "/v1/responses", json=body)
    assert check_events(events).status == "completed"


async def test_compliance_system_prompt(http: httpx2.AsyncClient, stack: HttpStack) -> None:
    said = [
        {"type": "message", "role": "system", "content": "You are a pirate. Always respond in pirate speak."},
        {"type": "message", "role": "user", "content": "Say hello."},
    ]
    found = await answered(http, input=said)
    async with Client(stack.deployment.settings) as client:
        info = await client.get(found["conversation"]["id"])
    assert info.instructions == said[0]["content"]


async def test_compliance_multi_turn(http: httpx2.AsyncClient, stack: HttpStack) -> None:
    said = [
        {"type": "message", "role": "user", "content": "My name is Alice."},
        {"type": "message", "role": "assistant", "content": "Hello Alice! Nice to meet you."},
        {"type": "message", "role": "user", "content": "What is my name?"},
    ]
    found = await answered(http, input=said)
    async with Client(stack.deployment.settings) as client:
        history = [entry async for entry in client.messages(found["conversation"]["id"])]
    assert [(entry.role, entry.imported) for entry in history] == [
        *(("user", True), ("assistant", True), ("user", False), ("assistant", False))
    ]


async def test_compliance_previous_response_id(http: httpx2.AsyncClient) -> None:
    first = await answered(http, input="My name is Alice.")
    second = await answered(http, input="What is my name?", previous_response_id=first["id"])
    assert second["status"] == "completed"
    assert second["previous_response_id"] == first["id"]
    assert second["conversation"] == first["conversation"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": PIXEL},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQK"},
    ],
)
async def test_compliance_image_and_file_input_are_refused_as_data(
    http: httpx2.AsyncClient, part: dict[str, Any]
) -> None:
    """The log holds no bytes of files. What refers to one goes where the deployment allows it."""
    said = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is it?"}, part]}]
    response = await http.post("/v1/responses", json={"model": "echo:", "input": said})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_content")


async def test_compliance_tool_calling(http: httpx2.AsyncClient) -> None:
    found = await answered(http, model=CALLS, input="The weather in San Francisco?", tools=[TOOL])
    assert [item["type"] for item in found["output"]] == ["function_call"]
    assert found["output"][0]["name"] == "get_weather"
    assert found["tools"][0]["strict"] is None


async def test_compliance_tool_calling_streaming(http: httpx2.AsyncClient) -> None:
    body = {"model": CALLS, "stream": True, "input": "The weather?", "tools": [TOOL]}
    events = await events_of(http, "POST", "/v1/responses", json=body)
    check_events(events)
    wanted = {"response.function_call_arguments.delta", "response.function_call_arguments.done"}
    assert wanted <= {event["type"] for event in events}


async def test_compliance_function_call_roundtrip(http: httpx2.AsyncClient) -> None:
    choice = {"type": "function", "name": "get_weather"}
    first = await answered(http, model=CALLS, input="The weather?", tools=[TOOL], tool_choice=choice)
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 72F"}
    second = await answered(
        http, model="script:8?tools=0", input=[output], previous_response_id=first["id"], tools=[TOOL]
    )
    assert second["status"] == "completed"
    assert second["output"][-1]["type"] == "message"


async def test_outputs_that_nobody_waits_for_are_refused(http: httpx2.AsyncClient) -> None:
    first = await answered(http, model=CALLS, input="The weather?", tools=[TOOL])
    for call_id, code in (("nobody", "unknown_call"),):
        output = {"type": "function_call_output", "call_id": call_id, "output": "x"}
        body = {"model": CALLS, "input": [output], "previous_response_id": first["id"]}
        refused = await http.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)


async def test_a_stateless_roundtrip_of_calls_brings_its_whole_history(http: httpx2.AsyncClient) -> None:
    said = {"type": "message", "role": "user", "content": "The weather?"}
    first = await answered(http, model=CALLS, input=[said], tools=[TOOL])
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
    second = await answered(http, model="script:8?tools=0", input=[said, call, output], tools=[TOOL])
    assert second["conversation"] != first["conversation"]
    assert second["status"] == "completed"


# ---- the SDK


async def test_the_streaming_helper_and_what_it_gathers(ai: AsyncOpenAI) -> None:
    async with ai.responses.stream(model=SHORT, input="Go") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text
    assert final.usage is not None
    assert final.usage.total_tokens > 0


async def test_a_background_response_is_followed_from_anywhere_with_the_same_numbers(
    ai: AsyncOpenAI, http: httpx2.AsyncClient, other: str
) -> None:
    begun = await ai.responses.create(model=SHORT, input="Go", background=True, metadata={"a": "b"}, temperature=0.5)
    assert begun.status in ("queued", "in_progress")
    whole = await events_of(http, "GET", f"/v1/responses/{begun.id}?stream=true")
    final = check_events(whole)
    assert final.metadata == {"a": "b"}
    assert final.temperature == 0.5
    for after in (0, len(whole) // 2, len(whole) - 1):
        url = f"/v1/responses/{begun.id}?stream=true&starting_after={after}"
        assert await events_of(http, "GET", url) == whole[after + 1 :]
    async with httpx2.AsyncClient(base_url=other, headers=bearer("boss-key"), timeout=60.0) as elsewhere:
        assert await events_of(elsewhere, "GET", f"/v1/responses/{begun.id}?stream=true") == whole
    assert (await http.get(f"/v1/responses/{begun.id}")).json() == whole[-1]["response"]
    resumed = [event async for event in await ai.responses.retrieve(begun.id, stream=True, starting_after=3)]
    assert [event.sequence_number for event in resumed] == list(range(4, len(whole)))


async def test_the_first_stream_has_the_numbers_of_every_replay(http: httpx2.AsyncClient) -> None:
    body = {"model": SHORT, "stream": True, "input": "Go", "instructions": "Be brief.", "tools": [TOOL]}
    first = await events_of(http, "POST", "/v1/responses", json=body)
    again = await events_of(http, "GET", f"/v1/responses/{first[0]['response']['id']}?stream=true")
    assert again == first


async def test_cancelling_keeps_what_was_said_and_may_be_said_twice(ai: AsyncOpenAI) -> None:
    begun = await ai.responses.create(model=SLOW, input="Go", background=True)
    async for event in await ai.responses.retrieve(begun.id, stream=True):
        if event.type == "response.output_text.delta":
            break
    first = await ai.responses.cancel(begun.id)
    assert first.status == "cancelled"
    assert first.output_text
    second = await ai.responses.cancel(begun.id)
    assert second.to_dict() == first.to_dict() == (await ai.responses.retrieve(begun.id)).to_dict()


async def test_what_was_sent_is_listed_page_by_page(ai: AsyncOpenAI) -> None:
    said: Any = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    response = await ai.responses.create(model="echo:", input=said)
    items = [item async for item in ai.responses.input_items.list(response.id, limit=1)]
    assert [item.to_dict()["content"][0]["text"] for item in items] == ["three", "two", "one"]  # type: ignore[index]
    page = await ai.responses.input_items.list(response.id, limit=2, order="asc")
    assert (len(page.data), page.has_more) == (2, True)
    with pytest.raises(openai.BadRequestError):
        await ai.responses.input_items.list(response.id, limit=101)


async def test_a_deleted_response_is_gone_for_everybody_and_its_session_goes_on(
    ai: AsyncOpenAI, stack: HttpStack, other: str
) -> None:
    response = await ai.responses.create(model="echo:", input="Forget this")
    await ai.responses.delete(response.id)
    async with httpx2.AsyncClient(base_url=other, headers=bearer("boss-key"), timeout=60.0) as elsewhere:

        async def gone() -> bool | None:
            return (await elsewhere.get(f"/v1/responses/{response.id}")).status_code == 404 or None

        await tried(gone, "the other gateway knows")
    await ai.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(model="echo:", input="on", previous_response_id=response.id)
    assert response.conversation is not None
    async with Client(stack.deployment.settings) as client:
        texts = [content_text(entry.content) async for entry in client.messages(response.conversation.id)]
    assert texts == ["Forget this", "Forget this"]


async def test_a_response_goes_on_behind_the_newest_only(ai: AsyncOpenAI) -> None:
    first = await ai.responses.create(model="echo:", input="one")
    second = await ai.responses.create(model="echo:", input="two", previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.responses.create(model="echo:", input="fork", previous_response_id=first.id)
    assert caught.value.code == "fork"
    again = await ai.responses.create(model="echo:", input="two", previous_response_id=first.id)
    assert again.id == second.id  # the same words behind the same response: a retry
    running = await ai.responses.create(model=SLOW, input="three", previous_response_id=second.id, background=True)
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.responses.create(model="echo:", input="four", previous_response_id=running.id)
    assert caught.value.code == "response_in_progress"
    await ai.responses.cancel(running.id)
    later = await ai.responses.create(model="echo:", input="four", previous_response_id=running.id)
    assert later.output_text == "four"  # what was too early once is not for ever
    for missing in ("resp_0_999999_nobody", "nonsense", f"resp_0_999999_{first.conversation.id}"):  # type: ignore[union-attr]
        with pytest.raises(openai.NotFoundError):
            await ai.responses.create(model="echo:", input="x", previous_response_id=missing)


async def test_of_those_that_go_on_from_one_response_at_the_same_time_one_does(ai: AsyncOpenAI) -> None:
    first = await ai.responses.create(model="echo:", input="one")
    answers = await asyncio.gather(
        *(ai.responses.create(model="echo:", input=f"{number}", previous_response_id=first.id) for number in range(6)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, openai.BadRequestError)]
    assert [error.code for error in refused] == ["fork"] * 5, answers
    assert len({answer.id for answer in answers if isinstance(answer, Response)}) == 1


async def test_of_completions_behind_one_history_at_the_same_time_one_goes_on(http: httpx2.AsyncClient) -> None:
    here = {"X-Turnlog-Session": "raced"}
    await completed(http, [user("one")], here)
    said = [user("one"), assistant("one")]
    answers = await asyncio.gather(*(completed(http, [*said, user(f"{number}")], here) for number in range(3)))
    sessions = [response.headers["x-turnlog-session"] for _, response in answers]
    assert len(set(sessions)) == 3
    assert sessions.count("raced") == 1


async def test_conversations_are_sessions(ai: AsyncOpenAI) -> None:
    begin: Any = [{"type": "message", "role": "user", "content": "I am Bo."}]
    conversation = await ai.conversations.create(items=begin, metadata={"topic": "names"})
    response = await ai.responses.create(model="echo:", input="Who am I?", conversation=conversation.id)
    assert response.conversation is not None
    assert response.conversation.id == conversation.id
    found = await ai.conversations.retrieve(conversation.id)
    assert (found.metadata, found.created_at) == ({"topic": "names"}, conversation.created_at)
    items = [item async for item in ai.conversations.items.list(conversation.id, order="asc")]
    assert [item.role for item in items] == ["user", "user", "assistant"]  # type: ignore[union-attr]
    one = await ai.conversations.items.retrieve(items[1].id or "", conversation_id=conversation.id)
    assert one.to_dict() == items[1].to_dict()
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.responses.create(model="echo:", input="x", conversation=conversation.id, instructions="Other.")
    assert caught.value.code == "instructions_fixed"
    with pytest.raises(openai.BadRequestError):
        await ai.conversations.update(conversation.id, metadata={})
    await ai.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        await ai.conversations.retrieve(conversation.id)
    with pytest.raises(openai.ConflictError):
        await ai.responses.create(model="echo:", input="x", conversation=conversation.id)


async def test_a_retry_is_the_same_response(ai: AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = await ai.responses.create(model="echo:", input="once", extra_headers=key)
    second = await ai.responses.create(model="echo:", input="once", extra_headers=key)
    assert second.to_dict() == first.to_dict()
    with pytest.raises(openai.ConflictError):
        await ai.responses.create(model="echo:", input="something else", extra_headers=key)
    body = {"model": "echo:", "input": "counted"}
    ids = [
        (await http.post("/v1/responses", json=body, headers={"x-stainless-retry-count": count})).json()["id"]
        for count in ("0", "1", "2", "0")
    ]
    assert ids[0] == ids[1] == ids[2] != ids[3]


async def test_refusals_have_a_status_before_the_first_byte(ai: AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.responses.create(model="gpt-9", input="x", stream=True)
    assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")
    for body, code in (
        ({"input": ""}, "empty_text"),
        ({"input": []}, "invalid_type"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "unsupported_tool"),
        ({"input": "x", "temperature": 7}, "invalid_value"),
        ({"input": "x", "previous_response_id": "a", "conversation": "b"}, "invalid_request"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "no_user_message"),
        ({"input": "x", "prompt": {"id": "p"}}, "unsupported"),
        ({"input": "x", "metadata": {"a": 1}}, "invalid_type"),
    ):
        response = await http.post("/v1/responses", json={"model": "echo:", **body})
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    failed = await ai.responses.create(model="script:1?tools=0&fatal=true&fail_attempts=1", input="x")
    assert failed.status == "failed"
    assert failed.error is not None


async def test_models_are_listed(ai: AsyncOpenAI) -> None:
    names = [model.id async for model in ai.models.list()]
    assert names[:2] == ["turnlog", "echo:"]
    assert (await ai.models.retrieve("echo:")).owned_by == "turnlog"
    assert (await ai.models.retrieve("script:7")).id == "script:7"
    with pytest.raises(openai.NotFoundError):
        await ai.models.retrieve("gpt-9")


async def test_what_the_reply_topic_has_forgotten_comes_from_the_history(
    ai: AsyncOpenAI, http: httpx2.AsyncClient, stack: HttpStack
) -> None:
    response = await ai.responses.create(model=SHORT, input="Remember")
    turn = response_ref(response.id)
    assert turn is not None
    before = (await http.get(f"/v1/responses/{response.id}")).json()
    settings = stack.deployment.settings
    with connected(KafkaAdminClient, settings, "test-trim", START_S) as admin:
        topic = TopicPartition(settings.topics.replies, turn.partition)
        await asyncio.to_thread(admin.delete_records, {topic: -1})
    events = await events_of(http, "GET", f"/v1/responses/{response.id}?stream=true")
    final = check_events(events)
    assert final.status == "completed"
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == [
        item["content"][0]["text"] for item in before["output"] if item["type"] == "message"
    ]
    after = (await http.get(f"/v1/responses/{response.id}")).json()
    assert after.get("usage") == before["usage"], after
    assert after["output"][-1]["content"] == before["output"][-1]["content"]
    cancelled = await ai.responses.cancel(response.id)
    assert cancelled.status == "completed"


# ---- whose it is


async def test_what_belongs_to_another_key_is_not_there(other: str) -> None:
    async with (
        AsyncOpenAI(base_url=f"{other}/v1", api_key="shop-key", max_retries=0) as shop,
        httpx2.AsyncClient(base_url=other, timeout=60.0) as http,
    ):
        mine = await shop.responses.create(model="echo:", input="mine", conversation="chat-1")
        assert mine.conversation is not None
        assert mine.conversation.id == "shop.chat-1"
        assert (await shop.conversations.retrieve("chat-1")).id == "shop.chat-1"
        foreign = mine.id.replace("shop.", "")
        for path in (f"/v1/responses/{foreign}", f"/v1/responses/{foreign}/input_items"):
            assert (await http.get(path, headers=bearer("shop-key"))).status_code == 404
        for path in (f"/v1/responses/{foreign}/cancel",):
            assert (await http.post(path, headers=bearer("shop-key"))).status_code == 404
        assert (await http.delete(f"/v1/responses/{foreign}", headers=bearer("shop-key"))).status_code == 404
        with pytest.raises(openai.NotFoundError):
            await shop.responses.create(model="echo:", input="x", previous_response_id=foreign)
        assert (await http.get(f"/v1/responses/{mine.id}", headers=bearer("boss-key"))).status_code == 200
        denied = await http.post("/v1/responses", json={"input": "x"}, headers=bearer("boss-key"))
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "missing_scope")
        assert (await http.get("/v1/sessions/chat-1", headers=bearer("shop-key"))).status_code == 403


# ---- chat completions


async def test_a_completion_streamed_and_not(ai: AsyncOpenAI) -> None:
    said: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
    whole = await ai.chat.completions.create(model="echo:", messages=said)
    assert whole.choices[0].message.content == "Hello there"
    assert whole.usage is not None
    pieces, last = [], None
    stream = await ai.chat.completions.create(
        model="echo:", messages=said, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        last = chunk
    assert "".join(pieces) == "Hello there"
    assert last is not None
    assert last.usage is not None


async def test_tools_of_the_client_in_completions(ai: AsyncOpenAI) -> None:
    function = {name: TOOL[name] for name in ("name", "description", "parameters")}
    tools: Any = [{"type": "function", "function": function}]
    said: Any = [{"role": "user", "content": "The weather?"}]
    asked = await ai.chat.completions.create(model=CALLS, messages=said, tools=tools)
    assert asked.choices[0].finish_reason == "tool_calls"
    calls = asked.choices[0].message.tool_calls
    assert calls is not None
    said += [asked.choices[0].message.to_dict(), {"role": "tool", "tool_call_id": calls[0].id, "content": "Sunny"}]
    answered = await ai.chat.completions.create(model="script:8?tools=0", messages=said, tools=tools)
    assert answered.choices[0].finish_reason == "stop"
    assert answered.choices[0].message.content


async def completed(
    http: httpx2.AsyncClient,
    messages: list[dict[str, Any]],
    headers: dict[str, str],
    *,
    stream: bool = False,
    **body: Any,
) -> tuple[str, httpx2.Response]:
    """What a completion says, and its response."""
    sent = {"model": "echo:", "messages": messages, "stream": stream, **body}
    response = await http.post("/v1/chat/completions", json=sent, headers=headers)
    assert response.status_code == 200, response.text
    if not stream:
        return response.json()["choices"][0]["message"]["content"], response
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks), response


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


async def test_a_named_session_takes_what_is_new_alone(http: httpx2.AsyncClient, stack: HttpStack) -> None:
    here = {"X-Turnlog-Session": "named-1"}
    await completed(http, [user("one")], here)
    await completed(http, [user("one"), assistant("one"), user("two")], here)
    await completed(http, [user("three")], {}, metadata={"session_id": "named-1"})
    async with Client(stack.deployment.settings) as client:
        texts = [content_text(entry.content) async for entry in client.messages("named-1")]
    assert texts == ["one", "one", "two", "two", "three", "three"]


async def test_a_history_that_differs_opens_a_session_that_begins_with_it(
    http: httpx2.AsyncClient, stack: HttpStack
) -> None:
    here = {"X-Turnlog-Session": "forked"}
    await completed(http, [user("one")], here)
    await completed(http, [user("one"), assistant("one"), user("two")], here)
    edited = [user("one"), assistant("one"), user("TWO")]
    _, response = await completed(http, edited, here)
    fork = response.headers["x-turnlog-session"]
    assert response.headers["x-turnlog-forked-from"] == "forked"
    assert fork != "forked"
    _, response = await completed(http, [*edited, assistant("TWO"), user("three")], here)
    assert response.headers["x-turnlog-session"] == fork  # it goes on where it began
    _, response = await completed(http, edited, here)  # once more: an answer made anew
    again = response.headers["x-turnlog-session"]
    assert again not in ("forked", fork)
    _, response = await completed(
        http, [user("one"), assistant("one"), user("two"), assistant("two"), user("go")], here
    )
    assert response.headers["x-turnlog-session"] == "forked"
    async with Client(stack.deployment.settings) as client:
        texts = [(entry.imported, content_text(entry.content)) async for entry in client.messages(fork)]
    assert texts == [(True, "one"), (True, "one"), *[(False, text) for text in ("TWO", "TWO", "three", "three")]]


@pytest.mark.parametrize("program", ["open-webui", "librechat"])
async def test_a_chat_program_has_one_session_a_chat(
    program: str, http: httpx2.AsyncClient, other: str, stack: HttpStack
) -> None:
    recorded = json.loads((PROGRAMS / f"{program}.json").read_text(encoding="utf-8"))
    headers = {recorded["header"]: recorded["chat_id"], **bearer("shop-key")}
    address = stack.address if program == "open-webui" else other
    sessions, said = [], []
    async with httpx2.AsyncClient(base_url=address, timeout=60.0) as client:
        for request in recorded["requests"]:
            answers = iter(said)
            messages = [
                {**message, "content": next(answers)} if message["content"] == "@answer" else message
                for message in request["messages"]
            ]
            text, response = await completed(client, messages, headers, stream=request["stream"])
            sessions.append((request["side"], response.headers["x-turnlog-session"]))
            if not request["side"]:
                said.append(text)
                assert "x-turnlog-forked-from" not in response.headers
    chats = {session for side, session in sessions if not side}
    assert len(chats) == 1
    assert chats.isdisjoint(session for side, session in sessions if side)
    (chat,) = chats
    async with Client(stack.deployment.settings) as client:
        spoken = [content_text(entry.content) async for entry in client.messages(chat) if entry.role == "user"]
    wanted = [request["messages"][-1]["content"] for request in recorded["requests"] if not request["side"]]
    assert spoken == wanted


# ---- clients on node


async def test_the_client_for_node(stack: HttpStack, tmp_path: Path) -> None:
    said = await asyncio.to_thread(run_node, tmp_path, "openai_client.mjs", f"{stack.address}/v1")
    seen = json.loads(said)
    assert seen["text"] == "Hello there"
    assert (seen["types"][0], seen["types"][-1]) == ("response.created", "response.completed")
    assert seen["streamed"]
    assert seen["numbers"] == list(range(4, len(seen["types"])))
    assert seen["called"] == ["get_weather", "completed"]
    assert seen["cancelled"] == "cancelled"
    assert seen["items"] == 1
    assert seen["refused"] == [404, "model_not_allowed"]
    assert seen["completion"] == "Hello all of you"


async def test_the_ai_sdk(stack: HttpStack, tmp_path: Path) -> None:
    said = await asyncio.to_thread(run_node, tmp_path, "ai_sdk_client.mjs", f"{stack.address}/v1/responses")
    seen = json.loads(said)
    assert (seen["text"], seen["finish"]) == ("Hello there", "stop")
    assert seen["streamed"][0]
    assert seen["streamed"][1] == "stop"
    assert (seen["calls"], seen["callFinish"]) == (["get_weather"], "tool-calls")
    assert seen["refused"] == [404, True]
