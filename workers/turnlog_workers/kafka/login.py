"""What a process logs in to the broker with, from where it is kept: read anew each time, so that it can be changed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiokafka.abc import AbstractTokenProvider

from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import keep_secret
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.kafka.token_endpoint import TokenEndpoint, TokenEndpointError

_MAX_SECRET_BYTES = 64 * 1024
#: One for all connections of a process, so that each of its tokens is asked for once.
_endpoints: dict[tuple[str, ...], TokenEndpoint] = {}
_finding = threading.Lock()
#: An endpoint that does not answer must not keep threads from all else that a process does beside its loop.
_asking = ThreadPoolExecutor(max_workers=2, thread_name_prefix="login")


def sasl_password(settings: Settings) -> str:
    """The password of the settings, or of their file. Raises :class:`SettingsError`."""
    if settings.sasl_password_file is not None:
        return _secret_in(settings.sasl_password_file, "TURNLOG_SASL_PASSWORD_FILE")
    return settings.sasl_password.get_secret_value()


def sasl_token(settings: Settings) -> str:
    """The token of OAUTHBEARER: as its file has it now, or its endpoint gave it. May block for seconds.

    Raises :class:`SettingsError`, and :class:`~turnlog_workers.kafka.token_endpoint.TokenEndpointError`.
    """
    if settings.sasl_token_file is not None:
        return _secret_in(settings.sasl_token_file, "TURNLOG_SASL_TOKEN_FILE")
    token = _endpoint_of(settings).token()
    keep_secret(token)
    return token


def _endpoint_of(settings: Settings) -> TokenEndpoint:
    ca_file = str(settings.ssl_ca_file) if settings.ssl_ca_file else None
    client = settings.sasl_token_url, settings.sasl_username, settings.sasl_token_scope, str(ca_file)
    key = *client, str(settings.sasl_password_file), settings.sasl_password.get_secret_value()
    with _finding:
        if key not in _endpoints:
            url, name, scope, _ = client
            _endpoints[key] = TokenEndpoint(url, name, lambda: sasl_password(settings), scope=scope, ca_file=ca_file)
        return _endpoints[key]


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """For aiokafka, which asks at each new connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def token(self) -> str:
        """See :func:`sasl_token`. Of a file that cannot be read, a client that runs takes no more than a failed try."""
        try:
            return await asyncio.get_running_loop().run_in_executor(_asking, sasl_token, self._settings)
        except SettingsError as error:
            raise TokenEndpointError(str(error)) from None


def _secret_in(path: Path, variable: str) -> str:
    """What a file holds, without the line end after it."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_SECRET_BYTES + 1)
        text = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {path} is not text in UTF-8") from None
    if not text or len(raw) > _MAX_SECRET_BYTES:
        what = "is too large" if text else "is empty"
        raise SettingsError(f"{variable}: {path} {what}: write nothing but the secret into it")
    keep_secret(text)
    return text
