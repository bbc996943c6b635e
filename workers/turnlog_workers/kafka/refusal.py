"""Why a broker that runs does not let us in, found by one connection: the clients' own errors do not say.

aiokafka logs the reason and then raises "Unable to bootstrap"; kafka-python tries until its time is up.
"""

import asyncio
import logging
import ssl
import threading
import time
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerRefusesError
from turnlog_workers.base.logs import quiet
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.base.tasks import watched
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.login import sasl_token
from turnlog_workers.kafka.token_endpoint import TokenEndpointError

log = logging.getLogger(__name__)
_TIMEOUT_S = 2.0
_LOOK_AGAIN_S = 30.0


def raise_if_refused(settings: Settings) -> None:
    """Raise :class:`BrokerRefusesError` if the broker answers and does not let us in: to wait cannot help."""
    if sentence := refusal(settings):
        raise BrokerRefusesError(sentence)


def refusal(settings: Settings) -> str | None:
    """What is wrong with our login or TLS, and what to do; ``None``: nothing that could be found in two seconds.

    Blocks for as long, and before it while a token is asked for; may be called in a thread with a loop that runs.
    Raises ``SettingsError``, also for files that cannot be read.
    """
    if settings.security_protocol == "PLAINTEXT":
        return None
    if settings.security_protocol.startswith("SASL") and settings.sasl_mechanism == "OAUTHBEARER":
        try:
            sasl_token(settings)
        except TokenEndpointError as error:
            return f"{error}."
    found: list[str | None] = []
    options = client_options(settings, "turnlog-login")
    thread = threading.Thread(target=lambda: found.append(asyncio.run(_first_refusal(settings, options))), daemon=True)
    with quiet("aiokafka"):
        thread.start()
        thread.join(_TIMEOUT_S + 1)
    return found[0] if found else None


class RefusalWatch:
    """Of a process that runs: a broker that lets it in no more (a password was changed) looks like one that is away.

    The reason is looked for in the background, and logged when it is another one than before.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said = ""
        self._looked_at = -_LOOK_AGAIN_S
        self._look: asyncio.Task[None] | None = None

    def failed(self) -> None:
        """A connection could not be made."""
        now = time.monotonic()
        if self._look is None and now >= self._looked_at + _LOOK_AGAIN_S:
            self._looked_at = now
            self._look = watched(self._find(), "looking why the broker does not let us in")

    def worked(self) -> None:
        """A connection was made."""
        if self._said:
            log.info("the broker lets us in again")
        self._said, self._looked_at = "", -_LOOK_AGAIN_S

    async def _find(self) -> None:
        try:
            sentence = await self._looked()
            if sentence and sentence != self._said:
                log.error("%s", sentence)
            self._said = sentence
        finally:
            self._look = None

    async def _looked(self) -> str:
        try:
            sentence = await asyncio.to_thread(refusal, self._settings)
        except SettingsError as error:  # a file that is gone, or is being replaced
            return f"{error}."
        if sentence is None or self._settings.sasl_mechanism == "OAUTHBEARER":  # a token is read for each connection
            return sentence or ""
        return f"{sentence} A running process keeps the secrets that it began with: start it again then."


async def _first_refusal(settings: Settings, options: dict[str, Any]) -> str | None:
    servers = options.pop("bootstrap_servers")
    reached = ""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            for server in servers:
                host, _, port = server.rpartition(":")
                if not port.isdigit():
                    host, port = server, "9092"
                try:
                    if settings.sasl_mechanism == "OAUTHBEARER":
                        _, writer = await asyncio.open_connection(
                            host.strip("[]"), int(port), ssl=options.get("ssl_context")
                        )
                        writer.close()
                        reached = server
                    connection = await create_conn(host.strip("[]"), int(port), **options)
                except (KafkaError, OSError) as error:
                    if sentence := _in_words(settings, server, error):
                        return sentence
                    continue
                connection.close()
                return None
    except TimeoutError:
        if reached:  # aiokafka waits for what never comes when a token is refused
            return _login_refused(settings, reached)
    return None


def _in_words(settings: Settings, server: str, error: Exception) -> str | None:
    causes = [error, error.__cause__, error.__context__]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the broker at {server} is not trusted: {cause.verify_message}. Set TURNLOG_SSL_CA_FILE to the "
                "certificate of the authority that signed the broker's, and name the broker as its certificate does."
            )
        if isinstance(cause, ssl.SSLError):
            return (
                f"the broker at {server} does not agree on TLS ({cause.reason or 'handshake failed'}). Is "
                f"TURNLOG_SECURITY_PROTOCOL={settings.security_protocol} right for this port? If it wants a client's "
                "certificate, set TURNLOG_SSL_CERT_FILE."
            )
        if isinstance(cause, AuthenticationMethodNotSupported | UnsupportedSaslMechanismError):
            return (
                f"the broker at {server} does not take TURNLOG_SASL_MECHANISM={settings.sasl_mechanism}: set one that "
                "its listener offers."
            )
        if isinstance(cause, SaslAuthenticationFailed | AuthenticationFailedError):
            return _login_refused(settings, server)
    return None


def _login_refused(settings: Settings, server: str) -> str:
    if settings.sasl_mechanism == "OAUTHBEARER":
        if settings.sasl_token_file is None:
            return (
                f"the broker at {server} refuses the token that TURNLOG_SASL_TOKEN_URL gave user "
                f"{settings.sasl_username!r}: does it know that issuer, and want another TURNLOG_SASL_TOKEN_SCOPE?"
            )
        return (
            f"the broker at {server} refuses the token in TURNLOG_SASL_TOKEN_FILE={settings.sasl_token_file}: it may "
            "have run out; put a new one into the file."
        )
    place = "TURNLOG_SASL_PASSWORD_FILE" if settings.sasl_password_file is not None else "TURNLOG_SASL_PASSWORD"
    return (
        f"the broker at {server} refuses user {settings.sasl_username!r} or the password ({settings.sasl_mechanism}): "
        f"set TURNLOG_SASL_USERNAME and {place} to those of a user that the broker knows."
    )
