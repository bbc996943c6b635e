"""Is this process connected and willing? For load balancers and the container's health check."""

from starlette.responses import Response

from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import json_response, unavailable


async def _health(call: Call) -> Response:
    if call.gateway.streams.stopping:
        raise unavailable("the gateway is stopping")
    _ = call.gateway.client  # raises 503 while it is not connected
    return json_response({"status": "ok", "open_streams": len(call.gateway.streams)})


ENDPOINTS = (Endpoint(path="/health", handler=_health, methods=("GET",), public=True),)
