"""What goes wrong with a model server, as a code, a sentence and whether another attempt may help.

The table in docs/models.md says the same, and a test compares them. A reason reaches the user, so it has figures and
names of kinds only: what a server says may quote the prompt or the key, and goes into the operator's log, cleaned.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from turnlog_workers.runners.base import CONTEXT_TOO_LONG, RunnerError


class Kind(NamedTuple):
    """A kind of fault."""

    retryable: bool
    meaning: str


KINDS: Mapping[str, Kind] = {
    "rate_limited": Kind(True, "too many requests"),
    "overloaded": Kind(True, "the server is overloaded"),
    "server_error": Kind(True, "an error inside of the server"),
    "unreachable": Kind(True, "no connection to the server"),
    "no_answer": Kind(False, "the server did not begin to answer in time"),
    "stream_stalled": Kind(True, "the server stopped in the middle of its answer"),
    "stream_cut": Kind(True, "the answer ended before it was finished"),
    "invalid_response": Kind(True, "an answer that cannot be read"),
    "authentication": Kind(False, "the key is missing, or the server does not accept it"),
    "quota_exceeded": Kind(False, "the account has no quota or credit left"),
    "model_not_found": Kind(False, "the server has no such model or address"),
    "request_rejected": Kind(False, "the server does not take the request"),
    CONTEXT_TOO_LONG: Kind(False, "the history is too long for the model"),
}
_OF_STATUS = {
    **{401: "authentication", 403: "authentication", 402: "quota_exceeded", 404: "model_not_found"},
    **{408: "overloaded", 409: "overloaded", 413: CONTEXT_TOO_LONG, 425: "overloaded", 429: "rate_limited"},
    **{503: "overloaded", 529: "overloaded"},
}
#: Types and codes that say more than the status. Sources: the error pages of OpenAI's and Anthropic's API references,
#: llama.cpp's server README, Google's google.rpc.Code.
_OF_NAME = {
    "exceed_context_size_error": CONTEXT_TOO_LONG,
    "context_length_exceeded": CONTEXT_TOO_LONG,
    "request_too_large": CONTEXT_TOO_LONG,
    "insufficient_quota": "quota_exceeded",
    "billing_error": "quota_exceeded",
    "authentication_error": "authentication",
    "permission_error": "authentication",
    "invalid_api_key": "authentication",
    "UNAUTHENTICATED": "authentication",
    "PERMISSION_DENIED": "authentication",
    "model_not_found": "model_not_found",
    "not_found_error": "model_not_found",
    "NOT_FOUND": "model_not_found",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "overloaded_error": "overloaded",
    "unavailable_error": "overloaded",
    "UNAVAILABLE": "overloaded",
    "server_error": "server_error",
    "api_error": "server_error",
    "timeout_error": "server_error",
    "INTERNAL": "server_error",
}
_ABOUT_CONTEXT = re.compile(
    r"(?:maximum|exceed\w*|too (?:long|large) for) .{0,60}context|context.{0,20} (?:length|window|size|limit)"
    r"|prompt is too long|input token count|too many input tokens",
    re.IGNORECASE,
)
_INVALID_KEY = re.compile(r"api[ _-]?key", re.IGNORECASE)  # Google answers 400 to a wrong one
_NUMBER = re.compile(r"(?<![\w.])\d{3,9}(?![\w.]*\w)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
_MAX_MESSAGE_CHARACTERS = 10_000


class ServerFaultError(RunnerError):
    """A fault of a model server. ``said``: its own words, for the operator's log once they are cleaned."""

    said = ""


def fault(code: str, detail: str = "", *, said: str = "", **more: Any) -> ServerFaultError:
    """The error of a kind."""
    kind = KINDS[code]
    reason = f"{kind.meaning}: {detail}" if detail else kind.meaning
    made = ServerFaultError(code, reason, **({"retryable": kind.retryable} | more))
    made.said = said
    return made


def invalid_response(what: str) -> RunnerError:
    """The server's answer is not what the protocol says."""
    return fault("invalid_response", what)


def stream_cut(what: str) -> RunnerError:
    """The answer ended without its end."""
    return fault("stream_cut", what)


def fault_of_status(status: int, body: object, headers: Mapping[str, str]) -> RunnerError:
    """What an answer with another status than 200 means. ``headers`` may be looked up in lower case."""
    error = _error_of(body)
    if 300 <= status < 400:
        return fault("model_not_found", f"status {status}, and redirects are not followed")
    code = _code_of(error, _OF_STATUS.get(status) or ("server_error" if status >= 500 else "request_rejected"))
    more: dict[str, Any] = {}
    if KINDS[code].retryable:
        more["retry_after_s"] = retry_after_s(headers)
        if headers.get("x-should-retry", "").lower() == "false":
            more["retryable"] = False
    return _made(code, f"status {status}", error, more)


def fault_in_stream(chunk: Mapping[str, Any]) -> RunnerError:
    """What an error inside of a stream means: its status was 200."""
    error = _error_of(chunk)
    number = error.get("code")
    status = int(number) if isinstance(number, int) or (isinstance(number, str) and number.isdigit()) else 500
    code = _code_of(error, _OF_STATUS.get(status) or ("request_rejected" if 400 <= status < 500 else "server_error"))
    return _made(code, "an error in the middle of the stream", error, {})


def _made(code: str, detail: str, error: Mapping[str, Any], more: dict[str, Any]) -> ServerFaultError:
    names = [name for name in (error.get("type"), error.get("code"), error.get("status")) if _is_name(name)]
    if names:
        detail = f"{detail}, {names[0]}"
    said = _message(error)
    if code == CONTEXT_TOO_LONG:
        more |= sizes(error, said)
    return fault(code, detail, said=said, **more)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and value in _OF_NAME


def _error_of(body: object) -> Mapping[str, Any]:
    """The part of a body that describes the error: servers wrap it, or do not."""
    if isinstance(body, list) and body:  # Google's, of a request that would have streamed
        body = body[0]
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else {}


def _message(error: Mapping[str, Any]) -> str:
    said = error.get("message")
    return said[:_MAX_MESSAGE_CHARACTERS] if isinstance(said, str) else ""


def _code_of(error: Mapping[str, Any], otherwise: str) -> str:
    said = _message(error)
    if otherwise in ("request_rejected", "server_error", CONTEXT_TOO_LONG) and _ABOUT_CONTEXT.search(said):
        return CONTEXT_TOO_LONG
    for name in ("code", "type", "status"):  # the code is the most exact one
        found = error.get(name)
        if isinstance(found, str) and found in _OF_NAME:
            return _OF_NAME[found]
    if otherwise == "request_rejected" and _INVALID_KEY.search(said):
        return "authentication"
    return otherwise


def sizes(error: Mapping[str, Any], said: str) -> dict[str, int]:
    """How long the prompt was and how long it may be, where the server tells: the larger number is the prompt's."""
    prompt, window = error.get("n_prompt_tokens"), error.get("n_ctx")
    if isinstance(prompt, int) and isinstance(window, int):
        return {"prompt_tokens": prompt, "window_tokens": window}
    numbers = [int(number) for number in _NUMBER.findall(said.replace(",", ""))]
    if len(numbers) < 2:
        return {}
    high, low = max(numbers), min(numbers[:2])
    return {"prompt_tokens": high, "window_tokens": low} if low < high else {}


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the server asks to wait; ``None``: it says nothing that can be read.

    Source: RFC 9110, 10.2.3 (seconds or a date); ``retry-after-ms`` is OpenAI's.
    """
    milliseconds, value = headers.get("retry-after-ms", "").strip(), headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))
