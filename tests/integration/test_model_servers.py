"""A real worker and models behind a server that does its worst: what users see, and where the key is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import Deployment, serving
from tests.model_faults import LLAMA_CONTEXT, cut
from tests.model_server import KEY, ModelServer, Stream, model_server_in_a_thread, refuses, says
from turnlog_schemas import frames as fr
from turnlog_schemas.events import HistoryCompacted, TurnCompleted, TurnStarted
from turnlog_workers.devstack.broker import DevBroker

KINDS = {"http": "http:fake#{}", "openai": "openai:{}", "anthropic": "anthropic:{}"}
LIMIT_CHARACTERS = 6000  #: of a prompt to the model ``small``


def model_of(stream: Stream) -> str:
    return str(stream.received.body["model"])


async def by_model(stream: Stream) -> Any:
    """What a model does is its name."""
    server, model = stream.server, model_of(stream)
    asked = sum(model_of_body(one.body) == model for one in server.received)
    if model == "good":
        return await says()(stream)
    if model == "limited":  # once
        return await (refuses(429, headers={"Retry-After": "1"}) if asked == 1 else says())(stream)
    if model == "hour":
        return await refuses(429, headers={"Retry-After": "3600"})(stream)
    if model == "cut":  # twice
        return await (cut if asked < 3 else says())(stream)
    if model == "key":
        return await refuses(401)(stream)
    if model == "small":
        if len(str(stream.received.body["messages"])) > LIMIT_CHARACTERS:
            return await refuses(400, LLAMA_CONTEXT)(stream)
        return await says(pieces=("word " * 200,))(stream)
    raise AssertionError(model)


def model_of_body(body: dict[str, Any]) -> str:
    return str(body["model"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with model_server_in_a_thread(by_model) as found:
        for name in ("ANTHROPIC", "OPENAI", "FAKE"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", found.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{found.url}/v1")
        yield found


@pytest.mark.timeout(180)
async def test_every_fault_and_where_the_key_is_not(broker: DevBroker, tmp_path: Path, server: ModelServer) -> None:
    settings = {
        "http_servers": f'{{"fake": {{"url": "{server.url}/v1", "key_env": "FAKE_API_KEY"}}}}',
        "allow_models": "echo:*,http:fake#*,openai:*,anthropic:*",
        "retry_delay_s": "0.05",
        "log_level": "DEBUG",
        "library_log_level": "DEBUG",
    }
    with Deployment(broker.bootstrap_server, tmp_path, partitions=2) as deployment:
        deployment.make_topics()
        async with serving(deployment, **settings) as (worker, wire):
            for kind, pattern in KINDS.items():
                server.received.clear()
                for name in ("good", "limited", "hour", "cut", "key"):
                    request = f"{kind}-{name}"
                    await wire.chat_json(request, "Tell me.", request_id=request, model=pattern.format(name))
                    frame = (await wire.terminal(request)).payload
                    if name in ("good", "limited", "cut"):
                        assert isinstance(frame, fr.TurnCompleted), (request, frame)
                        assert frame.text == "Hello there!"
                    else:
                        assert isinstance(frame, fr.TurnFailed)
                        assert frame.code == {"hour": "rate_limited", "key": "authentication"}[name]
                        assert ("3600 s" in frame.reason) == (name == "hour")
                counts = [sum(model_of_body(one.body) == name for one in server.received) for name in ("hour", "key")]
                assert counts == [1, 1], "asked once, and not again"
            await wire.produce(b"random", b"\x01\x02 not a request")
            await _a_conversation_in_a_small_window(wire, deployment)
            arguments = _command_lines()
            assert worker.stop() == 0
        started = [len(await _started(deployment, f"{kind}-cut")) for kind in KINDS]
        assert started == [3, 3, 3]
        assert KEY.encode() not in arguments
        assert "secret" in worker.log, "it was about to be logged"
        assert KEY not in worker.log
        for topic in deployment.topics.all:
            for record in await deployment.dump(topic):
                assert KEY not in repr((record.key, record.value, record.headers)), topic
        assert await deployment.dump(deployment.topics.dead_letters)
        assert _files_with(KEY.encode(), tmp_path) == []


async def _a_conversation_in_a_small_window(wire: Any, deployment: Deployment) -> None:
    """The history outgrows the model again and again; no turn fails of it."""
    for number in range(10):
        await wire.chat_json("small", f"Question {number}", request_id=f"small-{number}", model="http:fake#small")
        assert isinstance((await wire.terminal(f"small-{number}")).payload, fr.TurnCompleted)
    events = [event.payload for event in await deployment.events_of("small")]
    assert sum(isinstance(event, HistoryCompacted) for event in events) > 0
    assert sum(isinstance(event, TurnCompleted) for event in events) == 10
    assert sum(isinstance(event, TurnStarted) for event in events) == 10, "within the same attempt"


async def _started(deployment: Deployment, session_id: str) -> list[Any]:
    return [event for event in await deployment.events_of(session_id) if isinstance(event.payload, TurnStarted)]


def _command_lines() -> bytes:
    """The arguments of every process of the machine."""
    return b"".join(_arguments(process) for process in Path("/proc").iterdir() if process.name.isdigit())


def _arguments(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _files_with(text: bytes, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]
