"""The settings of model servers: what they take, what they refuse without saying it, and where keys are."""

import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from turnlog.cli.exits import explain
from turnlog_workers.base import logs, model_servers
from turnlog_workers.base.config import Settings
from turnlog_workers.base.model_servers import KEY_VARIABLES, MAX_SERVERS, KeySource, KeyUnavailableError, key_of
from turnlog_workers.base.settings_check import SettingsError, check_models
from turnlog_workers.runners.base import RunnerError
from turnlog_workers.runners.models.faults import retry_after_s
from turnlog_workers.runners.models.http import HttpRunners

SECRET = "sk-very-secret-0123456789"


def settings(servers: Any) -> Settings:
    return Settings(http_servers=servers if isinstance(servers, str) else json.dumps(servers))  # type: ignore[arg-type]


def test_a_server_with_all_its_fields() -> None:
    described = {"url": "https://models.example/v1/", "key_env": "K"}
    described |= {"control_tokens": "keep", "max_tokens_field": "max_completion_tokens"}
    server = settings({"a.b-1": described}).http_servers["a.b-1"]
    assert server.url == "https://models.example/v1"
    assert (server.control_tokens, server.max_tokens_field) == ("keep", "max_completion_tokens")
    assert server.key == KeySource(variable="K")
    assert settings({"a": {"url": "http://[::1]:8080"}}).http_servers["a"].key is None


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        (f"{SECRET}", "no JSON object of servers"),
        ("[]", "no JSON object of servers"),
        ({"a b": {"url": "http://x"}}, "no name of a server"),
        ({"a": SECRET}, "'a' is no JSON object"),
        ({"a": {}}, "url: it is missing"),
        ({"a": {"url": "ftp://x"}}, "http:// or https://"),
        ({"a": {"url": "http://"}}, "name a host"),
        ({"a": {"url": "http://x:99999"}}, "url"),
        ({"a": {"url": f"http://me:{SECRET}@x"}}, "neither a name and password"),
        ({"a": {"url": f"http://x/v1?key={SECRET}"}}, "neither a name and password"),
        ({"a": {"url": "http://x", "key": SECRET}}, "there is no such field; known are url, key_env, key_file"),
        ({"a": {"url": "http://x", "key_env": SECRET + "!"}}, "no name of an environment variable"),
        ({"a": {"url": "http://x", "key_env": "K", "key_file": "/k"}}, "key_env and key_file: one of them"),
        ({"a": {"url": "http://x", "control_tokens": SECRET}}, "must be 'escape' or 'keep'"),
        ({f"n{i}": {"url": "http://x"} for i in range(MAX_SERVERS + 1)}, f"at most {MAX_SERVERS}"),
    ],
)
def test_what_is_no_server_is_refused_without_its_values(servers: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(servers)
    code, sentence = explain(caught.value)
    assert code == 2
    assert "TURNLOG_HTTP_SERVERS" in sentence
    assert told in sentence
    assert SECRET not in sentence


@pytest.mark.parametrize("model", ["http:", "http:b#m", "http:a", "http:a#", "http:a# ", "http:a#" + "m" * 300])
def test_names_of_models_that_say_no_server_or_no_model(model: str) -> None:
    with pytest.raises(RunnerError) as caught:
        HttpRunners(settings({"a": {"url": "http://x"}}))(model)
    assert (caught.value.code, caught.value.retryable) == ("bad_model_name", False)


def test_a_key_is_read_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K", raising=False)
    monkeypatch.delenv("K_FILE", raising=False)
    assert key_of("K") is None
    monkeypatch.setenv("K", f" {SECRET} ")
    assert key_of("K") == KeySource(variable="K")
    assert KeySource(variable="K").read() == SECRET
    file = tmp_path / "key"
    file.write_text("from the file\n")
    monkeypatch.setenv("K_FILE", str(file))
    both = key_of("K")
    assert both is not None
    with pytest.raises(KeyUnavailableError, match="K and K_FILE: set one of them"):
        both.read()
    monkeypatch.setenv("K", " ")
    found = key_of("K")
    assert found is not None
    assert found.read() == "from the file"


@pytest.mark.parametrize("variable", KEY_VARIABLES.values())
def test_no_process_starts_with_a_key_in_two_places(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, SECRET)
    monkeypatch.delenv(f"{variable}_FILE", raising=False)
    check_models(Settings())
    monkeypatch.setenv(f"{variable}_FILE", "/run/secrets/key")
    with pytest.raises(SettingsError, match=f"{variable} and {variable}_FILE: set one of them") as caught:
        check_models(Settings())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two\nlines", b"\xff", b"\xc3\xbc", b"x" * 20_000])
def test_a_file_without_a_key(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyUnavailableError) as caught:
        KeySource(file=file).read()
    assert str(file) in str(caught.value)
    assert "lines" not in str(caught.value)


def test_a_key_that_was_read_is_taken_out_of_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_kept_secrets", OrderedDict())
    monkeypatch.setattr(logs, "_in_force", logs.SecretFilter())
    record = logging.LogRecord("x", logging.INFO, "", 0, "asked with %s, or x", (SECRET,), None)
    logs.keep_secret("x")  # too short to be one
    logs.keep_secret(SECRET)
    logs._in_force.filter(record)
    assert record.getMessage() == "asked with [secret], or x"
    logs.set_up(Settings())
    assert logs.redacted(SECRET) == "[secret]", "also when logging is set up again"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 20.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "Thu, 99 Jan 1970 00:00:01 GMT"}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=100.0) == seconds


def test_settings_that_hold_no_secret_are_not_hidden() -> None:
    variables = {f"TURNLOG_{name}".upper(): field for name, field in Settings.model_fields.items()}
    plain = {name for name, field in variables.items() if "Secret" not in str(field.annotation)}
    assert {name for name in plain if model_servers._SECRET_NAME.search(name)} <= model_servers.NO_SECRETS
