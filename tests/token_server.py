"""A token endpoint on loopback: it answers as it was told, and keeps what it was asked."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus

CLIENT_SECRET = "planted secret: of a client"


def unsigned_token(user: str, life_s: float = 600) -> str:
    """What a test broker takes, and no other may (RFC 7515, appendix A.5)."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + int(life_s)})
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{'.'.join(coded)}."


class TokenServer:
    """Gives an unsigned token to whoever has the secret, unless ``answers`` has something else to say first."""

    def __init__(self, *, life_s: float = 600) -> None:
        self.asked: list[tuple[str, str, dict[str, list[str]]]] = []  #: client, secret, form
        self.answers: list[tuple[int, Any]] = []  #: status and JSON; status 0: the connection ends without an answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
                client, secret = (unquote_plus(part) for part in login.split(":"))
                outer.asked.append((client, secret, parse_qs(body)))
                granted = {"access_token": unsigned_token(client, life_s), "expires_in": life_s, "token_type": "Bearer"}
                answer = (200, granted) if secret == CLIENT_SECRET else (401, {"error": "invalid_client"})
                status, said = outer.answers.pop(0) if outer.answers else answer
                if status == 0:
                    return
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{outer.url}/elsewhere")
                self.end_headers()
                self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

            def log_message(self, *_: Any) -> None:
                """Nothing: the secret is in what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
