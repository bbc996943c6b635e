"""Tokens for OAUTHBEARER from a token endpoint, by client credentials: RFC 6749, section 4.4."""

import base64
import contextlib
import http.client
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from turnlog_workers.base.logs import without_url_secrets
from turnlog_workers.base.settings_check import LOOPBACK, SettingsError

_ATTEMPTS = 3
_PAUSE_S = 0.2  # doubles
_ATTEMPT_TIMEOUT_S = 3.0
_TIMEOUT_S = 6.0  # all attempts together: who starts a process waits for them
_MAX_ANSWER_BYTES = 64 * 1024
_SILENT_S = 1.0  # after a failure
_REFRESHED_AT = 0.8  # of a token's life
_RETRY_REFRESH_S = 10.0
_LIFE_UNSAID_S = 300.0
_LONGEST_LIFE_S = 1e9
_TOKEN = re.compile(r"[!-~]+")  # of printable ASCII, without spaces: it goes into a line of the login
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
#: What an endpoint may say; source: RFC 6749, section 5.2. Anything else that it says is not repeated.
_CODES = {
    *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"),
    *("unsupported_grant_type", "invalid_scope"),
}


class TokenEndpointError(OSError):
    """There is no token now. An ``OSError``, so that a client that runs takes it for a lost connection and goes on."""


class _Refused(TokenEndpointError):
    """It was answered, and to ask again cannot help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    text: str
    refresh_at: float  #: monotonic seconds
    expires_at: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """A redirect would take the client's secret along: it is an answer like any other error."""


class TokenEndpoint:
    """One client's tokens: kept until most of their life is over. For any thread; blocks while it asks."""

    def __init__(
        self,
        url: str,
        client_id: str,
        secret: Callable[[], str],
        *,
        scope: str = "",
        ca_file: str | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``secret`` is asked for each time, ``ca_file`` is trusted beside the system's authorities."""
        self._url, self._client_id, self._secret, self._scope = url, client_id, secret, scope
        self._ca_file, self._now, self._sleep = ca_file, now, sleep
        self._token: _Token | None = None
        self._failed: tuple[float, TokenEndpointError] | None = None  #: until when nobody asks again, and why
        self._lock = threading.Lock()

    def token(self) -> str:
        """One that is valid. Raises :class:`TokenEndpointError` with a sentence; never one that holds a secret.

        Whoever asks right after a failure is told of that one: else all connections would wait, one after the other.
        """
        with self._lock:
            held = self._token
            if held is not None and self._now() < held.refresh_at:
                return held.text
            if self._failed is not None and self._now() < self._failed[0]:
                raise type(self._failed[1])(str(self._failed[1]))  # each thread its own
            try:
                self._token = self._ask()
                self._failed = None
            except (TokenEndpointError, SettingsError) as error:  # its file may be unreadable for a moment
                if held is None or self._now() >= held.expires_at:
                    if isinstance(error, TokenEndpointError):
                        self._failed = self._now() + _SILENT_S, error
                    raise
                later = min(self._now() + _RETRY_REFRESH_S, held.expires_at)
                self._token = _Token(text=held.text, refresh_at=later, expires_at=held.expires_at)
            return self._token.text

    def _ask(self) -> _Token:
        deadline = self._now() + _TIMEOUT_S
        for attempt in range(_ATTEMPTS):
            try:
                return self._ask_once(min(_ATTEMPT_TIMEOUT_S, max(deadline - self._now(), 0.1)))
            except _Refused:
                raise
            except TokenEndpointError:
                pause_s = _PAUSE_S * 2**attempt
                if attempt + 1 == _ATTEMPTS or self._now() + pause_s >= deadline:
                    raise
                self._sleep(pause_s)
        raise AssertionError("the last attempt raises or returns")

    def _ask_once(self, timeout_s: float) -> _Token:
        asked_at = self._now()
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        login = f"{quote_plus(self._client_id)}:{quote_plus(self._secret())}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        request = urllib.request.Request(self._url, urlencode(form).encode(), headers)
        try:
            with self._opener().open(request, timeout=timeout_s) as answer:
                raw = answer.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._of_status(error) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            said = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or type(cause).__name__
            raise TokenEndpointError(f"{self._named()} cannot be asked: {said}") from None
        return self._read(raw, asked_at)

    def _opener(self) -> urllib.request.OpenerDirector:
        address = urlsplit(self._url)
        handlers: list[Any] = [_NoRedirect]
        if address.scheme == "https":
            context = ssl.create_default_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        if address.hostname in LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)

    def _of_status(self, error: urllib.error.HTTPError) -> TokenEndpointError:
        if error.code == 429 or error.code >= 500:
            return TokenEndpointError(f"{self._named()} cannot answer now: HTTP {error.code}")
        code = None
        with contextlib.suppress(ValueError, RecursionError, OSError, http.client.HTTPException):
            said = json.loads(error.read(_MAX_ANSWER_BYTES))
            code = said.get("error") if isinstance(said, dict) else None
        why = f", {code}" if code in _CODES else ""
        return _Refused(
            f"{self._named()} refuses client {self._client_id!r} (HTTP {error.code}{why}): TURNLOG_SASL_USERNAME is "
            "the client's id, TURNLOG_SASL_PASSWORD_FILE holds its secret"
        )

    def _read(self, raw: bytes, asked_at: float) -> _Token:
        try:
            said = json.loads(raw) if len(raw) <= _MAX_ANSWER_BYTES else None
        except (ValueError, RecursionError):
            said = None
        token, life_s = (said.get("access_token"), said.get("expires_in")) if isinstance(said, dict) else (None, None)
        life_s = _LIFE_UNSAID_S if life_s is None else life_s
        if isinstance(life_s, str) and _SECONDS.fullmatch(life_s):  # RFC 6749 asks for a number, and some say it so
            life_s = float(life_s)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token) or not _is_life(life_s):
            raise _Refused(f"{self._named()} answers with no token: is it the address of a token endpoint?")
        return _Token(text=token, refresh_at=asked_at + _REFRESHED_AT * life_s, expires_at=asked_at + life_s)

    def _named(self) -> str:
        return f"the token endpoint TURNLOG_SASL_TOKEN_URL={without_url_secrets(self._url)}"


def _is_life(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LONGEST_LIFE_S
