"""The proxy of the fault runs does what each of its faults says, against a server that answers with what it hears."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.faulty_link import HOST, FaultyLink, LinkFault, faulty_links
from tests.waiting import eventually

WAIT_S = 20.0


class Far:
    """An echo server that notes what it heard."""

    def __init__(self) -> None:
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
        writer.close()


@pytest.fixture
async def far() -> AsyncIterator[tuple[Far, int]]:
    far = Far()
    server = await asyncio.start_server(far.serve, HOST, 0)
    yield far, server.sockets[0].getsockname()[1]
    server.close()


class Near:
    """A client that collects what it is answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer, self.answered, self.was_reset = writer, b"", False
        self.task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(1000):
                self.answered += data
        except ConnectionResetError:
            self.was_reset = True


async def near(link: FaultyLink) -> Near:
    return Near(*await asyncio.open_connection(HOST, link.port))


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [
        (LinkFault.BLACK_HOLE, False),
        (LinkFault.ONLY_FROM_SERVER, False),
        (LinkFault.ONLY_TO_SERVER, True),
    ],
)
async def test_what_is_held_back_comes_when_the_link_heals(
    far: tuple[Far, int], fault: LinkFault, arrives: bool
) -> None:
    there, port = far
    async with faulty_links([port, port]) as (link, other):
        here, elsewhere = await near(link), await near(other)
        here.writer.write(b"1")
        await eventually(lambda: here.answered == b"1", "a link without faults passes", WAIT_S)
        link.begin(fault)
        here.writer.write(b"2")
        if arrives:
            await eventually(lambda: there.heard == b"12", "the request arrives", WAIT_S)
        elsewhere.writer.write(b"x")  # a whole way to and fro, meanwhile
        await eventually(lambda: elsewhere.answered == b"x", "the other link passes", WAIT_S)
        assert here.answered == b"1"
        assert (b"2" in there.heard) == arrives
        link.heal()
        await eventually(lambda: here.answered == b"12", "it heals", WAIT_S)


async def test_a_reset_ends_what_is_open_and_nothing_else(far: tuple[Far, int]) -> None:
    _, port = far
    async with faulty_links([port]) as (link,):
        here = await near(link)
        here.writer.write(b"1")
        await eventually(lambda: here.answered == b"1", "it passes", WAIT_S)
        link.begin(LinkFault.RESET)
        await asyncio.wait_for(here.task, WAIT_S)
        assert here.was_reset
        again = await near(link)
        again.writer.write(b"2")
        await eventually(lambda: again.answered == b"2", "a new connection passes", WAIT_S)


async def test_latency_is_there_both_ways(far: tuple[Far, int]) -> None:
    _, port = far
    async with faulty_links([port]) as (link,):
        here = await near(link)
        link.begin(LinkFault.LATENCY, latency_s=0.05)
        loop = asyncio.get_running_loop()
        began = loop.time()
        here.writer.write(b"1")
        await eventually(lambda: here.answered == b"1", "it passes", WAIT_S)
        assert loop.time() - began >= 0.1


async def test_whoever_is_away_closes_the_connection(far: tuple[Far, int]) -> None:
    async with faulty_links([1]) as (link,):
        here = await near(link)
        await asyncio.wait_for(here.task, WAIT_S)
        assert here.answered == b""
