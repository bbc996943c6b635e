"""An endpoint, and what stands before each: Host and Origin, the key, its scopes, the rate, the form of errors."""

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnlog.errors import TurnlogError
from turnlog.serve.event_stream import EventStream
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import (
    Envelope,
    HttpError,
    bad_request,
    http_error_of,
    json_envelope,
    not_found,
)
from turnlog.serve.keys import EVERYBODY, Caller
from turnlog.serve.measured import PATH
from turnlog_schemas.commands import ID_PATTERN

log = logging.getLogger(__name__)
T = TypeVar("T")
_BODY_TIMEOUT_S = 30.0
_LOOPBACK = re.compile(r"localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|::1")
_MAX_DEPTH_ERRORS = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that may be answered, who asks, and what there is to answer it with."""

    request: Request
    gateway: Gateway
    caller: Caller

    def session(self, name: str | None = None) -> str:
        """The full id of the session that the caller names (absent: in the path, as ``session_id``).

        404 for a name that no session can have. What is not in the caller's namespace becomes a name in it, and is not
        found there: nobody learns of others' sessions.
        """
        given = self.request.path_params["session_id"] if name is None else name
        full = self.caller.own(given)
        if not re.fullmatch(ID_PATTERN, full):
            raise not_found(f"session {given[:128]!r}")
        return full

    async def body(self) -> bytes:
        """The request's body. 413 above the limit, 408 when it does not come."""
        limit = self.gateway.settings.http_max_body_bytes
        read = bytearray()
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                async for chunk in self.request.stream():
                    read += chunk
                    if len(read) > limit:
                        raise HttpError(
                            status=413, code="too_long", message=f"the body has more than {limit} bytes", headers=_CLOSE
                        )
        except TimeoutError:
            raise HttpError(
                status=408, code="body_timeout", message="the body did not come in time", headers=_CLOSE
            ) from None
        return bytes(read)

    async def json(self) -> dict[str, Any]:
        """The body, a JSON object. Another content type is 415: a page of somebody else's could send it unasked."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(status=415, code="content_type", message="content-type must be application/json")
        try:
            found = json.loads(await self.body(), parse_constant=_no_constant)
        except _MAX_DEPTH_ERRORS:
            raise bad_request("invalid_json", "the body is not JSON") from None
        if not isinstance(found, dict):
            raise bad_request("invalid_json", "the body is not a JSON object")
        return found

    def events(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        release: Callable[[], None] | None = None,
    ) -> EventStream:
        """Answer with a stream of events. 429 when the caller has too many open; ``release``: it was counted before."""
        if release is None:
            release = self.gateway.stream_limit.take(self.caller.name)
        return EventStream(events, self.gateway.streams, release=release, headers=headers)

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives, unless whoever asked goes before: then nobody waits for it any more."""
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            gone.cancel()
            working.cancel()
            await asyncio.gather(gone, working, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[Response]]
_CLOSE = {"connection": "close"}  # what is left of the body would be read as the next request


def _no_constant(name: str) -> None:
    raise ValueError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path, its methods, and who may ask: a caller with one of ``scopes`` (none named: everybody with a key)."""

    path: str
    handler: Handler
    methods: tuple[str, ...] = ("GET",)
    scopes: tuple[str, ...] = ()
    envelope: Envelope = json_envelope
    public: bool = False  #: nobody is asked for a key; Host and Origin are looked at all the same

    def route(self, gateway: Gateway) -> Route:
        """As Starlette has it."""

        async def answer(request: Request) -> Response:
            request.scope[PATH] = self.path
            try:
                caller = EVERYBODY if self.public else _admitted(request, gateway, self.scopes)
                if self.public:
                    check_place(request, gateway)
                return await self.handler(Call(request=request, gateway=gateway, caller=caller))
            except HttpError as error:
                return self.envelope(error)
            except TurnlogError as error:
                return self.envelope(http_error_of(error))
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception:
                log.exception("%s %s failed", request.method, self.path)
                return self.envelope(HttpError(status=500, code="internal_error", message="the gateway failed on this"))

        return Route(self.path, answer, methods=list(self.methods))


def routes(endpoints: Sequence[Endpoint], gateway: Gateway) -> list[Route]:
    """As Starlette has them; the endpoints of one path with different methods are kept apart by it."""
    return [endpoint.route(gateway) for endpoint in endpoints]


def _admitted(request: Request, gateway: Gateway, scopes: Sequence[str]) -> Caller:
    """Who asks. Raises 403, 401 or 429."""
    check_place(request, gateway)
    caller = _caller(request, gateway)
    if not caller.may(scopes):
        raise HttpError(status=403, code="missing_scope", message=f"this key has none of: {', '.join(scopes)}")
    gateway.rate.take(caller.name)
    return caller


def check_place(request: Request, gateway: Gateway) -> None:
    """Host and Origin: a page of somebody else's must not reach the gateway through a browser. Raises 403."""
    settings = gateway.settings
    host = request.headers.get("host", "")
    name = _host_name(host)
    named = {item.lower() for item in settings.http_hosts}
    needs_host = gateway.keys.open or bool(named)
    if needs_host and not (name in named or is_loopback(name)):
        raise HttpError(status=403, code="host", message="this Host is not served here; see TURNLOG_HTTP_HOSTS")
    origin = request.headers.get("origin")
    if origin is None or origin in settings.http_cors_origins:
        return
    bearer = request.headers.get("authorization", "").lower().startswith("bearer ") and not gateway.keys.open
    if not bearer and urlsplit(origin).netloc.lower() != host.lower():
        raise HttpError(
            status=403, code="origin", message="this Origin may not ask here; see TURNLOG_HTTP_CORS_ORIGINS"
        )


def is_loopback(name: str) -> bool:
    """Does this name or address mean the machine itself?"""
    return _LOOPBACK.fullmatch(name.lower().strip("[]")) is not None


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _caller(request: Request, gateway: Gateway) -> Caller:
    if gateway.keys.open:
        return EVERYBODY
    given = given_key(request)
    caller = gateway.keys.caller(given) if given else None
    if caller is None:
        raise HttpError(
            status=401,
            code="invalid_api_key",
            message="no such key" if given else "a key is needed: Authorization: Bearer KEY",
            headers={"www-authenticate": 'Basic realm="turnlog", charset="UTF-8"' if _browser(request) else "Bearer"},
        )
    return caller


def given_key(request: Request) -> str:
    """The request's key, empty if there is none: a bearer's, or the password of HTTP Basic, which browsers ask for."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
