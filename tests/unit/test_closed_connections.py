"""A connection that was closed a moment ago: whoever sends on it learns that, and nothing else ends."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from turnlog_workers.kafka.closed_connections import tell_closed_connections


class Request:
    """Any of aiokafka's, as far as its connection looks at it."""

    def prepare(self, versions: object) -> "Request":
        return self

    def build_request_header(self, **_: object) -> "Request":
        return self

    def encode(self) -> bytes:
        return b"a request"


async def send_behind_the_end() -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        connection: Any = AIOKafkaConnection(host, port)
        connection._reader, connection._writer = await asyncio.open_connection(host, port)
        connection._read_task = asyncio.create_task(connection._reader.read())
        writer = connection._writer
        writer.transport.abort()
        await connection._read_task
        with pytest.raises(KafkaConnectionError, match="is closed"):
            connection.send(Request())
        assert not connection.connected()


def test_a_closed_connection_is_told_as_one() -> None:
    tell_closed_connections()
    tell_closed_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send_behind_the_end())


def test_another_runtime_error_is_not_taken_for_it() -> None:
    tell_closed_connections()

    def fails(_: bytes) -> None:
        raise RuntimeError("a defect")

    async def send() -> None:
        connection: Any = AIOKafkaConnection("127.0.0.1", 1)
        transport = SimpleNamespace(is_closing=lambda: False)
        connection._writer = cast(Any, SimpleNamespace(write=fails, transport=transport))
        with pytest.raises(RuntimeError, match="a defect"):
            connection.send(Request())

    asyncio.run(send())
