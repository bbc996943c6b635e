"""Settings against each other, models against the allow list, and variables that are no settings at all."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.errors import UsageError
from turnlog_workers.base.model_servers import keys_in_two_places

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

PREFIX = "TURNLOG_"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Read by something else than the settings; docs/settings.md has them, too.
OTHER_VARIABLES = frozenset({"TURNLOG_CACHE_DIR", "TURNLOG_SCRIPT_JOURNAL", "TURNLOG_CRASH_AT", "TURNLOG_START_FILE"})
_LONGEST_PAUSE_S = 3600.0
_CLOSE_ENOUGH = 0.6
#: What Kubernetes gives to every pod for a service whose name begins with "turnlog"; source: "Environment variables" on
#: the page "Service" of its documentation. A name that ends in _PORT may be a mistake, unless its value is an address.
_SERVICE = re.compile(
    r"TURNLOG_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+", re.IGNORECASE)


class SettingsError(UsageError, ValueError):
    """The settings cannot be used; a sentence that names the variables."""


#: What pydantic finds, by the type that it gives it, in our words; source: "Validation Errors" in its documentation.
_PROBLEMS: Mapping[str, str] = {
    "greater_than_equal": "{input} is too small: at least {ge}",
    "less_than_equal": "{input} is too large: at most {le}",
    "int_parsing": "{input} is not a whole number",
    "int_from_float": "{input} is not a whole number",
    "int_type": "{input} is not a whole number",
    "float_parsing": "{input} is not a number",
    "float_type": "{input} is not a number",
    "finite_number": "{input} is not a finite number",
    "literal_error": "{input} is not one of {expected}",
    "string_pattern_mismatch": "{input} cannot be used: it must fit {pattern}",
    "string_too_long": "it has more than {max_length} characters",
    "string_too_short": "it must not be empty",
    "too_short": "it must not be empty",
    "path_type": "{input} is not a path",
    "value_error": "{error}",
}
_LONGEST_INPUT = 80
_WITH_SECRETS = ("sasl_password", "http_servers")


def in_words(problems: Iterable[Mapping[str, Any]]) -> str:
    """The sentence for what pydantic found (``ValidationError.errors()``), without its words."""
    return "A setting cannot be used. " + "; ".join(_in_words(problem) for problem in problems)


def _in_words(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    given = "what was given" if name.startswith(_WITH_SECRETS) else repr(problem["input"])
    words = _PROBLEMS.get(problem["type"], "{input} cannot be used")
    text = words.format_map({**problem.get("ctx", {}), "input": given[:_LONGEST_INPUT]})
    return f"{PREFIX}{name.upper()}: {text}" if name else text


def conflicts(settings: "Settings") -> Iterator[str]:
    """What cannot be together: a sentence each, with the variables and what to change."""
    yield from _of_the_group(settings)
    yield from _of_sizes(settings)
    yield from _of_turns(settings)
    yield from _of_the_login(settings)
    if settings.ssl_key_file is not None and settings.ssl_cert_file is None:
        yield "TURNLOG_SSL_KEY_FILE is the key of a certificate: set TURNLOG_SSL_CERT_FILE, too"


def checked_token_url(value: str) -> str:
    """The address of a token endpoint. Raises ``ValueError`` for what would send a secret in the clear, or is none."""
    parts = urlsplit(value)
    loopback = parts.hostname in LOOPBACK
    if (parts.scheme != "https" and not (parts.scheme == "http" and loopback)) or not parts.hostname:
        raise ValueError("it must begin with https:// and name a host (http:// on this machine only)")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("it may hold neither a name and password nor #: the client is TURNLOG_SASL_USERNAME")
    _ = parts.port  # raises for what is no port
    return value


def _of_the_login(settings: "Settings") -> Iterator[str]:
    value, file = bool(settings.sasl_password.get_secret_value()), settings.sasl_password_file is not None
    if value and file:
        yield "TURNLOG_SASL_PASSWORD and TURNLOG_SASL_PASSWORD_FILE: set one of them"
    if not settings.security_protocol.startswith("SASL"):
        return
    protocol = f"TURNLOG_SECURITY_PROTOCOL={settings.security_protocol}"
    token_file, token_url = settings.sasl_token_file is not None, bool(settings.sasl_token_url)
    named = bool(settings.sasl_username and (value or file))
    if settings.sasl_mechanism != "OAUTHBEARER":
        if token_file or token_url:
            which = "TURNLOG_SASL_TOKEN_FILE" if token_file else "TURNLOG_SASL_TOKEN_URL"
            mechanism = f"TURNLOG_SASL_MECHANISM={settings.sasl_mechanism}"
            yield f"{which} is for TURNLOG_SASL_MECHANISM=OAUTHBEARER, not for {mechanism}: change one of them"
        elif not named:
            yield (
                f"{protocol} needs TURNLOG_SASL_USERNAME and TURNLOG_SASL_PASSWORD (or TURNLOG_SASL_PASSWORD_FILE): "
                "set both"
            )
    elif token_file == token_url:
        yield (
            f"{protocol} with TURNLOG_SASL_MECHANISM=OAUTHBEARER needs TURNLOG_SASL_TOKEN_FILE or "
            "TURNLOG_SASL_TOKEN_URL: set one of them"
        )
    elif token_url and not named:
        yield (
            "TURNLOG_SASL_TOKEN_URL needs TURNLOG_SASL_USERNAME (the client's id) and TURNLOG_SASL_PASSWORD_FILE (or "
            "TURNLOG_SASL_PASSWORD: its secret): set both"
        )
    elif token_file and (value or file):
        yield "TURNLOG_SASL_TOKEN_FILE and a password: OAUTHBEARER takes the token alone; set one of them"


def _of_the_group(settings: "Settings") -> Iterator[str]:
    heartbeat = f"TURNLOG_HEARTBEAT_INTERVAL_S={settings.heartbeat_interval_s:g}"
    if 3 * settings.heartbeat_interval_s > settings.session_timeout_s:
        yield (
            f"{heartbeat} is more than a third of TURNLOG_SESSION_TIMEOUT_S={settings.session_timeout_s:g}: a worker "
            "that lives would be taken for dead after two late heartbeats; make it smaller, or the other larger"
        )
    if settings.heartbeat_interval_s >= settings.rebalance_timeout_s:
        yield (
            f"{heartbeat} must be below TURNLOG_REBALANCE_TIMEOUT_S={settings.rebalance_timeout_s:g}: a worker hears "
            "of a join by its heartbeat, and would be expelled before it can join again"
        )
    if settings.tail_check_interval_s > settings.stalled_delivery_s:
        yield (
            f"TURNLOG_TAIL_CHECK_INTERVAL_S={settings.tail_check_interval_s:g} must not be above "
            f"TURNLOG_STALLED_DELIVERY_S={settings.stalled_delivery_s:g}, which is noticed by that check"
        )


def _of_sizes(settings: "Settings") -> Iterator[str]:
    # One decision has at most: what a request brings, what was streamed before it, a message with its tool calls.
    largest = settings.max_request_bytes + 2 * settings.max_text_bytes + 2 * settings.max_tool_result_bytes
    if largest > settings.max_batch_bytes:
        yield (
            f"TURNLOG_MAX_BATCH_BYTES={settings.max_batch_bytes} is too small for one decision: it must hold "
            f"TURNLOG_MAX_REQUEST_BYTES={settings.max_request_bytes} and twice each of "
            f"TURNLOG_MAX_TEXT_BYTES={settings.max_text_bytes} and "
            f"TURNLOG_MAX_TOOL_RESULT_BYTES={settings.max_tool_result_bytes}, {largest} in all"
        )
    asked_for = "summary_max_tokens" in settings.model_fields_set  # the default gives way to a small window
    if asked_for and settings.summary_max_tokens > settings.summary_window_tokens // 8:
        yield (
            f"TURNLOG_SUMMARY_MAX_TOKENS={settings.summary_max_tokens} must be at most an eighth of "
            f"TURNLOG_SUMMARY_WINDOW_TOKENS={settings.summary_window_tokens}, which also holds what is summarised"
        )


def _of_turns(settings: "Settings") -> Iterator[str]:
    if settings.max_queued_turns_per_session > settings.max_queued_turns:
        yield (
            f"TURNLOG_MAX_QUEUED_TURNS_PER_SESSION={settings.max_queued_turns_per_session} must not be above "
            f"TURNLOG_MAX_QUEUED_TURNS={settings.max_queued_turns}, of the whole worker"
        )
    pause_s = Backoff(settings.retry_delay_s).next_delay(settings.max_runner_attempts - 1)
    if pause_s > _LONGEST_PAUSE_S:
        yield (
            f"TURNLOG_RETRY_DELAY_S={settings.retry_delay_s:g} doubles with each of "
            f"TURNLOG_MAX_RUNNER_ATTEMPTS={settings.max_runner_attempts}: the last pause would be {pause_s:.3g} s, and "
            f"at most {_LONGEST_PAUSE_S:g} are sensible"
        )


def check_models(settings: "Settings") -> list[str]:
    """Warnings about the models that this worker would use and does not allow.

    Raises :class:`SettingsError` where somebody chose such a model, or gave a provider's key twice.
    """
    if twice := keys_in_two_places():
        raise SettingsError("; ".join(twice))
    policy = settings.policy()
    allowed = f"TURNLOG_ALLOW_MODELS={','.join(settings.allow_models)}"
    for name in ("default_model", "fast_model"):
        model = getattr(settings, name)
        if model and name in settings.model_fields_set and not policy.allows(model):
            raise SettingsError(
                f"{PREFIX}{name.upper()}={model} is not allowed by {allowed}: add a pattern for it, or choose another"
            )
    if policy.allows(settings.default_model):
        return []
    return [
        f"the default model {settings.default_model} is not allowed by {allowed}: a request that names no model is "
        "refused (TURNLOG_DEFAULT_MODEL sets another one)"
    ]


def unknown_variables(settings: "Settings", environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each ``TURNLOG_...`` variable that nobody reads."""
    known = type(settings).model_fields
    existing = {f"{PREFIX}{name.upper()}" for name in known} | OTHER_VARIABLES
    names = sorted(variable.removeprefix(PREFIX) for variable in existing)
    sentences = []
    for variable in sorted(environ):
        upper = variable.upper()
        if not upper.startswith(PREFIX) or upper in existing or _of_a_service(upper, environ[variable]):
            continue
        near = difflib.get_close_matches(upper.removeprefix(PREFIX), names, n=1, cutoff=_CLOSE_ENOUGH)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "docs/settings.md lists them."
        sentences.append(f"{variable[:200]} is ignored: there is no such setting; {hint}")
    return sentences


def _of_a_service(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value):
        return True
    return _SERVICE.fullmatch(variable) is not None
