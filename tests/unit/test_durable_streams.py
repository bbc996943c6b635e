"""What Durable Streams says of offsets, cursors and tags, and of a stream that lost its beginning."""

import httpx2
import pytest
from starlette.responses import Response

from tests.durable_shim import MemoryStream
from turnlog.serve.app import create_app
from turnlog.serve.durable_streams.protocol import ReadRequest, cursor_text, etag, matches, offset_text, read_request
from turnlog.serve.durable_streams.reading import Extent, _events, answer
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import HttpError
from turnlog_workers.base.config import Settings

EPOCH_S = 1_728_432_000


def test_offsets_sort_as_positions_do() -> None:
    positions = [0, 1, 9, 10, 99, 10**18]
    assert sorted(offset_text(position) for position in positions) == [offset_text(position) for position in positions]
    assert read_request([("offset", offset_text(7))]).start == 7
    assert read_request([("offset", "-1")]).start is None
    assert read_request([("offset", "now"), ("more", "x")]).start == "now"


@pytest.mark.parametrize(
    "pairs",
    [
        [("offset", "")],
        [("offset", "7")],
        [("offset", "-2")],
        [("offset", "1,2")],
        [("offset", offset_text(1)), ("offset", offset_text(1))],
        [("offset", f"{offset_text(1)}\n")],
        [("offset", offset_text(1).replace("1", "\u0661"))],
        [("live", "sse")],
        [("live", "often"), ("offset", "-1")],
    ],
)
def test_what_is_no_offset_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(HttpError) as raised:
        read_request(pairs)
    assert raised.value.status == 400


def test_a_cursor_moves_on_with_the_clock_and_beyond_the_reader_s() -> None:
    now = EPOCH_S + 20 * 1000 + 7
    assert cursor_text(now, None, 1) == "1000"
    assert cursor_text(now, 999, 1) == "1000"
    assert int(cursor_text(now, 1000, 1)) == 1001
    assert int(cursor_text(now, 5000, 3600)) == 5180
    assert cursor_text(0, None, 1) == "0"


def test_a_tag_is_another_one_once_the_stream_is_closed() -> None:
    tag = etag("s", None, 7, closed=False)
    assert (
        len({tag, etag("s", None, 7, closed=True), etag("s", 0, 7, closed=False), etag("s", None, 8, closed=False)})
        == 4
    )
    assert matches(f'"x", W/{tag}', tag)
    assert matches("*", tag)
    assert not matches(None, tag)
    assert not matches('"x"', tag)


class Trimmed(MemoryStream):
    """Positions 0 and 1 are not kept any more."""

    async def extent(self) -> Extent:
        return Extent(first=2, begin=2, end=len(self.messages), closed=self.closed)


async def test_a_reader_is_told_where_a_stream_begins_that_lost_its_beginning() -> None:
    stream = Trimmed(name="s", content_type="application/json", messages=[b"0", b"1", b"2", b"3"])

    async def read(call: Call) -> Response:
        return await answer(call, stream)

    app = create_app(Gateway(Settings()), [Endpoint(path="/s", handler=read, methods=("GET", "HEAD"))])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as http:
        assert (await http.get("/s")).json() == [2, 3]
        assert (await http.get("/s", params={"offset": offset_text(3)})).json() == [3]
        gone = await http.get("/s", params={"offset": offset_text(1)})
        assert gone.status_code == 410
        assert offset_text(2) in gone.json()["error"]["message"]
        ahead = await http.get("/s", params={"offset": offset_text(5)})
        assert ahead.status_code == 400
        assert (await http.head("/s")).headers["stream-next-offset"] == offset_text(4)
        stream.add(b"", close=True)
        end = await http.get("/s", params={"offset": offset_text(4), "live": "long-poll"})
        assert (end.status_code, end.headers["stream-closed"]) == (204, "true")
        told = await http.get("/s", params={"offset": "-1", "live": "sse"})
        assert told.text.split("\n\n")[0] == "event: data\ndata:[2,3]"
        assert '"streamClosed":true' in told.text


async def test_messages_go_out_in_one_piece_with_their_position() -> None:
    stream = MemoryStream(name="s", content_type="application/json", messages=[b"1", b"2"], closed=True)
    pieces = [piece async for piece in _events(stream, ReadRequest(live="sse"), 0, await stream.extent())]
    assert [[line for line in piece.decode().splitlines() if "event:" in line] for piece in pieces] == [
        ["event: data", "event: control"]
    ]
