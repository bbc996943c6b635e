"""Reading the files that messages refer to: from a folder, from a host, within bounds, and nowhere else."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from turnlog_schemas.parts import ContentPart, text_content
from turnlog_streams.files import FilePolicy
from turnlog_workers.files.reader import FileReader
from turnlog_workers.files.web import is_public
from turnlog_workers.runners.base import NO_FILES, AssistantMessage, RunnerError, TurnInput
from turnlog_workers.runners.registry import RunnerRegistry

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))
MOST = 1000


def reader(*prefixes: str, private: bool = True, timeout_s: float = 5.0, **bounds: Any) -> FileReader:
    policy = FilePolicy(prefixes=prefixes, media_types=("*/*",), max_bytes=MOST)
    return FileReader(
        replace(policy, **bounds), timeout_s=timeout_s, private_addresses=private, media_types_of=lambda model: ("*/*",)
    )


def ref(uri: str, media_type: str = "image/png", **fields: Any) -> ContentPart:
    return ContentPart(kind="file_ref", uri=uri, media_type=media_type, **fields)


async def fails(one: FileReader, part: ContentPart) -> tuple[str, bool]:
    with pytest.raises(RunnerError) as caught:
        await one.read(part)
    assert "/srv" not in caught.value.reason
    return caught.value.code, caught.value.retryable


# ---- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    (inside / "deep").mkdir(parents=True)
    (inside / "a photo.png").write_bytes(PNG)
    (inside / "deep" / "b.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "c.png").write_bytes(PNG)
    return inside


async def test_a_file_of_a_folder(folder: Path) -> None:
    one = reader(f"{folder.as_uri()}/")
    good = ref(f"{folder.as_uri()}/a%20photo.png", bytes=len(PNG), sha256=hashlib.sha256(PNG).hexdigest())
    assert await one.read(good) == PNG
    assert await one.read(ref(f"{folder.as_uri()}/deep/b.png")) == PNG


async def test_links_lead_about_inside_and_not_out(folder: Path) -> None:
    one = reader(f"{folder.as_uri()}/")
    (folder / "link.png").symlink_to(folder / "deep" / "b.png")
    (folder / "elsewhere").symlink_to(folder / "deep")
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder / "loop")
    assert await one.read(ref(f"{folder.as_uri()}/link.png")) == PNG
    assert await one.read(ref(f"{folder.as_uri()}/elsewhere/b.png")) == PNG
    for path in ("out.png", "up/secret.png", "up/inside/c.png"):
        assert await fails(one, ref(f"{folder.as_uri()}/{path}")) == ("file_not_allowed", False), path
    assert (await fails(one, ref(f"{folder.as_uri()}/loop/x.png")))[1] is False


async def test_a_folder_that_is_a_link_itself(folder: Path) -> None:
    (folder.parent / "alias").symlink_to(folder)
    one = reader(f"{folder.parent.as_uri()}/alias/")
    assert await one.read(ref(f"{folder.parent.as_uri()}/alias/deep/b.png")) == PNG
    assert await fails(one, ref(f"{folder.as_uri()}/deep/b.png")) == ("file_not_allowed", False)


@pytest.mark.parametrize("path", ["../secret.png", "%2e%2e/secret.png", "deep/../../secret.png", "%2e%2e%2fsecret.png"])
async def test_no_path_leads_out(folder: Path, path: str) -> None:
    assert await fails(reader(f"{folder.as_uri()}/"), ref(f"{folder.as_uri()}/{path}")) == ("file_not_allowed", False)


async def test_what_is_no_file(folder: Path) -> None:
    one = reader(f"{folder.as_uri()}/")
    os.mkfifo(folder / "pipe")
    for path in ("none.png", "deep", "pipe", "a%20photo.png/x", "n" * 300):
        assert await fails(one, ref(f"{folder.as_uri()}/{path}")) == ("file_not_found", False), path


@pytest.mark.parametrize(
    ("data", "fields", "code"),
    [
        (PNG, {"bytes": len(PNG) - 1}, "file_mismatch"),
        (PNG, {"sha256": "0" * 64}, "file_mismatch"),
        (b"GIF89a", {}, "file_mismatch"),
        (PNG, {"media_type": "image/jpeg"}, "file_mismatch"),
        (PNG, {"media_type": "application/pdf"}, "file_mismatch"),
        (PNG, {"media_type": "image/webp"}, "file_mismatch"),
        (b"\xff\xfe", {"media_type": "text/plain"}, "file_mismatch"),
        (PNG + bytes(MOST), {}, "file_too_large"),
        (PNG + bytes(MOST), {"bytes": 5}, "file_too_large"),
        (PNG, {"bytes": MOST + 1}, "file_too_large"),
    ],
)
async def test_what_is_not_as_it_was_said(folder: Path, data: bytes, fields: dict[str, Any], code: str) -> None:
    (folder / "x").write_bytes(data)
    part = replace(ref(f"{folder.as_uri()}/x"), **fields)
    assert await fails(reader(f"{folder.as_uri()}/"), part) == (code, False)


async def test_as_many_bytes_as_may_be(folder: Path) -> None:
    data = PNG + bytes(MOST - len(PNG))
    (folder / "x.png").write_bytes(data)
    assert await reader(f"{folder.as_uri()}/").read(ref(f"{folder.as_uri()}/x.png")) == data


async def test_a_type_that_the_settings_do_not_name(folder: Path) -> None:
    one = reader(f"{folder.as_uri()}/", media_types=("image/jpeg",))
    assert await fails(one, ref(f"{folder.as_uri()}/a%20photo.png")) == ("media_type_not_allowed", False)


# ---- hosts

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def host(**handlers: Handler) -> AsyncIterator[str]:
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_get(f"/in/{name}", handler)
        app.router.add_get(f"/out/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def gives(data: bytes = PNG, status: int = 200, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handle


async def drips(request: web.Request) -> web.StreamResponse:
    """More than may be, without saying so before."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(PNG)
    return response


