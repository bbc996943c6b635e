"""Requests of a trace: what an HTTP request's headers say of it goes into the records that the request leads to."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnlog.serve.measured import PATH
from turnlog_workers.base.trace_context import INCOMING, trace_context
from turnlog_workers.observe import tracing

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


class Traced:
    """Around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        parent, state = headers.get("traceparent"), headers.get("tracestate")
        given = trace_context(parent.encode(), None if state is None else state.encode()) if parent else None
        if tracing.active is None:
            token = INCOMING.set(given)
            try:
                await self._app(scope, receive, send)
            finally:
                INCOMING.reset(token)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"  # anybody's word
        with tracing.active.http_request(method, given) as request:

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    request.answered(message["status"], scope.get(PATH))
                await send(message)

            await self._app(scope, receive, told)
