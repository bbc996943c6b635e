#!/usr/bin/env bash
# The openai client for Python loses the last event of a stream, with its text, where the server closes the connection
# after the event's data line and one newline instead of two. No error: the answer is a little shorter.
#
# The WHATWG's rules for event streams say to discard such an event. Clients that read lines (as many do, since the
# protocol is one `data:` line an event) show the text, so a server is found to be right with one client and to cut
# answers with another.
#
# Seen 2026-11-28 with openai 3.57.0, Python 3.11, a local server that sends 'one ' 'two ' 'three':
#   blank line after the last event   'one two three'
#   none                              'one two '
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
"$dir/venv/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from openai import OpenAI


class Streams(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        events = []
        for text in ("one ", "two ", "three"):
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            events.append(f"data: {json.dumps(chunk)}\n")
        end = "\n" if self.path.startswith("/blank/") else ""
        self.wfile.write(("\n".join(events) + end).encode())

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = []
for path in ("blank", "none"):
    client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/{path}", api_key="none", max_retries=0)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    seen.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
for what, text in zip(("blank line after the last event", "none"), seen, strict=True):
    print(f"{what:33} {text!r}")
assert seen == ["one two three", "one two "], "changed"
server.shutdown()
PY
