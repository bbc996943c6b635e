#!/usr/bin/env bash
# A tool call that max_tokens cuts in its arguments is a finished one in the anthropic client's stream helper for
# Python: get_final_message() has an input that looks whole, keys that had not come are missing, and a number that was
# cut is a smaller number: 365 becomes 3. No error; the text of the arguments, which is no JSON, is not in the message.
#
# The helper parses the pieces leniently after each of them, so that a program can show a call while it grows, and
# leaves the last such guess in the final message. A string that was cut is left out (the parser can tell), a number is
# not (it cannot). One would expect the final message to be parsed strictly. Only stop_reason says it, so look at that
# before a tool is run; nothing does where the connection just ends.
#
# Seen 2026-11-29 with anthropic 2.14.0, Python 3.11, a local server that streams a call of {"older_than_days": 365,
# "path": "/tmp"} and stops after
#   all of it                                      {'older_than_days': 365, 'path': '/tmp'}   tool_use
#   {"older_than_days": 3                          {'older_than_days': 3}                     max_tokens
#   {"older_than_days": 365, "path": "/t           {'older_than_days': 365}                   max_tokens
#   {"older_than_days": 3, then the connection     {'older_than_days': 3}                     None
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
"$dir/venv/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic

WHOLE = '{"older_than_days": 365, "path": "/tmp"}'
#: What is sent of the arguments, and the reason that the server gives for its end (None: it just closes).
answer = WHOLE, "tool_use"


def events(arguments, stop_reason):
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    message |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    yield {"type": "message_start", "message": message}
    call = {"type": "tool_use", "id": "call_1", "name": "delete_files", "input": {}}
    yield {"type": "content_block_start", "index": 0, "content_block": call}
    for place in range(0, len(arguments), 8):
        piece = {"type": "input_json_delta", "partial_json": arguments[place : place + 8]}
        yield {"type": "content_block_delta", "index": 0, "delta": piece}
    if stop_reason is not None:
        yield {"type": "content_block_stop", "index": 0}
        delta = {"stop_reason": stop_reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}
        yield {"type": "message_stop"}


class Streams(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events(*answer):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none", max_retries=0)
seen = []
for answer in (
    (WHOLE, "tool_use"),
    (WHOLE[: WHOLE.index("65")], "max_tokens"),
    (WHOLE[: WHOLE.index("mp")], "max_tokens"),
    (WHOLE[: WHOLE.index("65")], None),
):
    with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as stream:
        message = stream.get_final_message()
    (call,) = message.content
    seen.append((call.input, message.stop_reason))
    print(f"{answer[0]:42} {call.input!s:42} {message.stop_reason}")
server.shutdown()
assert seen == [
    ({"older_than_days": 365, "path": "/tmp"}, "tool_use"),
    ({"older_than_days": 3}, "max_tokens"),
    ({"older_than_days": 365}, "max_tokens"),
    ({"older_than_days": 3}, None),
], "changed"
PY