async def is_cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "500"})
    await response.prepare(request)
    await response.write(PNG)
    assert request.transport is not None
    request.transport.abort()
    return response


async def test_a_file_of_a_host() -> None:
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(body=PNG)

    async with host(a=handle) as url:
        part = ref(f"{url}/in/a?signature=x%2Fy", bytes=len(PNG))
        assert await reader(f"{url}/in/").read(part) == PNG
    assert seen[0].query_string == "signature=x%2Fy" or seen[0].query["signature"] == "x/y"
    assert "Authorization" not in seen[0].headers
    assert "Cookie" not in seen[0].headers


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (gives(status=404), ("file_not_found", False)),
        (gives(status=403), ("file_not_found", False)),
        (gives(status=500), ("file_unreachable", True)),
        (gives(status=429), ("file_unreachable", True)),
        (gives(PNG * 20), ("file_too_large", False)),
        (drips, ("file_too_large", False)),
        (is_cut, ("file_unreachable", True)),
        (gives(Content_Encoding="gzip"), ("file_mismatch", False)),
        (gives(b"<html>"), ("file_mismatch", False)),
        (gives(status=302, Location="/out/x"), ("file_not_allowed", False)),
        (gives(status=302, Location="/in/../out/x"), ("file_not_allowed", False)),
        (gives(status=301, Location="http://localhost.example/in/x"), ("file_not_allowed", False)),
        (gives(status=307, Location="file:///etc/passwd"), ("file_not_allowed", False)),
        (gives(status=302, Location="/in/x"), ("file_unreachable", False)),
        (gives(status=302), ("file_unreachable", False)),
    ],
)
async def test_what_a_host_may_do(handler: Handler, expected: tuple[str, bool]) -> None:
    async with host(x=handler) as url:
        assert await fails(reader(f"{url}/in/"), ref(f"{url}/in/x")) == expected


async def test_a_redirect_to_what_is_allowed() -> None:
    async with host(a=gives(status=302, Location="/in/b"), b=gives()) as url:
        assert await reader(f"{url}/in/").read(ref(f"{url}/in/a")) == PNG


async def test_a_host_that_is_silent() -> None:
    async def hangs(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with host(x=hangs) as url:
        assert await fails(reader(f"{url}/in/", timeout_s=0.2), ref(f"{url}/in/x")) == ("file_unreachable", True)


async def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/in"
        assert await fails(reader(f"{url}/"), ref(f"{url}/x")) == ("file_unreachable", True)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "2130706433"])
async def test_a_private_address_behind_an_allowed_host(name: str) -> None:
    """Also a name that only looks like none, and however it is spelled."""
    async with host(x=gives()) as url:
        there = url.replace("127.0.0.1", name)
        closed = reader(f"{there}/in/", private=False)
        assert await fails(closed, ref(f"{there}/in/x")) == ("file_not_allowed", False)


