"""The client without ``await``: the same verbs with the same arguments, on a thread that ends."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator

import pytest

from turnlog import BrokerUnreachableError, Client, SyncClient, TurnlogError
from turnlog.client.background import BackgroundLoop
from turnlog.client.sync_client import Stream
from turnlog_workers.devstack.broker_ports import free_port

NOT_VERBS = {"aclose", "failure", "partition_count"}  #: ``close``, and properties


def verbs(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "turnlog"]


def test_it_has_every_verb_with_the_same_arguments_and_words() -> None:
    names = verbs(Client) - NOT_VERBS
    assert names <= verbs(SyncClient)
    for name in names:
        mine, theirs = getattr(SyncClient, name), getattr(Client, name)
        assert inspect.signature(mine).parameters == inspect.signature(theirs).parameters, name
        assert mine.__doc__ == theirs.__doc__


def test_what_is_not_open_says_so_and_what_cannot_open_leaves_no_thread() -> None:
    client = SyncClient(bootstrap_server=f"127.0.0.1:{free_port()}", connect_timeout_s=1.0)
    for verb in (client.get, client.chat, client.messages):
        with pytest.raises(TurnlogError, match=r"not connected.*SyncClient"):
            verb("web-1", "Hi") if verb == client.chat else verb("web-1")
    with pytest.raises(BrokerUnreachableError):
        client.open()
    assert threads() == []
    client.close()


def test_a_loop_runs_what_it_is_given_and_ends_what_it_was_not_waited_for() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(threading.current_thread().name)

    async def start() -> None:
        kept.append(asyncio.create_task(forever()))

    async def fail() -> None:
        raise TurnlogError("as asked")

    kept: list[asyncio.Task[None]] = []
    with BackgroundLoop() as loop:
        loop.wait(start())
        loop.wait(asyncio.sleep(0))
        with pytest.raises(TurnlogError, match="as asked"):
            loop.wait(fail())
    assert ended == ["turnlog"]
    assert threads() == []
    loop.close()


async def test_it_may_be_used_where_a_loop_runs() -> None:
    async def here() -> str:
        return threading.current_thread().name

    with BackgroundLoop() as loop:
        assert loop.wait(here()) == "turnlog"
    assert await here() == threading.current_thread().name


def test_a_stream_ends_and_can_be_left() -> None:
    closed = []

    async def numbers(count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
        finally:
            closed.append(count)

    with BackgroundLoop() as loop:
        stream = Stream(loop, numbers(3))
        assert list(stream) == [0, 1, 2]
        assert list(stream) == []
        with Stream(loop, numbers(1000)) as stream:
            assert next(stream) == 0
        assert closed == [3, 1000]
