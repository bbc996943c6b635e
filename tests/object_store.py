"""An object store for tests, on this machine: localbucket, which also looks at who asks, as real ones do."""

import hashlib
import hmac
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree

import localbucket

BUCKET = "lake"
KEY_ID, SECRET, TOKEN, REGION = "AKIAOFTHETESTS", "gehe/im+'x", "a-session's-token/+=", "eu-central-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """A running store with one empty bucket."""

    url: str
    folder: Path  #: of its objects: what is in it
    asked: list[str] = field(default_factory=list)  #: method and path of each request

    @property
    def environ(self) -> dict[str, str]:
        """What an export must know."""
        return {
            **{"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN},
            **{"AWS_REGION": REGION, "AWS_ENDPOINT_URL": self.url},
        }

    def objects(self) -> list[Path]:
        """Files of what is stored."""
        return sorted(path for path in (self.folder / BUCKET).rglob("*") if path.is_file())


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Tests kill those who ask; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def object_store(folder: Path, *, certificate: Path | None = None) -> Iterator[ObjectStore]:
    """A store that lets in who signs with secret and session token. ``certificate``: for TLS, with its key."""
    (folder / BUCKET).mkdir(parents=True)
    asked: list[str] = []

    class Handler(localbucket.S3Handler):
        data_root = folder

        def log_message(self, format: str, *args: object) -> None:
            asked.append(f"{self.command} {self.path}")

        def _dispatch(self, handle: Callable[[str, str], None]) -> None:
            if _is_signed(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}):
                super()._dispatch(self._delete_several if self.path.endswith("/?delete") else handle)
            else:  # with the body unread, the connection is of no more use
                code, text = "SignatureDoesNotMatch", f"You signed with {self.headers.get('x-amz-security-token')}"
                self._send_error(localbucket.S3Error(HTTPStatus.FORBIDDEN, code, text))

        def _delete_several(self, bucket: str, _: str) -> None:
            """What localbucket does not know: DeleteObjects."""
            document = ElementTree.fromstring(self._read_body())
            for key in document.iterfind("{*}Object/{*}Key"):
                (folder / bucket / str(key.text)).unlink()
            self._send_xml(ElementTree.Element("DeleteResult"))

    server = _Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        scheme = "http" if certificate is None else "https"
        yield ObjectStore(url=f"{scheme}://127.0.0.1:{server.server_port}", folder=folder, asked=asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _is_signed(method: str, target: str, headers: dict[str, str]) -> bool:
    """AWS Signature Version 4, as its description has it."""
    said = headers.get("authorization", "").removeprefix("AWS4-HMAC-SHA256 ").replace(" ", "")
    parts = dict(part.split("=", 1) for part in said.split(",") if "=" in part)
    if headers.get("x-amz-security-token") != TOKEN or "Credential" not in parts:
        return False
    key_id, *scope = parts["Credential"].split("/")
    names = parts["SignedHeaders"].split(";")
    url = urlsplit(target)
    query = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(url.query, True))
    canonical = "\n".join(
        (
            *(method, quote(unquote(url.path), safe="/-_.~"), "&".join(f"{k}={v}" for k, v in query)),
            *(f"{name}:{headers[name].strip()}" for name in names),
            *("", ";".join(names), headers["x-amz-content-sha256"]),
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signed = "\n".join(("AWS4-HMAC-SHA256", headers["x-amz-date"], "/".join(scope), digest))
    key = b"AWS4" + SECRET.encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    right = hmac.digest(key, signed.encode(), "sha256").hex()
    return key_id == KEY_ID and scope[1] == REGION and hmac.compare_digest(right, parts["Signature"])
