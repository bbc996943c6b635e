#!/usr/bin/env bash
# Where a server repeats role, id and name in each chunk of a tool call, the openai client's own accumulator for Python
# (chat.completions.stream) adds the words up: role 'assistantassistant', id 'call_1call_1', tool 'weatherweather'. No
# error: the tool is not found, and the next request has a role and an id that no server knows. pydantic-ai, with code
# of its own, takes role and id once, and the tool's name twice.
#
# By the API's schema all three may stand in any chunk, and some servers do repeat them. One would expect that only
# content and arguments are pieces to be joined, as the names say; in fact every string is but type.
#
# Seen 2026-11-29 with openai 3.57.0 and pydantic-ai-slim 2.68.0, Python 3.11, a local server that sends a call in two
# chunks:
#   role, id, name   openai stream()                                      pydantic-ai
#   in the first     assistant, call_1, weather                           call_1, weather
#   in both          assistantassistant, call_1call_1, weatherweather     call_1, weatherweather
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


class Streams(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece, finish in (('{"city":', None), ('"Paris"}', "tool_calls")):
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            if finish is None or self.path.startswith("/both/"):
                call = {"index": 0, "id": "call_1", "type": "function"}
                call["function"] = {"name": "weather", "arguments": piece}
                delta = {"role": "assistant", "tool_calls": [call]}
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
threading.Thread(target=server.serve_forever, daemon=True).start()


def by_openai(base_url):
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    return message.role, call.id, call.function.name, call.function.arguments


async def by_pydantic_ai(base_url):
    from pydantic_ai.messages import ModelRequest
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    request = [ModelRequest.user_text_prompt("Hi")]
    async with model.request_stream(request, None, ModelRequestParameters()) as stream:
        async for _ in stream:
            pass
        (call,) = stream.get().parts
    return call.tool_call_id, call.tool_name, call.args


seen = {}
for path in ("first", "both"):
    base_url = f"http://127.0.0.1:{server.server_port}/{path}"
    seen[path] = by_openai(base_url), asyncio.run(by_pydantic_ai(base_url))
    for name, values in zip(("openai", "pydantic-ai"), seen[path], strict=True):
        print(f"{path:6} {name:12} {', '.join(values)}")
arguments = '{"city":"Paris"}'
assert seen == {
    "first": (("assistant", "call_1", "weather", arguments), ("call_1", "weather", arguments)),
    "both": (
        ("assistantassistant", "call_1call_1", "weatherweather", arguments),
        ("call_1", "weatherweather", arguments),
    ),
}, "changed"
server.shutdown()
PY