async def test_a_name_that_leads_to_a_private_address_only_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: Any, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
        found = {"hostname": host, "host": "10.0.0.5", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [found]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    one = reader("https://files.example/in/", private=False)
    assert await fails(one, ref("https://files.example/in/x")) == ("file_not_allowed", False)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("x", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


# ---- runners


def turn(*content: ContentPart, model: str = "echo:") -> TurnInput:
    return TurnInput(
        session_id="s",
        turn_id="t",
        attempt=1,
        turn_number=1,
        fencing_token=1,
        model=model,
        instructions=None,
        user_content=content,
    )


async def test_echo_says_what_it_got(folder: Path) -> None:
    one = reader(f"{folder.as_uri()}/")
    given = one.offered(turn(*text_content("Look"), ref(f"{folder.as_uri()}/a%20photo.png")))
    outputs = [output async for output in RunnerRegistry().make("echo:").run(given)]
    (message,) = [output for output in outputs if isinstance(output, AssistantMessage)]
    digest = hashlib.sha256(PNG).hexdigest()
    said = f"Look\n[a photo.png: image/png, {len(PNG)} bytes, sha256 {digest}]"
    assert message.content == text_content(said)


def test_who_takes_which_files() -> None:
    registry = RunnerRegistry({"broken": Broken(), **{name: Answering(odd) for name, odd in ODD_ANSWERS.items()}})
    assert registry.media_types("echo:") == ("*/*",)
    assert registry.media_types("script:7") == ()
    assert registry.media_types("nobody:") == ()
    assert registry.media_types("broken:") == ()
    assert len(registry.media_types("endless:")) == 1_000
    assert "image/png" in registry.media_types("anthropic:claude-m")
    assert "image/gif" not in registry.media_types("pydantic-ai:google:gemini-m")
    assert registry.media_types("pydantic-ai:nobody:m") == ()


def raises(error: type[BaseException]) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def cancels_whoever_asks() -> Any:
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    return ("image/png",)


ODD_ANSWERS: dict[str, Callable[[], Any]] = {
    "exits": raises(SystemExit),
    "interrupts": raises(KeyboardInterrupt),
    "closes": raises(GeneratorExit),
    "gives-up": raises(asyncio.CancelledError),
    "none": lambda: None,
    "number": lambda: (5,),
    "endless": lambda: repeat("image/png"),
}


@dataclass
class Answering:
    answer: Callable[[], Any]

    def __call__(self, model: str) -> Any:
        raise AssertionError

    def media_types(self, model: str) -> Any:
        return self.answer()


@pytest.mark.parametrize("name", sorted(ODD_ANSWERS.keys() - {"endless"}))
async def test_a_plug_in_that_is_asked_what_it_takes_harms_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    registry = RunnerRegistry({name: Answering(ODD_ANSWERS[name]), "cancels": Answering(cancels_whoever_asks)})
    assert registry.media_types(f"{name}:") == ()
    assert "does not say which files it takes" in caplog.text
    assert registry.media_types("cancels:") == ("image/png",)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


class Broken:
    def __call__(self, model: str) -> Any:
        raise AssertionError

    def media_types(self, model: str) -> Any:
        raise ValueError(model)


def test_a_model_that_became_another_one_after_the_request() -> None:
    one = FileReader(FilePolicy(), timeout_s=1.0, media_types_of=lambda model: ("image/png",) if model == "a:" else ())
    asked = turn(ref("https://files.example/in/x.png"), model="b:")
    with pytest.raises(RunnerError, match="takes no files") as caught:
        one.offered(asked)
    assert (caught.value.code, caught.value.retryable) == ("media_type_not_supported", False)
    assert one.offered(replace(asked, model="a:")).files is one


def test_a_turn_without_files_asks_for_no_media_types() -> None:
    asked: list[str] = []
    one = FileReader(FilePolicy(), timeout_s=1.0, media_types_of=lambda model: asked.append(model) or ())  # type: ignore[func-returns-value]
    assert one.offered(replace(turn(ref("unused")), user_content=text_content("hello"))).files is one
    assert not asked, "a factory is a plug-in: it is asked only where its answer is used"


async def test_without_a_reader_nothing_is_read() -> None:
    with pytest.raises(RunnerError, match="no files are read here"):
        await NO_FILES.read(ref("https://files.example/in/x.png"))
