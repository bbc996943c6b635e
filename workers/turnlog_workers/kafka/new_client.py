"""A client of kafka-python, without our settings: the development broker's own process has no use for them."""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

Client = TypeVar("Client")


def new_client(make: Callable[..., Client], **options: Any) -> Client:
    """A client. A constructor that fails leaves its thread and its descriptors behind: not here."""
    started: list[Any] = []

    def net_client(**configs: Any) -> Any:
        started.append(NetworkSelector(**configs))
        return KafkaNetClient(net=started[-1], **configs)

    try:
        return make(**options, kafka_client=net_client)
    except KafkaError:
        for net in started:
            net.stop()
            net.close()
        raise
