"""A connection that has just been closed, as uvloop tells it: aiokafka (0.14) knows how asyncio does.

To write to a closed transport is a warning of asyncio's, and the read that fails next ends the connection. uvloop
raises ``RuntimeError`` instead, which aiokafka lets through all of its retries: it ended a worker whose leader moved.
"""

from collections.abc import Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_DONE = "_turnlog_tells_closed"


def tell_closed_connections() -> None:
    """Let aiokafka's connections raise ``KafkaConnectionError`` then. A second call does nothing."""
    if not hasattr(AIOKafkaConnection, _DONE):
        AIOKafkaConnection.send = _telling(AIOKafkaConnection.send)
        setattr(AIOKafkaConnection, _DONE, True)


def _telling(send: Callable[..., Any]) -> Callable[..., Any]:
    def telling(self: Any, request: Any, expect_response: bool = True) -> Any:
        try:
            return send(self, request, expect_response)
        except RuntimeError as error:
            if self._writer is None or not self._writer.transport.is_closing():
                raise
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self._host}:{self._port} is closed: {error}") from error

    return telling
