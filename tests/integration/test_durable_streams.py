"""The reading of Durable Streams against the protocol's own tests: its handlers over streams in memory."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_node import run_node
from turnlog_workers.devstack.launch import launch_argv

#: What reading is about. Left out: deadlines, producers, forks, and what only writing decides.
READING = (
    *("Read Operations", "Long-Poll Operations", "Long-Poll Edge Cases", "Browser Security Headers", "HEAD Metadata"),
    *("Offset Validation", "Caching and ETag", "Chunking and Large", "Read-Your-Writes", "SSE Mode", "^ ?JSON Mode"),
    *("HEAD with Stream Closure", "Read Closed Streams", "Long-poll with Stream Closure", "SSE with Stream Closure"),
    *("Byte-Exactness", "Immutability", "State Hash"),
)
#: Messages of ours are JSON: bytes in events, as base64, are not there. Nor are deadlines of a stream.
NOT_THERE = ("base64", "Stream-SSE-Data-Encoding", "TTL")


@pytest.fixture(scope="module")
def shim() -> Iterator[str]:
    """The address of the streams in memory."""
    process = subprocess.Popen(
        launch_argv([sys.executable, "-m", "tests.durable_shim"]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(10)


def test_the_protocol_s_own_tests_of_reading_pass(shim: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    report = (
        "--reporter=json",
        f"--outputFile={result}",
        "--testTimeout=30000",
        "--retry=5",
    )  # they wait for fixed times
    said = run_node(tmp_path, "node_modules/vitest/vitest.mjs", "run", *report, "-t", "|".join(READING), BASE=shim)
    assert result.exists(), said
    found = [case for file in json.loads(result.read_text())["testResults"] for case in file["assertionResults"]]
    counted = Counter(case["status"] for case in found)
    failed = [case["fullName"] for case in found if case["status"] == "failed"]
    unexpected = [name for name in failed if not any(word in name for word in NOT_THERE)]
    assert unexpected == []
    assert (counted["passed"], len(failed)) == (112, 8), failed
