"""Any command through a client, for whoever follows its frames by other means than a :class:`ChatTurn`."""

from collections.abc import Mapping
from types import UnionType

from turnlog.client.async_client import Client
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.reply_consumer import ReplyConsumer
from turnlog.client.request_sender import PreparedRequest
from turnlog_schemas.commands import Command


def prepare(
    client: Client,
    command: Command,
    *,
    session_id: str,
    request_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    traceparent: str | None = None,
) -> PreparedRequest:
    """The bytes of a session's request. Raises :class:`UsageError` for one that nobody could answer."""
    return client._connection.prepare(
        command, session_id=session_id, request_id=request_id, metadata=metadata, traceparent=traceparent
    )


async def send(client: Client, request: PreparedRequest) -> Position:
    """Where the broker has stored it, in the requests topic. Errors: as :meth:`Client.enqueue`."""
    return await client._connection.send(request)


async def ask(
    client: Client,
    command: Command,
    expected: type | UnionType,
    *,
    session_id: str | None = None,
    channel: str | None = None,
    request_id: str | None = None,
    timeout_s: float = 60.0,
) -> ReplyFrame:
    """A request and the one frame that answers it. Errors: as the client's verbs."""
    return await client._connection.ask(
        command, expected, session_id=session_id, channel=channel, request_id=request_id, timeout_s=timeout_s
    )


def partitions(client: Client) -> int:
    """How many partitions the deployment has."""
    return len(client._connection.partitions)


def reply_consumer(client: Client) -> ReplyConsumer:
    """Another reader of reply topics, not connected yet."""
    return client._connection.consumer()


async def decode(client: Client, record: object) -> ReplyFrame | None:
    """The frame of a record; ``None`` for what this version cannot read."""
    return await client._connection.frames.decode(record)
