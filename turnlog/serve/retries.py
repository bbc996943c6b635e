"""The request id of what somebody sends over HTTP: the same for a retry, another one for the same words said again.

A client's ``Idempotency-Key`` decides, at every gateway and for ever. OpenAI's SDKs send none, but count their retries:
what this process took shortly before with the same content is then the same request.
"""

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Callable

_WINDOW_S = 1200.0  #: an SDK waits 600 s for an answer, and tries three times
_MAX_KNOWN = 10_000
_MAX_KEY_CHARACTERS = 1000


def digest(*parts: str | bytes) -> str:
    """A name of 40 characters for some texts."""
    hashed = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "replace")
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    return hashed.hexdigest()[:40]


class RecentRequests:
    """Request ids that were given lately, by what was sent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def request_id(self, *, caller: str, place: str, body: bytes, idempotency_key: str | None, retry: bool) -> str:
        """``place``: what the request is sent to; ``retry``: does its sender say that it is one?"""
        if idempotency_key:
            return f"http-{digest(caller, place, idempotency_key[:_MAX_KEY_CHARACTERS])}"
        content = digest(caller, place, body)
        now = self._clock()
        while self._known and next(iter(self._known.values()))[0] < now - _WINDOW_S:
            self._known.popitem(last=False)
        known = self._known.get(content)
        if retry and known is not None:
            return known[1]
        given = f"http-{uuid.uuid4().hex}"
        self._known.pop(content, None)
        self._known[content] = (now, given)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return given
