"""Which runner serves a model name: the part before its first ``:`` names an entry point."""

import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from itertools import islice

from turnlog_streams.policy import Policy
from turnlog_workers.base.tasks import describe
from turnlog_workers.runners.availability import Availability, SaysAvailability
from turnlog_workers.runners.base import Runner, RunnerError, RunnerFactory, TakesFiles
from turnlog_workers.runners.checked import type_name
from turnlog_workers.runners.contained import OutsideOfTask

log = logging.getLogger(__name__)
GROUP = "turnlog.runners"
_MAX_PATTERNS = 1_000  #: of the files that a runner takes; it may say them without end


class RunnerRegistry:
    """Makes runners. Plug-ins are looked up at the first use and imported when their provider is first asked for."""

    def __init__(self, overrides: Mapping[str, RunnerFactory] | None = None, *, policy: Policy | None = None) -> None:
        """``overrides``: factories by provider that come before the installed ones (for tests and embedding).

        ``policy``: no runner is made of a model that it does not allow.
        """
        self._factories: dict[str, RunnerFactory] = dict(overrides or {})
        self._policy = policy
        self._installed: dict[str, EntryPoint] | None = None

    def providers(self) -> tuple[str, ...]:
        """The names of all providers, sorted."""
        return tuple(sorted({*self._factories, *self._entry_points()}))

    def make(self, model: str, chosen: Mapping[str, str] | None = None) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError` if none can serve it.

        ``chosen``: entry point names by provider, where another than the provider's own shall make its runners.
        """
        # The turn may have been accepted by a worker with another list: whoever takes a model off it wants it to stop.
        if self._policy is not None and not self._policy.allows(model):
            raise RunnerError("model_not_allowed", self._policy.not_allowed(model), retryable=False)
        provider = model.partition(":")[0]
        return self._factory((chosen or {}).get(provider, provider), model)(model)

    def media_types(self, model: str, chosen: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Patterns of the files that a model's runner takes; none where it does not say, or cannot be made."""
        provider = model.partition(":")[0]
        try:
            factory = self._factory((chosen or {}).get(provider, provider), model)
            with OutsideOfTask():
                said = factory.media_types(model) if isinstance(factory, TakesFiles) else ()
                return tuple(str.__str__(pattern) for pattern in islice(said, _MAX_PATTERNS))
        except BaseException as error:  # a plug-in's: a partition asks, and must not fail of what it hears
            if issubclass(type(error), RunnerError):
                return ()
            log.error("the runner %.100s does not say which files it takes: %s", provider, describe(error))
            return ()

    def availability(self, provider: str) -> Availability:
        """What a provider lacks here. Raises :class:`RunnerError` if there is none, or it cannot be loaded."""
        factory = self._factory(provider, f"{provider}:")
        return factory.availability() if isinstance(factory, SaysAvailability) else Availability()

    def _factory(self, provider: str, model: str) -> RunnerFactory:
        factory = self._factories.get(provider)
        if factory is None:
            factory = self._factories[provider] = self._load(provider, model)
        return factory

    def _load(self, provider: str, model: str) -> RunnerFactory:
        entry_point = self._entry_points().get(provider)
        if entry_point is None:
            reason = f"model {model!r}: there is no runner {provider!r} here; installed: {', '.join(self.providers())}"
            raise RunnerError("unknown_provider", reason, retryable=False)
        try:
            factory: RunnerFactory = entry_point.load()
        except BaseException as error:  # whatever a plug-in's import does, it must not end more than this turn
            reason = f"model {model!r}: the runner {entry_point.value!r} cannot be loaded ({type_name(error)})"
            raise RunnerError("broken_provider", reason, retryable=False) from error
        return factory

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            installed: dict[str, EntryPoint] = {}
            for entry_point in entry_points(group=GROUP):
                installed.setdefault(entry_point.name, entry_point)
            self._installed = installed
        return self._installed
