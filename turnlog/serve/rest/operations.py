"""An operation of the REST interface: what it takes and gives is said once, for the check and for the OpenAPI page."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.responses import Response

from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import EventStream
from turnlog.serve.http_errors import HttpError, bad_request, json_response


class Body(BaseModel):
    """What a request may say: an unknown field is refused, so that a misspelt one is not overlooked."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(BaseModel):
    """Parameters of a query: texts that mean numbers, times and flags."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Query):
    """No parameters."""


Work = Callable[[Call, Any, Any], Awaitable[Any]]  # the call, its query, its body


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path."""

    path: str
    method: str
    name: str  #: in the OpenAPI document, unique
    summary: str
    scopes: tuple[str, ...]
    work: Work
    gives: Any  #: a type; ``None``: a stream of events
    query: type[Query] = NoQuery
    body: type[Body] | None = None
    status: int = 200
    refuses: Mapping[int, str] = field(default_factory=dict)  #: beside 400, 401, 403 and 429

    def endpoint(self) -> Endpoint:
        """As the application has it."""
        return Endpoint(path=self.path, handler=self._answer, methods=(self.method,), scopes=self.scopes)

    async def _answer(self, call: Call) -> Response:
        query = _checked(self.query, _flat(call), "query")
        body = None
        if self.body is not None:
            body = _checked(self.body, await call.json() if _has_body(call) else {}, "body")
        given = await self.work(call, query, body)
        if isinstance(given, EventStream):
            return given
        return json_response(adapter(self.gives).dump_python(given, mode="json"), status=self.status)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks, writes and describes a type."""
    return TypeAdapter(kind)


def _has_body(call: Call) -> bool:
    headers = call.request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _flat(call: Call) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in call.request.query_params.multi_items():
        if name in found:
            raise bad_request("invalid_query", f"{name[:64]} is given twice", name[:64])
        found[name] = value
    return found


def _checked(model: type[BaseModel], values: Mapping[str, Any], where: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part)[:64] for part in first["loc"])
        raise HttpError(
            status=400, code=f"invalid_{where}", message=f"{param or where}: {first['msg']}", param=param
        ) from None
