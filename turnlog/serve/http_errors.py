"""What goes wrong, as HTTP says it: one error type, and what becomes of it in each protocol's form."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from turnlog.errors import (
    BrokerUnreachableError,
    HistoryCompactionFailedError,
    NotFoundError,
    ReaderTooSlowError,
    RequestRefusedError,
    RequestTimedOutError,
    TurnFailedError,
    TurnlogError,
    UsageError,
)

_JSON = "application/json"


@dataclass(kw_only=True, eq=False)
class HttpError(Exception):
    """An answer that is an error. ``code`` is stable and machine-readable, ``message`` is a sentence."""

    status: int
    code: str
    message: str
    param: str = ""  #: which field of the request is meant
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """The family of the error, in the words of the OpenAI protocols."""
        return _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request")


#: From an error to what is sent: each protocol has its form.
Envelope = Callable[[HttpError], Response]

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found",
    429: "too_many_requests",
}
#: Codes of refusals and their status; any other is 400.
_REFUSED = {
    "busy": 409,
    "archived": 409,
    "exists": 409,
    "conflict": 409,
    "not_running": 409,
    "not_newest": 409,
    "not_found": 404,
    "too_long": 413,
    "model_not_allowed": 404,
    "newer_version": 503,
    "set_aside": 503,
    "undecidable": 500,
    "unsendable": 500,
    "answer_too_long": 500,
}
#: What refusals are about, where that is one field of the request.
_PARAMS = {"model_not_allowed": "model"}
#: Nothing is won by sending these again; SDKs would, by their status alone.
_FINAL = ("archived", "exists", "conflict", "not_running", "not_newest")
_RETRY_AFTER_S = 2


def bad_request(code: str, message: str, param: str = "") -> HttpError:
    """400: the request cannot be carried out as it is."""
    return HttpError(status=400, code=code, message=message, param=param)


def not_found(what: str) -> HttpError:
    """404: it is not there, or not for this caller; nobody learns which."""
    return HttpError(status=404, code="not_found", message=f"{what} is not there")


def too_many(code: str, message: str, retry_after_s: float) -> HttpError:
    """429, with when to come again."""
    after = {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    return HttpError(status=429, code=code, message=message, headers=after)


def unavailable(message: str) -> HttpError:
    """503: what stands behind the gateway is not there now."""
    return HttpError(status=503, code="unavailable", message=message, headers={"retry-after": str(_RETRY_AFTER_S)})


def http_error_of(error: TurnlogError) -> HttpError:
    """What an error of the client means to whoever asked over HTTP."""
    match error:
        case RequestRefusedError():
            return refused(error.code, error.reason)
        case NotFoundError():
            return HttpError(status=404, code="not_found", message=str(error))
        case UsageError():
            return bad_request("invalid_request", str(error))
        case BrokerUnreachableError():
            return unavailable("Kafka does not answer; try again")
        case RequestTimedOutError():
            return HttpError(status=504, code="timed_out", message=str(error))
        case HistoryCompactionFailedError() | TurnFailedError():
            return HttpError(status=502, code=error.code, message=error.reason)
        case ReaderTooSlowError():
            return HttpError(status=503, code="reader_too_slow", message=str(error))
        case _:
            return HttpError(status=500, code="internal_error", message=str(error))


def refused(code: str, reason: str) -> HttpError:
    """A refusal of the session's owner. The status says whether another try may help."""
    headers = {}
    status = _REFUSED.get(code, 400)
    if code in _FINAL:
        headers["x-should-retry"] = "false"
    elif status in (409, 503):
        headers["retry-after"] = str(_RETRY_AFTER_S)
    return HttpError(status=status, code=code, message=reason, param=_PARAMS.get(code, ""), headers=headers)


def error_fields(error: HttpError) -> dict[str, str]:
    """The error object of the OpenAI protocols. Texts throughout: a client's schema has no room for null."""
    return {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}


def json_envelope(error: HttpError) -> Response:
    """``{"error": {message, type, param, code}}``: what OpenAI's clients read, and Turnlog's own REST too."""
    return json_response({"error": error_fields(error)}, status=error.status, headers=error.headers)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON without blanks. ``allow_nan`` is off: nobody could read it."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    return Response(body, status_code=status, headers={**(headers or {})}, media_type=_JSON)
