"""What Faust says of rebalances: nothing while all is well."""

import logging

import pytest

from turnlog_workers.process.faust_app import TurnlogApp


def test_one_rebalance_upon_the_other_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    app = TurnlogApp("t.workers", broker="kafka://127.0.0.1:9092")  # it has no sensors, as when it runs
    with caplog.at_level(logging.INFO):
        for step in "start", "return", "end", "return", "start", "start", "return", "end", "end":
            getattr(app, f"on_rebalance_{step}")()
    assert caplog.messages == []
