"""Settings: bounds, what they are compared with, models against the allow list, and variables that are none."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt

from turnlog.cli.exits import explain
from turnlog_streams.policy import Policy
from turnlog_streams.runtime_settings import forbidden, with_run_settings
from turnlog_workers.base.config import LARGEST_BATCH_BYTES, MIB, Settings
from turnlog_workers.base.settings_check import SettingsError, check_models, unknown_variables
from turnlog_workers.kafka import settings_topic
from turnlog_workers.kafka.settings_topic import write_setting
from turnlog_workers.kafka.topic_specs import topic_specs

NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


def bounds(name: str) -> tuple[float | None, float | None]:
    metadata = Settings.model_fields[name].metadata
    low = next((m.ge if isinstance(m, Ge) else m.gt for m in metadata if isinstance(m, Ge | Gt)), None)
    high = next((m.le if isinstance(m, Le) else m.lt for m in metadata if isinstance(m, Le | Lt)), None)
    return low, high  # type: ignore[return-value]


def refusal(**values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    code, sentence = explain(caught.value)
    assert code == 2
    return sentence


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds_and_is_neither_nan_nor_infinite(name: str) -> None:
    low, high = bounds(name)
    assert low is not None
    assert high is not None
    variable = f"TURNLOG_{name.upper()}"
    for wrong in (low - 1, high + 1, math.nan, math.inf, "many"):
        assert variable in refusal(**{name: wrong})


TOKENS = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
URL = "https://login.example/token"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"heartbeat_interval_s": 4}, ("HEARTBEAT_INTERVAL_S=4", "SESSION_TIMEOUT_S=10")),
        ({"session_timeout_s": 2}, ("HEARTBEAT_INTERVAL_S=1", "SESSION_TIMEOUT_S=2")),
        ({"rebalance_timeout_s": 0.5}, ("HEARTBEAT_INTERVAL_S=1", "REBALANCE_TIMEOUT_S=0.5")),
        ({"tail_check_interval_s": 10}, ("TAIL_CHECK_INTERVAL_S=10", "STALLED_DELIVERY_S=5")),
        ({"max_batch_bytes": MIB}, ("MAX_BATCH_BYTES=1048576", "MAX_REQUEST_BYTES", "MAX_TEXT_BYTES", "MAX_TOOL_RES")),
        ({"max_text_bytes": 2 * MIB}, ("MAX_BATCH_BYTES", "MAX_TEXT_BYTES=2097152")),
        ({"max_tool_result_bytes": 3 * MIB}, ("MAX_BATCH_BYTES", "MAX_TOOL_RESULT_BYTES=3145728")),
        ({"max_request_bytes": 4 * MIB}, ("MAX_BATCH_BYTES", "MAX_REQUEST_BYTES=4194304")),
        ({"summary_max_tokens": 5000}, ("SUMMARY_MAX_TOKENS=5000", "SUMMARY_WINDOW_TOKENS=32768")),
        ({"max_queued_turns": 50}, ("MAX_QUEUED_TURNS_PER_SESSION=100", "MAX_QUEUED_TURNS=50")),
        ({"max_runner_attempts": 20}, ("RETRY_DELAY_S=0.5", "MAX_RUNNER_ATTEMPTS=20")),
        ({"security_protocol": "SASL_SSL"}, ("SECURITY_PROTOCOL=SASL_SSL", "SASL_USERNAME", "SASL_PASSWORD")),
        ({"ssl_key_file": "key.pem"}, ("SSL_KEY_FILE", "SSL_CERT_FILE")),
        ({**TOKENS}, ("SASL_MECHANISM=OAUTHBEARER", "SASL_TOKEN_FILE", "SASL_TOKEN_URL")),
        ({**TOKENS, "sasl_token_file": "t", "sasl_token_url": URL}, ("SASL_TOKEN_FILE", "SASL_TOKEN_URL")),
        ({**TOKENS, "sasl_token_url": URL}, ("SASL_TOKEN_URL", "SASL_USERNAME", "SASL_PASSWORD_FILE")),
        ({**TOKENS, "sasl_token_file": "t", "sasl_password": "p"}, ("SASL_TOKEN_FILE and a password",)),
        ({**TOKENS, "sasl_mechanism": "PLAIN", "sasl_token_file": "t"}, ("SASL_TOKEN_FILE", "SASL_MECHANISM=PLAIN")),
        ({**TOKENS, "sasl_mechanism": "PLAIN", "sasl_token_url": URL}, ("SASL_TOKEN_URL", "SASL_MECHANISM=PLAIN")),
        ({"sasl_token_url": "http://login.example/token"}, ("SASL_TOKEN_URL: it must begin with https://",)),
        ({"sasl_token_url": "https://me:secret@login.example/token"}, ("SASL_TOKEN_URL: it may hold neither",)),
    ],
)
def test_settings_that_cannot_be_together_are_all_named(values: Mapping[str, Any], named: tuple[str, ...]) -> None:
    sentence = refusal(**values)
    assert all(f"TURNLOG_{name}" in sentence for name in named), sentence
    assert "Value error" not in sentence


def test_several_conflicts_are_told_at_once() -> None:
    sentence = refusal(heartbeat_interval_s=4, max_queued_turns=50)
    assert "TURNLOG_SESSION_TIMEOUT_S" in sentence
    assert "TURNLOG_MAX_QUEUED_TURNS" in sentence


def test_a_small_window_does_not_ask_for_another_default() -> None:
    assert Settings(summary_window_tokens=2048).summary_max_tokens == 4000


def test_the_largest_batch_fits_into_the_topic_that_is_made() -> None:
    settings = Settings(max_batch_bytes=LARGEST_BATCH_BYTES)
    events = next(spec for spec in topic_specs(settings) if spec.name == settings.topics.events)
    assert int(events.config["max.message.bytes"]) > LARGEST_BATCH_BYTES + 256 * 1024


@pytest.mark.parametrize("good", ["localhost", "a:1", "a:1,b:2", "a:1, b:2", "[::1]:9092", "10.0.0.1:9092"])
def test_addresses_of_brokers(good: str) -> None:
    assert Settings(bootstrap_server=good).bootstrap_server == good


@pytest.mark.parametrize("wrong", ["kafka://a:1", "a:1,", "a:port", "a b:1", "a:1;b:2", ",", "a:123456"])
def test_what_is_no_address(wrong: str) -> None:
    assert "TURNLOG_BOOTSTRAP_SERVER" in refusal(bootstrap_server=wrong)


@pytest.mark.parametrize(
    "values",
    [{"prefix": "a b"}, {"prefix": "ü"}, {"prefix": "x" * 201}, {"reply_topic_prefix": "a/b"}, {"allow_models": ","}],
)
def test_names_that_cannot_be(values: Mapping[str, Any]) -> None:
    assert f"TURNLOG_{next(iter(values)).upper()}" in refusal(**values)


# ---- models


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"default_model": "gpt:4"}, "TURNLOG_DEFAULT_MODEL=gpt:4 is not allowed by TURNLOG_ALLOW_MODELS=echo:*"),
        ({"fast_model": "gpt:4"}, "TURNLOG_FAST_MODEL=gpt:4 is not allowed by TURNLOG_ALLOW_MODELS=echo:*"),
        (
            {"default_model": "echo:", "allow_models": "script:*,recorded:*"},
            "TURNLOG_DEFAULT_MODEL=echo: is not allowed by TURNLOG_ALLOW_MODELS=script:*,recorded:*",
        ),
    ],
)
def test_a_worker_does_not_start_with_a_model_that_was_chosen_and_is_not_allowed(
    values: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_models(Settings(**values))
    assert told in str(caught.value)
    assert explain(caught.value)[0] == 2


def test_the_default_that_nobody_chose_is_a_warning() -> None:
    assert check_models(Settings()) == []
    (warning,) = check_models(Settings(allow_models="script:*"))  # type: ignore[arg-type]
    assert "TURNLOG_ALLOW_MODELS=script:*" in warning
    assert check_models(Settings(allow_models="script:*", default_model="script:1")) == []  # type: ignore[arg-type]


def test_a_run_time_setting_that_is_not_allowed_counts_as_not_set() -> None:
    policy = Policy(default_model="echo:a", fast_model="echo:f", allow_models=("echo:*",))
    values = {
        "default-model": "gpt:4",
        "fast-model": "gpt:mini",
        "default-model/web": "gpt:5",
        "default-model/shop": "echo:shop",
        "runner/echo": "gpt",
    }
    assert set(forbidden(policy, values)) == {"default-model", "fast-model", "default-model/web"}
    changed = with_run_settings(policy, values)
    assert (changed.default_model, changed.summary_model) == ("echo:a", "echo:f")
    assert dict(changed.channel_models) == {"shop": "echo:shop"}
    allowed = with_run_settings(policy, {"default-model": "echo:b", "fast-model": "echo:g"})
    assert (allowed.default_model, allowed.summary_model) == ("echo:b", "echo:g")


@pytest.mark.parametrize("name", ["default-model", "fast-model", "default-model/web"])
def test_setting_a_model_obeys_the_list_that_is_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def connects(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(settings_topic, "write_small_topic", connects)
    known = Settings(allow_models="echo:*,script:*")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'gpt:4' is not allowed here; allowed: echo:\*, script:\* "):
        write_setting(known, name, "gpt:4")
    for settings, value in ((known, "script:1"), (known, None), (Settings(), "gpt:4")):
        with pytest.raises(ConnectionError):
            write_setting(settings, name, value)


# ---- variables


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TURNLOG_BOOTSTRAP_SERVERS", "TURNLOG_BOOTSTRAP_SERVER"),
        ("TURNLOG_MAX_TEXT_BYTE", "TURNLOG_MAX_TEXT_BYTES"),
        ("TURNLOG_ALLOWED_MODELS", "TURNLOG_ALLOW_MODELS"),
        ("turnlog_prefx", "TURNLOG_PREFIX"),
        ("TURNLOG_CACHEDIR", "TURNLOG_CACHE_DIR"),
    ],
)
def test_a_variable_that_nobody_reads_is_named_with_what_was_meant(variable: str, meant: str) -> None:
    (sentence,) = unknown_variables(Settings(), {variable: "x"})
    assert sentence.startswith(variable)
    assert f"did you mean {meant}?" in sentence


def test_one_that_is_like_none_is_named_too() -> None:
    (sentence,) = unknown_variables(Settings(), {"TURNLOG_ZZZ": "secret"})
    assert "docs/settings.md" in sentence
    assert "secret" not in sentence


def test_settings_and_other_peoples_variables_are_not_named() -> None:
    environ = dict.fromkeys((f"TURNLOG_{name.upper()}" for name in Settings.model_fields), "")
    assert unknown_variables(Settings(), {**environ, "turnlog_prefix": "x", "PATH": "x", "TURNLOGS": "x"}) == []


@pytest.mark.parametrize(
    "environ",
    [
        {"TURNLOG_PORT": "tcp://10.0.0.1:9092", "TURNLOG_SERVICE_HOST": "10.0.0.1", "TURNLOG_SERVICE_PORT": "9092"},
        {"TURNLOG_PORT_9092_TCP": "tcp://10.0.0.1:9092", "TURNLOG_PORT_9092_TCP_PROTO": "tcp"},
        {"TURNLOG_PORT_9092_TCP_PORT": "9092", "TURNLOG_PORT_9092_TCP_ADDR": "10.0.0.1"},
        {"TURNLOG_SERVICE_PORT_HTTP": "80", "TURNLOG_WORKER_SERVICE_HOST": "10.0.0.1"},
        {"TURNLOG_WORKER_PORT": "udp://10.0.0.1:53", "TURNLOG_WORKER_PORT_53_UDP_ADDR": "10.0.0.1"},
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_noise(environ: Mapping[str, str]) -> None:
    assert unknown_variables(Settings(), environ) == []


def test_a_port_that_somebody_wrote_is_named() -> None:
    (sentence,) = unknown_variables(Settings(), {"TURNLOG_PORT": "9092"})
    assert sentence.startswith("TURNLOG_PORT is ignored")
