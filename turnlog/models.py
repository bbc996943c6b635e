"""What answers, and what would not: providers, the allow list, the default, as far as this machine knows them.

Workers decide for themselves what they serve. Here is known what the stack of this folder allows, or what
``TURNLOG_ALLOW_MODELS`` says; and what is installed in this environment, which is that of the stack's workers, too.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from turnlog.errors import RequestRefusedError
from turnlog_streams.runtime_settings import DEFAULT_MODEL, runner_factories
from turnlog_workers.base.allow_list import may_match
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.base.json_file import read_json
from turnlog_workers.kafka.settings_topic import read_settings
from turnlog_workers.runners.availability import Availability
from turnlog_workers.runners.base import RunnerError
from turnlog_workers.runners.registry import RunnerRegistry

_SETTINGS_TIMEOUT_S = 2.0
#: Their names say all there is to know: a runner can be made anywhere, and costs nothing.
_KNOWN_EVERYWHERE = ("echo", "script", "smollm2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider, as it is in this environment."""

    name: str
    availability: Availability
    broken: str = ""  #: why its runner cannot be loaded
    allowed: tuple[str, ...] = ()  #: the patterns of the list that concern it
    default: bool = False  #: does it serve the default model?

    @property
    def state(self) -> str:
        """In a few words."""
        if self.broken:
            return self.broken
        lacks = []
        if self.availability.missing_packages:
            lacks.append(f"not installed: {', '.join(self.availability.missing_packages)}")
        if self.availability.missing_keys:
            lacks.append(f"no key: {', '.join(self.availability.missing_keys)}")
        if self.availability.missing_settings:
            lacks.append(f"not set: {', '.join(self.availability.missing_settings)}")
        return "; ".join(lacks) or "ready"


def providers(settings: Settings, default_model: str) -> list[Provider]:
    """All providers that have a runner here, sorted by name."""
    registry = RunnerRegistry()
    found = []
    for name in registry.providers():
        availability, broken = Availability(), ""
        try:
            availability = registry.availability(name)
        except RunnerError as error:
            broken = error.reason
        allowed = tuple(pattern for pattern in settings.allow_models if may_match(pattern, name))
        default = default_model.partition(":")[0] == name
        found.append(Provider(name=name, availability=availability, broken=broken, allowed=allowed, default=default))
    return found


def list_is_known(settings: Settings) -> bool:
    """Did somebody say which models are allowed: this folder's stack, or ``TURNLOG_ALLOW_MODELS``?"""
    return "allow_models" in settings.model_fields_set


def run_settings(settings: Settings) -> Mapping[str, str] | None:
    """The run-time settings; ``None``: no broker says them. Blocks."""
    try:
        return read_settings(settings, timeout_s=_SETTINGS_TIMEOUT_S)
    except (BrokerUnreachableError, NotFoundError):
        return None


def default_model(settings: Settings, run_time: Mapping[str, str] | None) -> str:
    """The model of a session that names none, as far as it is known here."""
    return (run_time or {}).get(DEFAULT_MODEL) or settings.default_model


def refuse_unservable(settings: Settings, model: str) -> None:
    """Say now what a worker would say later. Blocks.

    Raises :class:`RequestRefusedError` if it is known that no worker serves the model; one that cannot be known of is
    the workers' to refuse.
    """
    policy = settings.policy()
    if list_is_known(settings) and not policy.allows(model):
        raise RequestRefusedError("model_not_allowed", policy.not_allowed(model))
    if not _workers_are_here(settings):
        return
    registry = RunnerRegistry()
    provider = model.partition(":")[0]
    if provider not in registry.providers():
        run_time = run_settings(settings)
        if run_time is None or provider in runner_factories(run_time):
            return
    try:
        availability = registry.availability(provider)
        if provider in _KNOWN_EVERYWHERE and availability.ready:
            registry.make(model)
    except RunnerError as error:
        raise RequestRefusedError(error.code, error.reason) from error
    if availability.missing_packages:
        lacks = ", ".join(availability.missing_packages)
        advice = f": run `{availability.advice}`" if availability.advice else ""
        raise RequestRefusedError("model_not_installed", f"model {model!r}: {lacks} not installed here{advice}")


def _workers_are_here(settings: Settings) -> bool:
    """Are the workers those of ``turnlog up`` in this folder, with this very Python?"""
    stack = read_json(settings.data_dir / "stack.json") if settings.data_dir.is_dir() else {}
    if not stack.get("running") or stack.get("bootstrap_server") != settings.bootstrap_server:
        return False
    processes = stack.get("processes")
    workers = [record for name, record in (processes or {}).items() if name.startswith("worker")]
    return bool(workers) and all(record.get("argv", [""])[0] == sys.executable for record in workers)
