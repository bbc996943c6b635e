#!/usr/bin/env bash
# The anthropic client for Python waits as long as a server's Retry-After says before it asks again, a day as well as a
# second, whatever its timeout: the call neither returns nor raises meanwhile. The openai client, of the same make,
# asks again by itself up to two minutes, and raises at once where the header says more.
#
# A quota that comes back at midnight is told like that. timeout= bounds each request and not the wait between two;
# max_retries=0 is what bounds a call.
#
# Seen 2026-11-29 with anthropic 2.14.0 and openai 3.57.0, Python 3.11, both with timeout=5 and their own number of
# retries, a local server that answers 429. The waits below are what each client asks time.sleep for; nobody waits
# here.
#   Retry-After   anthropic                                 openai
#   60            waits 60 s, 60 s; RateLimitError          waits 60 s, 60 s; RateLimitError
#   86400         waits 86400 s, 86400 s; RateLimitError    RateLimitError at once
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0 openai==3.57.0
"$dir/venv/bin/python" - <<'PY'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai

retry_after = None


class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "Quota."}}).encode()
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
base_url = f"http://127.0.0.1:{server.server_port}"
messages = [{"role": "user", "content": "Hi"}]


def by_anthropic():
    client = anthropic.Anthropic(base_url=base_url, api_key="none", timeout=5)
    client.messages.create(model="m", max_tokens=10, messages=messages)


def by_openai():
    client = openai.OpenAI(base_url=base_url, api_key="none", timeout=5)
    client.chat.completions.create(model="m", messages=messages)


caller = threading.current_thread()
sleep, waits = time.sleep, []
# Only the client's own waits are noted and skipped, not those of the server's threads.
time.sleep = lambda seconds: waits.append(seconds) if threading.current_thread() is caller else sleep(seconds)


def outcome(call):
    waits.clear()
    try:
        call()
    except Exception as error:
        return waits[:], type(error).__name__
    return waits[:], "an answer"


seen = {}
for retry_after in ("60", "86400"):
    seen[retry_after] = outcome(by_anthropic), outcome(by_openai)
    for name, (waited, end) in zip(("anthropic", "openai"), seen[retry_after], strict=True):
        print(f"Retry-After {retry_after:6} {name:10} waits {waited} s; {end}")
assert seen == {
    "60": (([60.0, 60.0], "RateLimitError"), ([60.0, 60.0], "RateLimitError")),
    "86400": (([86400.0, 86400.0], "RateLimitError"), ([], "RateLimitError")),
}, "changed"
server.shutdown()
PY
