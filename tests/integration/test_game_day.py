"""One of the incidents of ``make game-day``, the quickest: its alert fires, and goes once the page is done."""

from pathlib import Path

from tests.game_day.__main__ import play
from tests.game_day.incidents import INCIDENTS
from turnlog_workers.devstack.broker import DevBroker


async def test_a_deployment_that_ends_at_its_start_is_noticed_and_mended(
    broker: DevBroker, prometheus: str, tmp_path: Path
) -> None:
    (incident,) = [incident for incident in INCIDENTS if incident.name == "bad-deploy"]
    played = await play(incident, broker, tmp_path)
    assert played.also == []
    assert played.answered > 0
