#!/usr/bin/env bash
# A stream that a server ends early, but in order (no finish_reason, no [DONE], the connection closed cleanly), is a
# complete answer to pydantic-ai: its response says finish_reason 'stop' and state 'complete', though no chunk said so.
#
# Proxies and servers that restart end streams like that. The same holds for half of a tool call. One who wants to know
# whether an answer is whole has to look at the chunks themselves; the openai client below, which does not raise either,
# hands out finish_reason None.
#
# Seen 2026-11-28 with pydantic-ai-slim 2.68.0 and openai 3.57.0, Python 3.11, a local server that sends two chunks:
#   openai        text 'The answer'  finish_reason None
#   pydantic-ai   text 'The answer'  finish_reason 'stop'  state 'complete'
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


class EndsEarly(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in ("The ", "answer"):
            delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
            chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), EndsEarly)
threading.Thread(target=server.serve_forever, daemon=True).start()
base_url = f"http://127.0.0.1:{server.server_port}/v1"


async def by_openai():
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    text, finish = "", None
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason
    return text, finish


async def by_pydantic_ai():
    from pydantic_ai.messages import ModelRequest
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    request = [ModelRequest.user_text_prompt("Hi")]
    async with model.request_stream(request, None, ModelRequestParameters()) as stream:
        async for _ in stream:
            pass
        response = stream.get()
    return response.parts[0].content, response.finish_reason, response.state


text, finish = asyncio.run(by_openai())
print(f"openai        text {text!r}  finish_reason {finish!r}")
assert (text, finish) == ("The answer", None), "changed"
text, finish, state = asyncio.run(by_pydantic_ai())
print(f"pydantic-ai   text {text!r}  finish_reason {finish!r}  state {state!r}")
assert (text, finish, state) == ("The answer", "stop", "complete"), "changed"
server.shutdown()
PY
