"""Settings that change while everything runs: names in the settings topic, and what they mean for a decision."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from turnlog_schemas.commands import ID_PATTERN
from turnlog_streams.policy import Policy
from turnlog_streams.records import changed

DEFAULT_MODEL = "default-model"
FAST_MODEL = "fast-model"
RUNNER = "runner"
_PER_CHANNEL = f"{DEFAULT_MODEL}/"
_PER_PROVIDER = f"{RUNNER}/"
SAVED_QUERY = "saved-query"
_PER_QUERY = f"{SAVED_QUERY}/"
_MAX_VALUE_CHARS = 1000
MAX_QUERY_CHARS = 10_000


class UnknownSettingError(ValueError):
    """No run-time setting has this name, or the value cannot be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSetting:
    """A run-time setting, for help texts."""

    name: str
    meaning: str


KNOWN = (
    KnownSetting(name=DEFAULT_MODEL, meaning="model of turns that name none, nor does their session or channel"),
    KnownSetting(name=f"{_PER_CHANNEL}CHANNEL", meaning="the same, for the sessions of one channel"),
    KnownSetting(name=FAST_MODEL, meaning="model of summaries and other small tasks"),
    KnownSetting(
        name=f"{_PER_PROVIDER}PROVIDER",
        meaning="entry point (of the group turnlog.runners) that makes the runners of a provider",
    ),
    KnownSetting(name=f"{_PER_QUERY}NAME", meaning="SQL that the console lists under this name"),
)


def check_setting(name: str, value: str | None) -> None:
    """Is this a setting that we know? ``None`` unsets it. Raises :class:`UnknownSettingError` with what there is."""
    known = name in (DEFAULT_MODEL, FAST_MODEL) or re.fullmatch(
        rf"(?:{re.escape(_PER_CHANNEL)}|{re.escape(_PER_PROVIDER)}|{re.escape(_PER_QUERY)}){ID_PATTERN}", name
    )
    if not known:
        raise UnknownSettingError(f"no setting {name!r}; there are: {', '.join(known.name for known in KNOWN)}")
    most = MAX_QUERY_CHARS if name.startswith(_PER_QUERY) else _MAX_VALUE_CHARS
    if value is not None and not 1 <= len(value) <= most:
        raise UnknownSettingError(f"{name}: the value has 1 to {most} characters")


def names_model(name: str) -> bool:
    """Is the value of this setting a model?"""
    return name in (DEFAULT_MODEL, FAST_MODEL) or name.startswith(_PER_CHANNEL)


def forbidden(policy: Policy, values: Mapping[str, str]) -> dict[str, str]:
    """The settings among these whose model is not allowed."""
    return {name: value for name, value in values.items() if names_model(name) and not policy.allows(value)}


def with_run_settings(policy: Policy, values: Mapping[str, str]) -> Policy:
    """The policy under these settings; one that is not set, or forbidden, leaves what the deployment says."""
    values = {name: value for name, value in values.items() if name not in forbidden(policy, values)}
    channels = {name[len(_PER_CHANNEL) :]: value for name, value in values.items() if name.startswith(_PER_CHANNEL)}
    return changed(
        policy,
        default_model=values.get(DEFAULT_MODEL, policy.default_model),
        fast_model=values.get(FAST_MODEL, policy.fast_model),
        channel_models=channels,
    )


def runner_factories(values: Mapping[str, str]) -> dict[str, str]:
    """Which entry point makes the runners of a provider, where somebody chose another than its own name."""
    return {name[len(_PER_PROVIDER) :]: value for name, value in values.items() if name.startswith(_PER_PROVIDER)}


def saved_queries(values: Mapping[str, str]) -> dict[str, str]:
    """The console's saved SQL by name, in the order of the names."""
    return {name[len(_PER_QUERY) :]: value for name, value in sorted(values.items()) if name.startswith(_PER_QUERY)}


def query_setting(name: str) -> str:
    """The setting that keeps a query of this name."""
    return f"{_PER_QUERY}{name}"
