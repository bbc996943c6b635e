"""kafka-python clients that end: connected within a time limit, and nothing of them left running when that fails."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from kafka.errors import CorruptRecordError, KafkaError
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.record import default_records

from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import quiet
from turnlog_workers.kafka.batch_codecs import CODECS, BatchDecodingError, decompress
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.login import sasl_token
from turnlog_workers.kafka.new_client import Client, new_client
from turnlog_workers.kafka.refusal import raise_if_refused
from turnlog_workers.kafka.unreachable import unreachable

_MAX_BACKOFF_MS = 1000
_MIN_TIMEOUT_S = 1.0  # a consumer's requests must be allowed to wait longer than its fetches


def bound_kafka_python() -> None:
    """kafka-python, too, decompresses within a bound. What is wrong with a batch is then the one error that its readers
    expect of it. Twice does no harm."""
    for codec in CODECS:

        def decode(payload: bytes | memoryview, codec: int = codec) -> bytes:
            try:
                return decompress(codec, bytes(payload))
            except BatchDecodingError as error:
                raise CorruptRecordError(str(error)) from error

        setattr(default_records, f"{CODECS[codec]}_decode", decode)


bound_kafka_python()


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """OAUTHBEARER's token, which kafka-python wants from a plain function."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def token(self) -> str:
        return sasl_token(self._settings)


@contextlib.contextmanager
def connected(
    make: Callable[..., Client], settings: Settings, client_id: str, timeout_s: float, **options: Any
) -> Iterator[Client]:
    """A connected client, closed at the end. Any ``KafkaError`` becomes a :class:`BrokerUnreachableError`.

    ``timeout_s`` bounds the connecting, and then each request.
    """
    timeout_ms = int(max(timeout_s, _MIN_TIMEOUT_S) * 1000)
    raise_if_refused(settings)
    shared = client_options(settings, client_id)
    if "sasl_oauth_token_provider" in shared:
        shared["sasl_oauth_token_provider"] = _TokenProvider(settings)
    try:
        with quiet("kafka"):
            client: Any = new_client(
                make,
                **shared,
                bootstrap_timeout_ms=timeout_ms,
                request_timeout_ms=timeout_ms,
                # The default grows to 30 s: a broker that comes back within our time limit would not be noticed.
                reconnect_backoff_max_ms=_MAX_BACKOFF_MS,
                **options,
            )
    except KafkaError as error:
        raise unreachable(settings, error) from error
    try:
        yield client
    except KafkaError as error:
        raise unreachable(settings, error) from error
    finally:
        client.close()
