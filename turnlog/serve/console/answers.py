"""What every page has: its headers, who looks at it, its form token, and errors as pages."""

import asyncio
import hashlib
import hmac
import mimetypes
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from starlette.responses import Response

from turnlog.serve.console import pages
from turnlog.serve.console.pages import Who
from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, bad_request, not_found

T = TypeVar("T")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-store",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",  # with none at all, browsers send forms with the Origin null
}
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 50
_SECRET = secrets.token_bytes(32)  #: of this process; where there are keys their hash stands in its place
_TITLES = {401: "A key is needed", 403: "Not allowed", 404: "Not there", 429: "Too many requests", 503: "Not available"}


def html(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page."""
    made = {**_HEADERS, **(headers or {})}
    return Response(text.encode("utf-8", "replace"), status_code=status, headers=made, media_type="text/html")


def error_envelope(error: HttpError) -> Response:
    """An error, as a page."""
    text = pages.error_page(Who(), _TITLES.get(error.status, "That did not work"), error.message)
    return html(text, status=error.status, headers=dict(error.headers))


def see(address: str) -> Response:
    """The browser is to look there."""
    return Response(status_code=303, headers={"location": address, "cache-control": "no-store"})


def who(call: Call) -> Who:
    """Who looks at the page."""
    caller = call.caller
    return Who(
        token=_token(call),
        may_chat=caller.may(("chat",)),
        may_admin=caller.may(("admin",)),
        may_sql=caller.may(("sql",)) and not caller.namespace,
        everywhere=not caller.namespace,
    )


def _token(call: Call) -> str:
    """Goes with every form and comes back with it: no page of another origin can read it. The same on all gateways
    that have the same keys, since they keep nothing of it."""
    digest = call.gateway.keys.digest_of(call.caller) or _SECRET
    return hmac.new(digest, b"turnlog console form", hashlib.sha256).hexdigest()


async def form(call: Call) -> dict[str, str]:
    """The fields of a form that one of our own pages sent. 403 for any other, 415 and 400 for what is no form."""
    headers = call.request.headers
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HttpError(status=403, code="origin", message="Another site sent this form.")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise HttpError(status=403, code="origin", message="Another site sent this form.")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HttpError(status=415, code="content_type", message="A form is needed.")
    try:
        pairs = parse_qsl(
            (await call.body()).decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise bad_request("invalid_form", "The form cannot be read.") from None
    fields = dict(pairs)
    if not hmac.compare_digest(fields.pop("token", "").encode(), _token(call).encode()):
        raise HttpError(status=403, code="token", message="The form is not one of this gateway's: load the page again.")
    return fields


async def reading(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Read the snapshot in a thread, a few at a time."""
    async with _readers(asyncio.get_running_loop()):
        return await asyncio.to_thread(function, *arguments, **named)


@cache
def _readers(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    return asyncio.Semaphore(8)


def only_everywhere(call: Call) -> None:
    """What tells of all sessions is nothing for a key with a namespace. Raises 404."""
    if call.caller.namespace:
        raise not_found("this page")


@cache
def _static(name: str) -> tuple[bytes, str, str]:
    data = (pages.FOLDER / "static" / name).read_bytes()
    kind = mimetypes.types_map.get(f".{name.rpartition('.')[2]}", "application/octet-stream")
    return data, kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


async def static(call: Call) -> Response:
    """One of the console's own files."""
    name = call.request.path_params["name"]
    if name not in STATIC:
        raise not_found("this file")
    data, kind, etag = _static(name)
    headers = {"etag": etag, "cache-control": "no-cache", "content-security-policy": _POLICY}
    if call.request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=kind)


STATIC = ("console.css", "console.js", "icon.svg", "copy.svg", "done.svg")
