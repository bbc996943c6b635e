"""``anthropic:MODEL``, ``openai:MODEL``, ``google:MODEL``; for what else there is, ``pydantic-ai:PROVIDER:MODEL``.

``openai:`` and ``anthropic:`` have routes of their own (``models.openai_route``, ``models.anthropic_route``); the rest
goes through the libraries of the providers.

The providers' own libraries take seconds to import: that is done in a thread, at the first turn, and never by whoever
only looks up what runners there are. Their retries are off: an attempt is one request for each model call.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import at, keep_secret
from turnlog_workers.base.model_servers import KEY_VARIABLES, KeyUnavailableError, key_of, secrets_in_environment
from turnlog_workers.runners.availability import Availability
from turnlog_workers.runners.base import ReasoningDelta, Runner, RunnerError, RunnerOutput, TextDelta, TurnInput
from turnlog_workers.runners.fault_log import as_logged, texts_of
from turnlog_workers.runners.models.anthropic_route import AnthropicRunner
from turnlog_workers.runners.models.faults import ServerFaultError, fault
from turnlog_workers.runners.models.http import HttpRunner
from turnlog_workers.runners.models.media_types import media_types_of
from turnlog_workers.runners.models.openai_route import openai_server
from turnlog_workers.runners.models.patience import ModelLimits
from turnlog_workers.runners.models.steps import ModelAnswer, run_steps
from turnlog_workers.runners.options import after_provider, bad_model_name
from turnlog_workers.runners.playback import OfflineRunner

if TYPE_CHECKING:
    from turnlog_workers.runners.models.pydantic_models import ModelClients

log = logging.getLogger(__name__)
MAX_MODEL_CHARACTERS = 256
INSTALL = "pip install 'turnlog[models]'"


class ProviderRunner(OfflineRunner):
    """Asks one model of one provider."""

    def __init__(self, makers: "ProviderRunners", provider: str, model: str) -> None:
        super().__init__()
        self._makers = makers
        self._provider = provider
        self._model = model

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """The rest of the turn. Raises :class:`RunnerError`: docs/models.md has every code."""
        self._check_alive()
        try:
            async with aclosing(run_steps(turn, self._ask, max_calls=self._makers.limits.max_calls)) as outputs:
                async for output in outputs:
                    yield output
        except ServerFaultError as error:
            if error.said:
                said = as_logged(error.said, texts_of(turn))
                log.warning("%s said: %s", self._provider, said, extra=at(session=turn.session_id, turn=turn.turn_id))
            raise

    async def _ask(
        self, turn: TurnInput, since: Sequence[HistoryMessage]
    ) -> AsyncGenerator[TextDelta | ReasoningDelta | ModelAnswer]:
        key = key_of_provider(self._provider)
        clients = await self._makers.clients()
        async with aclosing(clients.ask(self._provider, self._model, key, turn, since)) as outputs:
            async for output in outputs:
                yield output


def key_of_provider(provider: str) -> str | None:
    """The key of a provider; ``None``: its library looks for itself. Raises :class:`RunnerError`."""
    variable = KEY_VARIABLES.get(provider)
    if variable is None:
        for secret in secrets_in_environment():
            keep_secret(secret)
        return None
    source = key_of(variable)
    if source is None:
        raise fault("authentication", f"neither {variable} nor {variable}_FILE is set")
    try:
        key = source.read()
    except KeyUnavailableError as error:
        raise fault("authentication", str(error)) from error
    keep_secret(key)
    return key


class ProviderRunners:
    """Makes runners that share their connections, one client for each provider and key."""

    def __init__(self, settings: Settings) -> None:
        self.limits = ModelLimits.of(settings)
        self._clients: ModelClients | None = None
        self._loading = asyncio.Lock()

    def __call__(self, model: str) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError`."""
        provider, _, name = model.partition(":")
        if provider == "pydantic-ai":
            provider, _, name = after_provider(model).partition(":")
            if not provider:
                raise bad_model_name(model, "a provider's name follows: pydantic-ai:PROVIDER:MODEL")
        if not name.strip() or len(name) > MAX_MODEL_CHARACTERS:
            raise bad_model_name(model, f"the name of a model of {provider!r} follows its provider")
        try:
            if model.startswith("openai:"):
                return HttpRunner(openai_server(), name, self.limits)
            if model.startswith("anthropic:"):
                return AnthropicRunner(name, self.limits)
        except ValueError as error:
            raise bad_model_name(model, f"{provider.upper()}_BASE_URL is no address") from error
        if find_spec("pydantic_ai") is None:
            raise RunnerError("broken_provider", f"model {model!r}: it needs {INSTALL}", retryable=False)
        return ProviderRunner(self, provider, name)

    async def clients(self) -> "ModelClients":
        """The providers' libraries, once they are loaded."""
        if self._clients is None:
            async with self._loading:
                if self._clients is None:
                    self._clients = await asyncio.to_thread(_loaded, self.limits)
        return self._clients


def _loaded(limits: ModelLimits) -> "ModelClients":
    try:
        from turnlog_workers.runners.models.pydantic_models import ModelClients
    except ImportError as error:
        raise RunnerError("broken_provider", f"{error.name} cannot be imported: {INSTALL}", retryable=False) from error
    return ModelClients(limits)


@functools.cache
def _from_environment() -> ProviderRunners:
    return ProviderRunners(Settings())


class ProviderFactory:
    """The runners of one provider, by the settings and keys in the environment of this process."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def __call__(self, model: str) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError`."""
        return _from_environment()(model)

    def media_types(self, model: str) -> Sequence[str]:
        """What the provider's models are shown; by the name behind ``pydantic-ai:`` where that is who asks."""
        provider = after_provider(model).partition(":")[0] if self._provider == "pydantic-ai" else self._provider
        return media_types_of(provider)

    def availability(self) -> Availability:
        """Are its packages here, and its key?"""
        lacks = tuple(name for name, module in _PACKAGES[self._provider].items() if not _installed(module))
        variable = KEY_VARIABLES.get(self._provider)
        no_key = variable is not None and key_of(variable) is None
        return Availability(
            missing_packages=lacks,
            missing_keys=(variable,) if no_key and variable is not None else (),
            advice=INSTALL if lacks else "",
            note="" if variable else "every provider that pydantic-ai knows; keys as its libraries want them",
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of what holds it
        return False


#: Distributions, and what is imported of them.
_PACKAGES = {
    "anthropic": {},
    "openai": {},
    "google": {"pydantic-ai-slim": "pydantic_ai", "google-genai": "google.genai"},
    "pydantic-ai": {"pydantic-ai-slim": "pydantic_ai"},
}
anthropic = ProviderFactory("anthropic")
openai = ProviderFactory("openai")
google = ProviderFactory("google")
pydantic_ai = ProviderFactory("pydantic-ai")
