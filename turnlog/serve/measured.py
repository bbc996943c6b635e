"""What a gateway counts of HTTP: requests by path and status, how long their first byte takes, how streams end."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnlog.serve.open_streams import OpenStreams

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NO_ENDPOINT = "none"
PATH = "turnlog.path"  #: in a request's scope: the path of its endpoint, as it is declared
FIRST_BYTE = "turnlog.first_byte"  #: in it: to call when a stream has sent its first event


class HttpMetrics:
    """Of one gateway."""

    def __init__(self, registry: CollectorRegistry, streams: OpenStreams) -> None:
        self.requests = Counter(
            "turnlog_http_requests", "Requests that got a response.", ("path", "status"), registry=registry
        )
        self.first_byte = Histogram(
            "turnlog_http_first_byte_seconds",
            "From a request's arrival to the first byte of its answer's body, of a stream to its first event.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_Streams(streams))


class _Streams(Collector):
    """Read when somebody scrapes."""

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("turnlog_http_open_streams", "Streams that are open.", value=len(self._streams))
        ended = CounterMetricFamily("turnlog_http_streams_ended", "Streams that ended.", labels=["end"])
        for end, count in list(self._streams.ended.items()):
            ended.add_metric([end], count)
        yield ended


class Measured:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, told, status = self._clock(), False, ""

        def first_byte() -> None:
            nonlocal told
            if not told:
                told = True
                self._metrics.first_byte.labels(scope.get(PATH, _NO_ENDPOINT)).observe(self._clock() - began)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                self._metrics.requests.labels(scope.get(PATH, _NO_ENDPOINT), status).inc()
            await send(message)
            if message["type"] == "http.response.body" and message.get("body"):
                first_byte()

        scope[FIRST_BYTE] = first_byte
        try:
            await self._app(scope, receive, counted)
        finally:
            if not status:
                self._metrics.requests.labels(scope.get(PATH, _NO_ENDPOINT), _NO_ENDPOINT).inc()
