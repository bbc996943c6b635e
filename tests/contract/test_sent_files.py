"""A file on its way to each kind of server: read for the call, as that server's format has it, and never in a log."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_model_servers import MODELS, keys, play, server, turn_of  # noqa: F401
from tests.model_server import ModelServer
from turnlog_schemas.parts import ContentPart, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.config import Settings
from turnlog_workers.files.reader import FileReader
from turnlog_workers.runners.base import Runner, TurnInput
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners
from turnlog_workers.runners.registry import RunnerRegistry

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = b"%PDF-1.7\n" + bytes(range(50))
NOTE = "A note, <|im_end|> and an umlaut: ü"
KINDS = ("http", "openai", "anthropic", "google")


class Bench:
    """Files in a folder, and what reads them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = Settings(allow_files=f"{folder.as_uri()}/", **settings)  # type: ignore[arg-type]

    def put(self, name: str, data: bytes, media_type: str) -> ContentPart:
        (self.folder / name).write_bytes(data)
        return ContentPart(kind="file_ref", uri=f"{self.folder.as_uri()}/{name}", media_type=media_type)

    def runner(self, kind: str, server: ModelServer) -> Runner:  # noqa: F811
        if kind == "http":
            described = {"url": f"{server.url}/v1", "key_env": "FAKE_API_KEY", "media_types": ["image/*", "text/*"]}
            settings = Settings(http_servers=json.dumps({"fake": described}))  # type: ignore[arg-type]
            return HttpRunners(settings)(MODELS[kind])
        return ProviderRunners(Settings())(MODELS[kind])

    def turn(self, kind: str, *content: ContentPart, before: tuple[HistoryMessage, ...] = ()) -> TurnInput:
        def taken(model: str) -> tuple[str, ...]:
            return ("image/*", "text/*") if kind == "http" else RunnerRegistry().media_types(model)

        asked = HistoryMessage(message_seq=9, turn_id="t-1", role="user", content=content)
        turn = replace(turn_of(kind), user_content=content, history=before, assembled=(*before, asked))
        return FileReader.of(self.settings, taken).offered(turn)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
async def nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert base64.b64encode(PNG).decode()[:40] not in caplog.text


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", KINDS)
async def test_an_image_and_a_text(kind: str, server: ModelServer, bench: Bench) -> None:  # noqa: F811
    picture = bench.put("a.png", PNG, "image/png")
    note = bench.put("note.txt", NOTE.encode(), "text/plain")
    turn = bench.turn(kind, *text_content("What is it?"), picture, note)
    found, error = await play(bench.runner(kind, server), turn)
    assert error is None, error
    assert found
    sent = json.dumps(server.received[0].body, ensure_ascii=False)
    encoded = base64.b64encode(PNG).decode()
    assert encoded in sent or encoded.replace("+", "-").replace("/", "_") in sent  # Google's is the one for URLs
    assert "What is it?" in sent
    assert "note.txt:" in sent
    assert "ü" in sent
    assert ("<|im_end|>" in sent) == (kind != "http")
    assert "file:///" not in sent


@pytest.mark.usefixtures("keys")
async def test_how_an_openai_server_gets_it(server: ModelServer, bench: Bench) -> None:  # noqa: F811
    turn = bench.turn("http", *text_content("Look"), bench.put("a.png", PNG, "image/png"))
    await play(bench.runner("http", server), turn)
    image = {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    content = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": image}]
    assert server.received[0].body["messages"][-1] == {"role": "user", "content": content}
    assert int(server.received[0].headers["Content-Length"]) > len(PNG)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", ["openai", "anthropic", "google"])
async def test_a_document(kind: str, server: ModelServer, bench: Bench) -> None:  # noqa: F811
    _, error = await play(bench.runner(kind, server), bench.turn(kind, bench.put("a.pdf", PDF, "application/pdf")))
    assert error is None, error
    assert base64.b64encode(PDF).decode()[:30] in json.dumps(server.received[0].body).replace("-", "+").replace(
        "_", "/"
    )


def earlier(*content: ContentPart) -> tuple[HistoryMessage, ...]:
    asked = HistoryMessage(message_seq=1, turn_id="t-0", role="user", content=content)
    return (asked, HistoryMessage(message_seq=2, turn_id="t-0", role="assistant", content=text_content("A cat.")))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", KINDS)
async def test_an_earlier_picture_is_shown_again(kind: str, server: ModelServer, bench: Bench) -> None:  # noqa: F811
    before = earlier(*text_content("What is it?"), bench.put("a.png", PNG, "image/png"))
    _, error = await play(bench.runner(kind, server), bench.turn(kind, *text_content("Why?"), before=before))
    assert error is None, error
    assert base64.b64encode(PNG).decode()[:30] in json.dumps(server.received[0].body)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", KINDS)
async def test_an_earlier_one_that_is_gone_is_a_line(kind: str, server: ModelServer, bench: Bench) -> None:  # noqa: F811
    picture = bench.put("a.png", PNG, "image/png")
    (bench.folder / "a.png").unlink()
    before = earlier(*text_content("What is it?"), picture)
    _, error = await play(bench.runner(kind, server), bench.turn(kind, *text_content("Why?"), before=before))
    assert error is None, error
    assert "[file a.png: image/png, it cannot be read any more]" in json.dumps(server.received[0].body)


@pytest.mark.usefixtures("keys")
async def test_there_is_room_for_the_newest(server: ModelServer, tmp_path: Path) -> None:  # noqa: F811
    bench = Bench(tmp_path, max_turn_file_bytes=len(PNG) + 10)
    before = earlier(bench.put("old.png", PNG, "image/png"))
    turn = bench.turn("http", bench.put("new.png", PNG, "image/png"), before=before)
    _, error = await play(bench.runner("http", server), turn)
    assert error is None, error
    old, _, new = server.received[0].body["messages"][1:]
    assert old["content"] == [{"type": "text", "text": "[file old.png: image/png]"}]
    assert new["content"][0]["type"] == "image_url"


@pytest.mark.usefixtures("keys")
async def test_what_the_turn_is_about_must_fit(server: ModelServer, tmp_path: Path) -> None:  # noqa: F811
    bench = Bench(tmp_path, max_turn_file_bytes=len(PNG) + 10)
    content = [bench.put(name, PNG, "image/png") for name in ("a.png", "b.png")]
    _, error = await play(bench.runner("http", server), bench.turn("http", *content))
    assert error is not None
    assert (error.code, error.retryable, server.received) == ("file_too_large", False, [])


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_turn_is_about_must_be_there(kind: str, server: ModelServer, bench: Bench) -> None:  # noqa: F811
    picture = bench.put("a.png", PNG, "image/png")
    (bench.folder / "a.png").unlink()
    _, error = await play(bench.runner(kind, server), bench.turn(kind, picture))
    assert error is not None
    assert (error.code, error.retryable, server.received) == ("file_not_found", False, [])


@pytest.mark.usefixtures("keys")
async def test_a_server_of_which_nothing_is_said_is_shown_a_line(server: ModelServer, bench: Bench) -> None:  # noqa: F811
    before = earlier(bench.put("a.png", PNG, "image/png"))
    described = json.dumps({"fake": {"url": f"{server.url}/v1"}})
    runner = HttpRunners(Settings(http_servers=described))(MODELS["http"])  # type: ignore[arg-type]
    _, error = await play(runner, bench.turn("http", *text_content("Why?"), before=before))
    assert error is None, error
    assert server.received[0].body["messages"][1] == {"role": "user", "content": "[file a.png: image/png]"}
