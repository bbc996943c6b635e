"""The application: all endpoints under one roof, and what every response has."""

import uuid
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnlog.serve import health
from turnlog.serve.agui import endpoints as agui
from turnlog.serve.console import actions, live, views
from turnlog.serve.durable_streams import endpoints as durable_streams
from turnlog.serve.endpoints import Endpoint, routes
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import HttpError, json_envelope
from turnlog.serve.measured import HttpMetrics, Measured
from turnlog.serve.openai import chat_completions, conversations, models, responses
from turnlog.serve.rest import openapi
from turnlog.serve.traced import Traced

#: Of every part of the front; the order counts where paths overlap. They are looked through one by one for each
#: request, so those that somebody waits for most come first.
ENDPOINTS: tuple[Endpoint, ...] = (
    *responses.ENDPOINTS,
    *chat_completions.ENDPOINTS,
    *health.ENDPOINTS,
    *durable_streams.ENDPOINTS,
    *agui.ENDPOINTS,
    *live.ENDPOINTS,
    *views.ENDPOINTS,
    *actions.ENDPOINTS,
    *conversations.ENDPOINTS,
    *models.ENDPOINTS,
    *openapi.ENDPOINTS,
)
_CORS_REQUEST_HEADERS = (
    *("authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "x-request-id"),
    *("x-turnlog-session", "openai-organization", "openai-project", "openai-beta", "user-agent"),
    *(f"x-stainless-{name}" for name in ("arch", "async", "lang", "os", "package-version", "retry-count")),
    *(f"x-stainless-{name}" for name in ("runtime", "runtime-version", "timeout", "helper-method", "read-timeout")),
)
_CORS_RESPONSE_HEADERS = (
    *("x-request-id", "retry-after", "etag", "x-turnlog-session", "x-turnlog-forked-from"),
    *("stream-next-offset", "stream-up-to-date", "stream-closed", "stream-cursor"),
)
_CORS_MAX_AGE_S = 600


def create_app(
    gateway: Gateway, endpoints: Sequence[Endpoint] = ENDPOINTS, metrics: HttpMetrics | None = None
) -> Starlette:
    """The application of a gateway that is connected, or will be before it is asked."""
    middleware = [Middleware(Traced), Middleware(_EveryResponse)]
    if metrics is not None:
        middleware.insert(0, Middleware(Measured, metrics=metrics))
    origins = list(gateway.settings.http_cors_origins)
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
                allow_headers=list(_CORS_REQUEST_HEADERS),
                expose_headers=list(_CORS_RESPONSE_HEADERS),
                max_age=_CORS_MAX_AGE_S,
            )
        )
    return Starlette(
        routes=routes(endpoints, gateway),
        middleware=middleware,
        exception_handlers={HTTPException: _http_exception},
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the routes themselves say: no such path, no such method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return json_envelope(
        HttpError(status=error.status_code, code=code, message=message, headers=dict(error.headers or {}))
    )


class _EveryResponse:
    """An id to name it by, and a word to browsers to take its type as it is said."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-request-id", f"req_{uuid.uuid4().hex}")
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("cross-origin-resource-policy", "same-origin")
                headers.setdefault("referrer-policy", "no-referrer")
            await send(message)

        await self._app(scope, receive, with_headers)
