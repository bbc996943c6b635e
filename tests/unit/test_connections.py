"""Connection options, and what a client is told that is not let in."""

import aiokafka.errors
import kafka.errors
import pytest

from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options, what_to_check


def settings(**values: str) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]


def test_options_of_every_protocol() -> None:
    plain = client_options(settings(bootstrap_server="a:1, b:2"), "me")
    assert plain == {"bootstrap_servers": ["a:1", "b:2"], "client_id": "me", "security_protocol": "PLAINTEXT"}
    login = {"sasl_username": "u", "sasl_password": "p", "sasl_mechanism": "PLAIN"}
    sasl = client_options(settings(security_protocol="SASL_PLAINTEXT", **login), "me")
    assert {name: value for name, value in sasl.items() if name.startswith("sasl")} == {
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }
    assert client_options(settings(security_protocol="SSL"), "me")["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("protocol", "error", "told"),
    [
        ("PLAINTEXT", OSError(), "set TURNLOG_SECURITY_PROTOCOL."),
        ("SSL", OSError(), "may not accept TURNLOG_SECURITY_PROTOCOL=SSL."),
        ("SASL_SSL", OSError(), "TURNLOG_SECURITY_PROTOCOL=SASL_SSL or the user and password (TURNLOG_SASL_...)."),
        ("PLAINTEXT", kafka.errors.TopicAuthorizationFailedError(), "lacks a right"),
        ("SASL_SSL", aiokafka.errors.ClusterAuthorizationFailedError(), "lacks a right"),
    ],
)
def test_what_to_check(protocol: str, error: Exception, told: str) -> None:
    given = settings(security_protocol=protocol, sasl_username="u", sasl_password="p")
    assert told in what_to_check(given, error)
