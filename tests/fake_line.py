"""A client's line without a broker: it takes requests and hands over the frames that it is given."""

from dataclasses import dataclass, field

from turnlog.client.exchange import Exchange
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import BrokerUnreachableError, RequestRefusedError, TurnlogError
from turnlog_streams.topics import partition_of

PARTITIONS = 3
MAX_REQUEST_BYTES = 1024 * 1024 - 1024


@dataclass
class FakeLine:
    """:class:`turnlog.client.exchange.Line`; ``fails`` times the broker is not reachable."""

    sent: list[PreparedRequest] = field(default_factory=list)
    registered: list[Exchange] = field(default_factory=list)
    fails: int = 0
    closed: bool = False
    stored: list[int] = field(default_factory=lambda: [0] * PARTITIONS)

    async def send(self, request: PreparedRequest) -> Position:
        if self.closed:
            raise TurnlogError("the client is not connected")
        self.sent.append(request)
        if self.fails >= len(self.sent):
            raise BrokerUnreachableError("no broker")
        if len(request.value) > MAX_REQUEST_BYTES:
            raise RequestRefusedError("too_long", f"the request has {len(request.value)} bytes")
        partition = partition_of(request.key.encode(), PARTITIONS)
        self.stored[partition] += 1
        return Position(partition=partition, offset=self.stored[partition] - 1)

    async def register(self, exchange: Exchange) -> None:
        self.registered.append(exchange)

    def unregister(self, exchange: Exchange) -> None:
        if exchange in self.registered:
            self.registered.remove(exchange)

    def arrive(self, key: str, reply: ReplyFrame) -> None:
        """A frame with this key is in the reply topic."""
        for exchange in tuple(self.registered):
            if (exchange.key, exchange.request_id) == (key, reply.header.request_id):
                exchange.deliver(reply)

    async def close(self) -> None:
        """As :meth:`turnlog.client.connection.Connection.close`."""
        self.closed = True
        for exchange in tuple(self.registered):
            exchange.give_up(TurnlogError("the client was closed"))
