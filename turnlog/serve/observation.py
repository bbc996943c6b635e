"""A gateway seen from outside: a port of its own, since the one for HTTP may be public."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from turnlog.serve.gateway import Gateway
from turnlog.serve.measured import HttpMetrics
from turnlog_workers.base.tasks import end, kept_running
from turnlog_workers.observe.health import Health
from turnlog_workers.observe.port import PortOfSettings
from turnlog_workers.observe.watchdog import LoopMetrics, Watchdog


class Observation:
    """Of one gateway. Without ``TURNLOG_METRICS_PORT`` nothing is measured."""

    def __init__(self, gateway: Gateway, accepting: Callable[[], bool]) -> None:
        """``accepting``: does the port for HTTP take connections?"""
        self._gateway = gateway
        self._accepting = accepting
        self._task: asyncio.Task[None] | None = None
        self.registry = CollectorRegistry()
        self.measured = gateway.settings.metrics_port is not None
        self.metrics = HttpMetrics(self.registry, gateway.streams) if self.measured else None
        self._health = Health(hang_after_s=gateway.settings.watchdog_timeout_s)
        self._port = PortOfSettings(gateway.settings, self._health, self.registry)

    def start(self) -> None:
        """Answer from now on. Raises :class:`UsageError` when the port is taken."""
        self._health.not_ready = self.not_ready
        self._port.open()
        if self._port.served is None:
            return
        loop = LoopMetrics(self.registry)
        timeout_s = self._gateway.settings.watchdog_timeout_s
        watchdog = Watchdog(self._health, dict, timeout_s=timeout_s, loop=loop)
        self._task = kept_running(watchdog.run, "the watchdog", gave_up=lambda _: None)

    def not_ready(self) -> str:
        """A sentence; empty: it is."""
        if self._gateway.streams.stopping:
            return "it is stopping"
        if not self._gateway.connected:
            return "it is not connected to Kafka"
        return "" if self._accepting() else "it is starting"

    async def stop(self) -> None:
        """Answer no more."""
        await end(self._task)
        await asyncio.to_thread(self._port.close)
