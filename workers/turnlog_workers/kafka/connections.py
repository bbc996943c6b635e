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
#: The broker does not take these records, now or later; nothing of them is stored.
REFUSED_RECORDS = (
    CorruptRecordException,
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS with host name check; ``None`` for the plain protocols. Raises ``OSError`` for files that cannot be read."""
    if settings.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    context = ssl.create_default_context(cafile=str(settings.ssl_ca_file) if settings.ssl_ca_file else None)
    if settings.ssl_cert_file:
        key = str(settings.ssl_key_file) if settings.ssl_key_file else None
        context.load_cert_chain(str(settings.ssl_cert_file), key)
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
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


def faust_broker(settings: Settings) -> list[str]:
    """The broker addresses as Faust writes them."""
    return [f"kafka://{server.strip()}" for server in settings.bootstrap_server.split(",")]


def faust_credentials(settings: Settings) -> Any:
    """Faust's credentials object for the same settings; ``None`` for ``PLAINTEXT``."""
    from faust.auth import SASLCredentials, SSLCredentials

    context = ssl_context(settings)
    if settings.security_protocol == "SSL":
        return SSLCredentials(context)
    if settings.security_protocol.startswith("SASL"):
        return SASLCredentials(
            mechanism=settings.sasl_mechanism,
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            ssl_context=context,
        )
    return None
