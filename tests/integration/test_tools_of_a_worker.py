"""Tools in real workers: a model behind a server calls them, the first worker dies once the calls are stored.

The second worker is also sent a file, by reference.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.deployment import START_S, Deployment, Wire
from tests.model_server import Call, Good, ModelServer, Stream, model_server_in_a_thread, says
from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.events import MessageStored, TurnStarted
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import content_text
from turnlog_workers.devstack.broker import DevBroker

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))
URIS = """
    SELECT content_parts ->> '$[1].uri' AS uri FROM messages WHERE session_id = 'files' AND uri LIKE '%/uploads/a.png'
"""
MCP_SERVER = Path(__file__).parents[1] / "mcp_server.py"
CALLS = (
    Call(call_id="c1", name="calculator", arguments=('{"expression": "6*7"}',)),
    Call(call_id="c2", name="small__add", arguments=('{"a": 2,', ' "b": 3}')),
    Call(call_id="c3", name="small__fails", arguments=("{}",)),  # not idempotent: closed by the next owner
    Call(call_id="c4", name="sql", arguments=('{"statement": "SELECT 1"}',)),  # not allowed to this channel
)


async def calls_then_answers(stream: Stream) -> Any:
    results = [message for message in stream.received.body["messages"] if message["role"] == "tool"]
    return await (says(Good(pieces=("Done.",))) if results else says(Good(pieces=(), calls=CALLS)))(stream)


def pictures(folder: Path) -> tuple[Path, Path]:
    """One in the folder, one outside."""
    folder.mkdir()
    found = folder / "a.png", folder.parent / "b.png"
    for path in found:
        path.write_bytes(PNG)
    return found


async def files_are_references(deployment: Deployment, wire: Wire, server: ModelServer, folder: Path) -> None:
    """The model's server gets the bytes; the log has where they are."""
    picture, outside = pictures(folder)
    server.plan(says(Good(pieces=("A cat.",))))

    async def ask(request_id: str, uri: str, model: str = "http:fake#m") -> Any:
        file = {"kind": "file_ref", "uri": uri, "media_type": "image/png", "bytes": len(PNG)}
        chat = {"type": "chat", "content": [{"text": "What is it?"}, file], "model": model}
        request = {"session_id": "files", "request_id": request_id, "command": chat}
        await wire.produce(b"files", json.dumps(request).encode())
        return (await wire.terminal(request_id)).payload

    assert isinstance(done := await ask("f1", picture.as_uri()), fr.TurnCompleted), done
    encoded = base64.b64encode(PNG).decode()
    content = server.received[-1].body["messages"][-1]["content"]
    assert content[1]["image_url"]["url"] == f"data:image/png;base64,{encoded}"
    refused = [await ask("f2", outside.as_uri()), await ask("f3", f"{folder.as_uri()}/../b.png")]
    assert [(type(each).__name__, each.code) for each in refused] == [
        ("RequestRefused", "file_not_allowed"),
        ("RequestRefused", "invalid_command"),
    ]
    picture.unlink()
    gone = await ask("f4", picture.as_uri())
    assert (type(gone), gone.code) == (fr.TurnFailed, "file_not_found")
    for event in await deployment.events_of("files"):
        assert encoded[:20] not in repr(event.payload)


@pytest.mark.timeout(180)
async def test_calls_survive_their_worker_and_their_outcomes_reach_the_analysts(
    broker: DevBroker, tmp_path: Path
) -> None:
    with model_server_in_a_thread(calls_then_answers) as server:
        settings = {
            "http_servers": json.dumps({"fake": {"url": f"{server.url}/v1", "media_types": ["image/*"]}}),
            "allow_files": f"{tmp_path.as_uri()}/uploads/",
            "allow_models": "http:fake#*",
            "allow_tools": "clock,calculator,small__*@channel:web,sql@channel:ops",
            "mcp_servers": json.dumps({"small": {"command": [sys.executable, str(MCP_SERVER)]}}),
            "mcp_connect_timeout_s": "30",
            "model_params": '{"temperature": 0.5}',
        }
        with Deployment(broker.bootstrap_server, tmp_path, partitions=1, **settings) as deployment:
            deployment.make_topics()
            first = deployment.ready_worker("w0", crash_at="actor.after_tool_call_stored")
            async with deployment.wire() as wire:
                chat: dict[str, Any] = {
                    "type": "chat",
                    "text": "Go.",
                    "model": "http:fake#m",
                    "params": {"max_tokens": 70},
                    "new_session": {"channel": "web"},
                }
                request = {"session_id": "web-0000abcd", "request_id": "r1", "command": chat}
                await wire.produce(b"web-0000abcd", json.dumps(request).encode())
                await eventually(lambda: not first.running, "the first worker dies", START_S)
                deployment.ready_worker("w1")
                deployment.start("m0", "materialize")
                frame = (await wire.terminal("r1")).payload
                assert isinstance(frame, fr.TurnCompleted), frame
                asked = server.received[0].body
                await files_are_references(deployment, wire, server, tmp_path / "uploads")
            events = [event.payload for event in await deployment.events_of("web-0000abcd")]
            started = [event.params for event in events if isinstance(event, TurnStarted)]
            assert started == [GenerationParams(temperature=0.5, max_tokens=70)] * max(2, len(started)), "two or more"
            stored = [event for event in events if isinstance(event, MessageStored)]
            results = {each.tool_call_id: each for each in stored if each.role == "tool"}
            told = {name: (each.outcome, content_text(each.content)) for name, each in results.items()}
            assert told["c1"] == ("ok", "42")
            assert told["c2"] == ("ok", "5")
            assert told["c3"][0] == "interrupted"
            assert told["c4"][0] == "error"
            offered = [each["function"]["name"] for each in asked["tools"]]
            assert offered[:2] == ["calculator", "clock"]
            assert ("small__add" in offered, "sql" in offered) == (True, False)
            assert (asked["temperature"], asked["max_tokens"]) == (0.5, 70)
            path = deployment.settings.snapshot

            def outcomes() -> dict[str, str | None] | None:
                if not path.exists():
                    return None
                with duckdb.connect(str(path), read_only=True) as connection:
                    rows = connection.execute("SELECT call_id, outcome FROM tool_calls").fetchall()
                    uris = connection.execute(URIS).fetchall()
                    of_messages = connection.execute("SELECT count(outcome) FROM messages").fetchone()
                return dict(rows) if of_messages == (4,) and len(uris) == 2 else None

            found = await eventually(outcomes, "the snapshot has them", START_S)
            assert found == {"c1": "ok", "c2": "ok", "c3": "interrupted", "c4": "error"}
