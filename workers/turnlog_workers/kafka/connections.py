"""One place that turns the settings into client options: Faust, aiokafka and kafka-python get the same broker,
SASL and TLS settings."""

import ssl
from typing import Any

from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedForMessageFormatError,
    kafka_errors,
)

from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.kafka.closed_connections import tell_closed_connections
from turnlog_workers.kafka.login import TokenProvider, sasl_password

#: The broker knows us and says no: retrying cannot help.
REFUSALS = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


#: The broker finds a record wrong: code 87 of the Kafka protocol, which aiokafka does not know.
InvalidRecordError: Any = type(
    "InvalidRecordError",
    (BrokerResponseError,),
    {"errno": 87, "message": "INVALID_RECORD", "description": "The broker finds a record wrong."},
)
kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)
tell_closed_connections()
#: The broker does not take these records, now or later; nothing of them is stored.
REFUSED_RECORDS = (
    CorruptRecordException,
    InvalidRecordError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)
#: Nothing is wrong with the records: they are of a clock that the broker does not believe.
WRONG_CLOCK = InvalidTimestampError
SET_THE_CLOCK = (
    "the clock of this machine is further ahead of the broker's than it takes (message.timestamp.after.max.ms, 1 h by "
    "default): set the clock right"
)


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS with host name check; ``None`` for the plain protocols. Raises ``SettingsError`` for unusable files."""
    if settings.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ssl_ca_file) if settings.ssl_ca_file else None)
    except OSError as error:  # an SSLError is one
        raise SettingsError(f"TURNLOG_SSL_CA_FILE={settings.ssl_ca_file} cannot be used: {error}") from error
    if settings.ssl_cert_file:
        key = str(settings.ssl_key_file) if settings.ssl_key_file else None
        try:
            context.load_cert_chain(str(settings.ssl_cert_file), key)
        except OSError as error:
            raise SettingsError(
                f"TURNLOG_SSL_CERT_FILE={settings.ssl_cert_file} with TURNLOG_SSL_KEY_FILE={key or ''} "
                f"cannot be used: {error}"
            ) from error
    return context


def client_options(settings: Settings, client_id: str) -> dict[str, Any]:
    """Connection options that aiokafka and kafka-python share, by the same names."""
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap_server.split(",")],
        "client_id": client_id,
        "security_protocol": settings.security_protocol,
    }
    context = ssl_context(settings)
    if context is not None:
        options["ssl_context"] = context
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = TokenProvider(settings)
        else:
            options["sasl_plain_username"] = settings.sasl_username
            options["sasl_plain_password"] = sasl_password(settings)
    return options


def faust_broker(settings: Settings) -> list[str]:
    """The broker addresses as Faust writes them."""
    return [f"kafka://{server.strip()}" for server in settings.bootstrap_server.split(",")]


def faust_credentials(settings: Settings) -> Any:
    """Faust's credentials object for the same settings; ``None`` for ``PLAINTEXT``."""
    from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

    context = ssl_context(settings)
    if settings.security_protocol == "SSL":
        return SSLCredentials(context)
    if settings.security_protocol.startswith("SASL"):
        if settings.sasl_mechanism == "OAUTHBEARER":
            return OAuthCredentials(oauth_cb=TokenProvider(settings), ssl_context=context)
        return SASLCredentials(
            mechanism=settings.sasl_mechanism,
            username=settings.sasl_username,
            password=sasl_password(settings),
            ssl_context=context,
        )
    return None
