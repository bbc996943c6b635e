#!/usr/bin/env bash
# pydantic-ai does not send a tool call's arguments back as the model wrote them, although they are a string in the API
# and a string in its messages: it parses and writes them anew, so the model reads a rounded amount, a repeated key
# once, and for a number beyond a double's range Infinity, which is no JSON.
#
# The history that the program keeps is not changed; only the request is, so the two differ without a sign. The openai
# client below sends the string as it is.
#
# Seen 2026-11-29 with pydantic-ai-slim 2.68.0 and openai 3.57.0, Python 3.11, a local server that notes the request:
#   in the history                     sent
#   {"amount": 12345678901234567.89}   {"amount":1.2345678901234568e+16}
#   {"price": 1.10}                    {"price":1.1}
#   {"tag": "a", "tag": "b"}           {"tag":"b"}
#   {"limit": 1.0e400}                 {"limit":Infinity}
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic-ai-slim[openai]==2.68.0" openai==3.57.0
"$dir/venv/bin/python" - <<'PY'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

requests = []


class Notes(BaseHTTPRequestHandler):
    def do_POST(self):
        requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}
        answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Notes)
threading.Thread(target=server.serve_forever, daemon=True).start()
base_url = f"http://127.0.0.1:{server.server_port}/v1"


async def by_openai(arguments):
    from openai import AsyncOpenAI

    call = {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": arguments}}
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    await client.chat.completions.create(
        model="m",
        messages=[
            {"role": "user", "content": "Pay."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "paid"},
        ],
    )


async def by_pydantic_ai(arguments):
    from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    call = ToolCallPart("pay", arguments, "call_1")
    history = [
        ModelRequest.user_text_prompt("Pay."),
        ModelResponse(parts=[call]),
        ModelRequest(parts=[ToolReturnPart("pay", "paid", "call_1")]),
    ]
    await model.request(history, None, ModelRequestParameters())
    assert call.args == arguments, "the history changes, too"


def sent(client, arguments):
    requests.clear()
    asyncio.run(client(arguments))
    (request,) = requests
    return request["messages"][1]["tool_calls"][0]["function"]["arguments"]


expected = {
    '{"amount": 12345678901234567.89}': '{"amount":1.2345678901234568e+16}',
    '{"price": 1.10}': '{"price":1.1}',
    '{"tag": "a", "tag": "b"}': '{"tag":"b"}',
    '{"limit": 1.0e400}': '{"limit":Infinity}',
}
seen = {arguments: sent(by_pydantic_ai, arguments) for arguments in expected}
for arguments, text in seen.items():
    print(f"{arguments:34} {text}")
assert seen == expected, "changed"
assert all(sent(by_openai, arguments) == arguments for arguments in expected), "openai changes them, too"
server.shutdown()
PY
