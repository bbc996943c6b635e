"""Connection options, and what a client is told that is not let in."""

import asyncio
import os
from pathlib import Path
from typing import Any

import aiokafka.errors
import kafka.errors
import pytest

from turnlog_workers.base.config import Settings
from turnlog_workers.base.json_file import write_json
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.kafka.connections import client_options, faust_credentials
from turnlog_workers.kafka.unreachable import unreachable


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
def test_why_a_broker_that_runs_may_not_let_us_in(protocol: str, error: Exception, told: str) -> None:
    given = settings(bootstrap_server="kafka:9092", security_protocol=protocol, sasl_username="u", sasl_password="p")
    assert told in str(unreachable(given, error))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiokafka.errors.KafkaConnectionError("Unable to bootstrap from [('h', 1, <AddressFamily: 0>)]"), "nobody acc"),
        (kafka.errors.KafkaTimeoutError("Unable to bootstrap from ['h:1']"), "nobody accepts a connection there"),
        (ConnectionRefusedError(111, "Connection refused"), "nobody accepts a connection there"),
        (TimeoutError(), "no answer in time"),
        (aiokafka.errors.IllegalStateError("x"), "IllegalStateError: x"),
    ],
)
def test_the_reason_is_in_words(error: Exception, reason: str) -> None:
    told = str(unreachable(settings(bootstrap_server="h:1"), error))
    assert told.startswith(f"no broker answers at h:1 ({reason}")
    assert "AddressFamily" not in told


def test_the_address_that_nobody_named_is_told(tmp_path: Path) -> None:
    told = str(unreachable(settings(data_dir=str(tmp_path)), TimeoutError()))
    assert "at localhost:9092" in told
    assert "the default address was tried" in told


@pytest.mark.parametrize(
    ("state", "told", "untold"),
    [
        ({"running": True, "supervisor_pid": os.getpid()}, "is running in", "Start"),
        ({"running": True, "supervisor_pid": 2**22 + 1}, "not running: start it", "is running in"),
        ({"running": False, "supervisor_pid": None}, "not running: start it", "is running in"),
        ({}, "not running: start it", "is running in"),
    ],
)
def test_a_stack_of_this_folder_is_known(tmp_path: Path, state: dict[str, Any], told: str, untold: str) -> None:
    write_json(tmp_path / "stack.json", {"bootstrap_server": "127.0.0.1:9092", **state})
    sentence = str(unreachable(settings(data_dir=str(tmp_path), bootstrap_server="127.0.0.1:9092"), TimeoutError()))
    assert told in sentence
    assert untold not in sentence
    other = str(unreachable(settings(data_dir=str(tmp_path), bootstrap_server="elsewhere:9092"), TimeoutError()))
    assert "Is the broker running there?" in other


def test_secrets_are_read_from_files_anew(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "u", "sasl_mechanism": "PLAIN"}
    given = settings(**login, sasl_password_file=str(file))
    for password in ("one two ", "three"):
        file.write_text(f"{password}\n", encoding="utf-8")
        assert client_options(given, "me")["sasl_plain_password"] == password
        assert faust_credentials(given).password == password
    for content, told in ((b"", "is empty"), (b"\xff", "is not text"), (None, "cannot be read")):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match=f"TURNLOG_SASL_PASSWORD_FILE: .*{told}"):
            client_options(given, "me")
    with pytest.raises(SettingsError, match="set one of them"):
        settings(**login, sasl_password="p", sasl_password_file=str(file))


def test_a_token_is_asked_for_at_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    with pytest.raises(SettingsError, match="needs TURNLOG_SASL_TOKEN_FILE"):
        settings(**login)
    given = settings(**login, sasl_token_file=str(file))
    provider = client_options(given, "me")["sasl_oauth_token_provider"]
    for token in ("first", "second"):
        file.write_text(f"{token}\n", encoding="utf-8")
        assert asyncio.run(provider.token()) == token
        assert asyncio.run(faust_credentials(given).oauth_cb.token()) == token


def test_files_of_tls_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TURNLOG_SSL_CA_FILE"):
        client_options(settings(security_protocol="SSL", ssl_ca_file=str(tmp_path / "none")), "me")
    with pytest.raises(SettingsError, match="TURNLOG_SSL_CERT_FILE"):
        client_options(settings(security_protocol="SSL", ssl_cert_file=str(tmp_path / "none")), "me")
