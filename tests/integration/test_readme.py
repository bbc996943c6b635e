"""What the pages tell people to run, run: the program in the README, and the requests of docs/wire.md."""

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.deployment import START_S, Deployment, Wire, serving
from tests.waiting import eventually
from turnlog_schemas.frames import RequestRefused, TurnCompleted
from turnlog_workers.devstack.broker import DevBroker

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


async def test_the_examples_work(broker: DevBroker, tmp_path: Path) -> None:
    with Deployment(broker.bootstrap_server, tmp_path) as deployment:
        deployment.make_topics()
        async with serving(deployment) as (_, wire):
            (program,) = blocks("README.md", "python")
            example = deployment.run("example", [sys.executable, "-c", program])
            await eventually(lambda: not example.running, "the program ends", START_S)
            assert example.wait() == 0, example.log
            assert example.log.splitlines()[-1] == "completed Hello from Python 5"

            requests = [json.loads(block) for block in blocks("docs/wire.md", "json") if '"frame"' not in block]
            requests += [
                json.loads(found)
                for block in blocks("docs/wire.md", "sh") + blocks("README.md", "sh")
                for found in re.findall(r"^echo '(\{.*\})' \|$", block, flags=re.MULTILINE)
            ]
            assert [await answered(wire, deployment, request) for request in requests] == [
                *("TurnCompleted", "TurnCompleted"),
                *("SessionInfo", "SessionInfo", "HistoryPage", "HistoryCompacted"),
                "TurnCompleted",  # with parameters
                "file_not_allowed",  # until the worker's settings say so
                "TurnCompleted",  # messages that a session begins with
                *("TurnCompleted weather", "TurnCompleted"),  # a tool of the client's, and its output
                "TurnHidden",
                "not_sealed",  # its texts are in the clear
                "HistoryCompacted",  # a summary that is brought
                *("TurnCompleted", "TurnCompleted"),
            ]


async def answered(wire: Wire, deployment: Deployment, request: dict[str, Any]) -> str:
    """How a request of the pages ends."""
    request.setdefault("request_id", f"example-{uuid.uuid4().hex}")
    if "reply_to" in request:
        request["reply_to"] = deployment.topics.replies
    key = request.get("session_id") or request["channel"]
    await wire.produce(key.encode(), json.dumps(request).encode())
    frame = await wire.terminal(request["request_id"])
    match frame.payload:
        case RequestRefused(code=code):
            return code
        case TurnCompleted(pending_calls=[call]):
            return f"TurnCompleted {call.name}"
        case _:
            return frame.kind
