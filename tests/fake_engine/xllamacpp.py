"""Stands in for the engine of the same name where a test is about the process around it: no model, a few words.

It answers over HTTP on a Unix socket, as the real one does. The user's last message says what is answered:
``COUNT words every MS``, at most as many as the request allows; requests wait for a slot, as there.
"""

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

FAILING_MODEL = "/no/such/model.gguf"


class CommonParams(SimpleNamespace):
    """Takes any setting."""

    def __init__(self) -> None:
        super().__init__(model=SimpleNamespace(path=""), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        engine = self.server.engine
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with engine.slots:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            engine.busy(+1)
            try:
                self._answer(body)
            except OSError:
                engine.gone += 1
            finally:
                engine.busy(-1)

    def _answer(self, body: dict) -> None:
        said = body["messages"][-1]["content"].split()
        count, pause_s = (int(said[0]), float(said[-1]) / 1000) if said[0].isdigit() else (3, 0.0)
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        self._event({"prompt_progress": {"total": prompt}, "choices": [{"delta": {"content": None}}]})
        for number in range(min(count, body["max_tokens"])):
            time.sleep(pause_s)
            self._event({"choices": [{"delta": {"content": f"{number} "}}]})
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": count}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: dict) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100


class Server:
    """A model that is loaded."""

    def __init__(self, params: CommonParams) -> None:
        if params.model.path == FAILING_MODEL:
            raise RuntimeError("Failed to load the model")
        self.slots = threading.Semaphore(params.n_parallel)
        self.processing = self.answered = self.gone = 0
        self._lock = threading.Lock()
        self._listener = _Listener(params.hostnames[0], _Handler)
        self._listener.engine = self
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def busy(self, change: int) -> None:
        """A request begins or ends."""
        with self._lock:
            self.processing += change
            self.answered += change < 0

    def handle_metrics(self) -> str:
        """As far as anybody reads them."""
        return (
            f"llamacpp:tokens_predicted_total {self.answered}\n"
            f"llamacpp:requests_processing {self.processing}\nllamacpp:requests_deferred 0\n"
        )
