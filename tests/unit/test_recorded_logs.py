"""The log of every released version leads to what it led to when it was recorded."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import recorded_log
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.registry import EVENTS

CHANGELOG = Path(__file__).resolve().parents[2] / "CHANGELOG.md"
VERSIONS = recorded_log.versions()
read = cache(recorded_log.read)


def against(kept: dict[str, Any], rows: recorded_log.Rows) -> dict[str, Any]:
    """The same tables and columns, as this version has them."""
    columns = {name: table["columns"] for name, table in kept.items()}
    return recorded_log.digests({name: rows[name] for name in kept}, columns)


def test_each_release_has_a_recorded_log() -> None:
    """``python -m tests.recorded_log VERSION`` records it; see CONTRIBUTING, "A release"."""
    released = re.findall(r"^## \[([\d.]+)\] - ", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert "0.1.0" in released
    assert set(released) == set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rows_of", [recorded_log.folded_rows, recorded_log.analysts_rows])
def test_a_recorded_log_leads_to_the_recorded_rows(version: str, rows_of: Callable[..., recorded_log.Rows]) -> None:
    recorded = read(version)
    kept = recorded.folded if rows_of is recorded_log.folded_rows else recorded.analysts
    assert against(kept, rows_of(recorded.partitions)) == kept


def test_the_first_log_has_every_event_and_one_of_a_newer_version() -> None:
    payloads = [event.payload for log in read("0.1.0").partitions for event in log]
    assert {cls.__name__ for cls in EVENTS.payloads} <= {type(payload).__name__ for payload in payloads}
    assert any(isinstance(payload, UnknownPayload) for payload in payloads)


def test_one_record_less_leads_to_other_rows() -> None:
    recorded = read("0.1.0")
    fewer = [log[:-1] for log in recorded.partitions]
    assert against(recorded.folded, recorded_log.folded_rows(fewer)) != recorded.folded
