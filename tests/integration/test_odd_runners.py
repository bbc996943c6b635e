"""Every kind of odd runner as a plug-in of a real worker, beside a hundred innocent turns of the same partition."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import Deployment, eventually_async, serving
from tests.odd_runners import COMPLETED, ODD, PREFIX
from turnlog_schemas.events import PartitionClaimed, TurnCompleted, TurnStarted
from turnlog_workers.devstack.broker import DevBroker

ROOT = Path(__file__).parents[2]
INNOCENTS = 100
TURN_S = "25"


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """One partition, and a package that names the runners as an entry point."""
    package = tmp_path / "installed" / "odd_runners-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-runners\nVersion: 0\n")
    (package / "entry_points.txt").write_text("[turnlog.runners]\nodd = tests.odd_runners:factory\n")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        yield deployment


@pytest.mark.timeout(300)
async def test_nobody_beside_them_notices(deployment: Deployment) -> None:
    names = list(ODD)
    settings = {"allow_models": f"echo:*,{PREFIX}*", "turn_timeout_s": TURN_S, "retry_delay_s": "0.05"}
    async with serving(deployment, **settings) as (worker, wire):
        for number in range(max(len(names), INNOCENTS)):
            if number < len(names):
                model = PREFIX + names[number]
                await wire.chat_json(f"odd-{number}", "What is odd?", request_id=f"odd-{number}", model=model)
            if number < INNOCENTS:
                await wire.chat_json(f"web-{number}", f"hello {number}", request_id=f"web-{number}", model="echo:")
        for number, name in enumerate(names):
            frame = await wire.terminal(f"odd-{number}", 120)
            code = getattr(frame.payload, "code", COMPLETED)
            may_be_late = ODD[name].slow or "without end" in name or "deltas" in name  # on a machine with much to do
            late = may_be_late and code == "turn_timeout"
            assert late or code == ODD[name].code, (name, frame.payload)
        for number in range(INNOCENTS):
            assert (await wire.terminal(f"web-{number}")).kind == "TurnCompleted"
        assert worker.stop() == 0, "what was left alone does not keep it from its end"

    async def ended() -> bool:
        return bool(await deployment.accepted())

    await eventually_async(ended, "the log can be read")
    events = [event for log in (await deployment.accepted()).values() for event in log]
    assert sum(isinstance(event.payload, PartitionClaimed) for event in events) == 1, "no partition was released"
    innocent = [event for event in events if event.header.stream_id.startswith("web-") and event.header.turn_id]
    assert sum(isinstance(event.payload, TurnCompleted) for event in innocent) == INNOCENTS
    assert {event.payload.cause for event in innocent if isinstance(event.payload, TurnStarted)} == {"first"}
    assert {event.header.attempt for event in innocent if isinstance(event.payload, TurnStarted)} == {1}
    assert "Traceback" not in worker.log
    assert "What is odd?" not in worker.log
