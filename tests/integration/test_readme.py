"""What the pages tell people to run, run: the program in the README, and the requests of docs/wire.md."""

import asyncio
import json
import re
import sys
from pathlib import Path

from tests.deployment import START_S, Deployment, serving
from tests.waiting import eventually
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
            assert len(requests) == 8
            for number, request in enumerate(requests):
                request["request_id"] = f"example-{number}"
                if "reply_to" in request:
                    request["reply_to"] = deployment.topics.replies
                key = request.get("session_id") or request["channel"]
                await wire.produce(key.encode(), json.dumps(request).encode())
            ends = await asyncio.gather(*(wire.terminal(request["request_id"]) for request in requests))
            kinds = ["HistoryCompacted", "HistoryPage", "SessionInfo", *["TurnCompleted"] * 5]
            assert sorted(end.kind for end in ends) == kinds
