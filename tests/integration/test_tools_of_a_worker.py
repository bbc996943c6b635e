"""Tools in real workers: a model behind a server calls them, the first worker dies once the calls are stored."""

import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.deployment import START_S, Deployment
from tests.model_server import Call, Good, Stream, model_server_in_a_thread, says
from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.events import MessageStored, TurnStarted
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import content_text
from turnlog_workers.devstack.broker import DevBroker

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


@pytest.mark.timeout(180)
async def test_calls_survive_their_worker_and_their_outcomes_reach_the_analysts(
    broker: DevBroker, tmp_path: Path
) -> None:
    with model_server_in_a_thread(calls_then_answers) as server:
        settings = {
            "http_servers": json.dumps({"fake": {"url": f"{server.url}/v1"}}),
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
                }
                chat["new_session"] = {"channel": "web"}
                request = {"session_id": "web-0000abcd", "request_id": "r1", "command": chat}
                await wire.produce(b"web-0000abcd", json.dumps(request).encode())
                await eventually(lambda: not first.running, "the first worker dies", START_S)
                deployment.ready_worker("w1")
                deployment.start("m0", "materialize")
                frame = (await wire.terminal("r1")).payload
                assert isinstance(frame, fr.TurnCompleted), frame
            events = [event.payload for event in await deployment.events_of("web-0000abcd")]
            started = [event for event in events if isinstance(event, TurnStarted)]
            assert [each.params for each in started] == [GenerationParams(temperature=0.5, max_tokens=70)] * 2
            stored = [event for event in events if isinstance(event, MessageStored)]
            results = {each.tool_call_id: each for each in stored if each.role == "tool"}
            told = {name: (each.outcome, content_text(each.content)) for name, each in results.items()}
            assert told["c1"] == ("ok", "42")
            assert told["c2"] == ("ok", "5")
            assert told["c3"][0] == "interrupted"
            assert told["c4"][0] == "error"
            offered = [each["function"]["name"] for each in server.received[0].body["tools"]]
            assert offered[:2] == ["calculator", "clock"]
            assert "small__add" in offered
            assert "sql" not in offered
            assert (server.received[0].body["temperature"], server.received[0].body["max_tokens"]) == (0.5, 70)
            path = deployment.settings.snapshot

            def outcomes() -> dict[str, str | None] | None:
                if not path.exists():
                    return None
                with duckdb.connect(str(path), read_only=True) as connection:
                    rows = connection.execute("SELECT call_id, outcome FROM tool_calls").fetchall()
                    of_messages = connection.execute("SELECT count(outcome) FROM messages").fetchone()
                return dict(rows) if of_messages == (4,) else None

            found = await eventually(outcomes, "the snapshot has them", START_S)
            assert found == {"c1": "ok", "c2": "ok", "c3": "interrupted", "c4": "error"}
