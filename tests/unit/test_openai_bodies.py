"""What the bodies of OpenAI's protocols may say: what cannot be carried out is refused, and not passed over."""

from collections.abc import Callable
from typing import Any

import pytest

from turnlog.serve.http_errors import HttpError
from turnlog.serve.openai.chat_body import read_chat_request
from turnlog.serve.openai.responses_body import read_response_request

PIXEL = "data:image/png;base64,iVBORw0KGgo="
IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}


def response(**body: Any) -> Any:
    tools = [{"type": "function", "name": name} for name in ("look", "ask")]
    return read_response_request({"input": "Hi", "tools": tools, **body})


def completion(**body: Any) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "ask")]
    return read_chat_request({"messages": [{"role": "user", "content": "Hi"}], "tools": tools, **body})


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["look", "ask"]),
        ("auto", ["look", "ask"]),
        ("required", ["look", "ask"]),
        ("none", []),
        ({"type": "function", "name": "ask"}, ["ask"]),
        ({"type": "function", "function": {"name": "ask"}}, ["ask"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}, ["look"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"tools": [{"type": "function", "function": {"name": "ask"}}]}},
            ["ask"],
        ),
    ],
)
def test_a_choice_of_tools_says_what_is_offered(choice: Any, names: list[str]) -> None:
    for asked in (response(tool_choice=choice), completion(tool_choice=choice)):
        assert [tool.name for tool in asked.tools] == names


@pytest.mark.parametrize(
    "choice",
    [
        "always",
        5,
        [],
        {},
        {"type": "web_search"},
        {"type": "custom", "name": "look"},
        {"type": "function"},
        {"type": "function", "name": "other"},
        {"type": "function", "function": 5},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "tools": []},
        {"type": "allowed_tools", "allowed_tools": 5},
        {"type": "allowed_tools", "tools": [{"type": "function", "name": "look"}, {"type": "web_search"}]},
    ],
)
@pytest.mark.parametrize("read", [response, completion])
def test_another_choice_is_refused(read: Callable[..., Any], choice: Any) -> None:
    refused(lambda: read(tool_choice=choice), "unsupported_tool_choice")


@pytest.mark.parametrize("read", [response, completion])
def test_calls_one_by_one_are_the_servers_to_see(read: Callable[..., Any]) -> None:
    assert read(parallel_tool_calls=False).params.settings == {"parallel_tool_calls": "false"}
    assert read(parallel_tool_calls=True).params is None
    refused(lambda: read(parallel_tool_calls="no"), "invalid_type")
    refused(lambda: read(temperature=10**400), "invalid_value")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": PIXEL},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "input_file", "file_data": "JVBERi0="},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "file", "file": {"file_data": PIXEL}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ],
)
def test_bytes_are_refused(part: dict[str, Any]) -> None:
    said = [{"role": "user", "content": [part]}]
    refused(lambda: response(input=said), "unsupported_content")
    refused(lambda: completion(messages=said), "unsupported_content")


def test_files_are_the_users() -> None:
    assert response(input=[{"role": "user", "content": [IMAGE]}]).said.content[0].uri == IMAGE["image_url"]
    refused(lambda: response(input=[{"role": "system", "content": [IMAGE]}, USER]), "unsupported_content")
    output = {"type": "function_call_output", "call_id": "c", "output": [IMAGE]}
    refused(lambda: response(input=[output]), "unsupported_content")


USER = {"role": "user", "content": "Hi"}


def refused(read: Callable[[], Any], code: str) -> None:
    with pytest.raises(HttpError) as caught:
        read()
    assert (caught.value.status, caught.value.code) == (400, code)
