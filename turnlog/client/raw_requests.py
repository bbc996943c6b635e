"""Any command through a client, for whoever follows its frames by other means than a :class:`ChatTurn`."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import UnionType

from turnlog.client.async_client import Client
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog_schemas.commands import Command
from turnlog_streams.topics import partition_of


def prepare(
    client: Client,
    command: Command,
    *,
    session_id: str,
    request_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> PreparedRequest:
    """The bytes of a session's request. Raises :class:`UsageError` for one that nobody could answer."""
    return client._connection.prepare(command, session_id=session_id, request_id=request_id, metadata=metadata)


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


def watch_frames(client: Client, wanted: Callable[[bytes], bool], deliver: Callable[[ReplyFrame], None]) -> None:
    """Each frame of the reply topic from now on whose record ``wanted`` picks. It is asked of every record."""
    client._connection.watch(wanted, deliver)


def follow_frames(client: Client, session_id: str, start: int | None) -> AsyncGenerator[ReplyFrame, None]:
    """All frames of a session from an offset on, without end; ``None``: from when the first one is waited for.

    Raises a :class:`TurnlogError` when nothing can be read any more.
    """
    connection = client._connection
    key = session_id.encode()
    return connection.feed.follow(key, partition_of(key, len(connection.partitions)), start)


async def frames_between(client: Client, session_id: str, start: int, end: int) -> AsyncGenerator[ReplyFrame, None]:
    """The frames of a session from one offset up to another, as far as they are there.

    Raises :class:`BrokerUnreachableError`.
    """
    connection = client._connection
    key = session_id.encode()
    if start >= end:
        return
    async with aclosing(connection.read_replies(partition_of(key, len(connection.partitions)), start, end)) as read:
        async for records in read:
            for record in records:
                if record.key == key and (reply := await connection.frames.decode(record)) is not None:
                    yield reply
