"""The benchmark runs: cases once, small, on the run's broker; with BENCH_SMOKE=all every one (``make bench-smoke``).

Its figures are not looked at.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import BARS
from turnlog_workers.devstack.broker import DevBroker

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 400.0
EVERY_ONE = os.environ.get("BENCH_SMOKE") == "all"
OF_LOAD = ("worker", "bare-batched", "latency-json")
#: Not ``steady``: it is the latency case, and a build before is not at hand.
OF_SCALE = ("channel", "takeover", "rebuild", "analysts")
OF_HTTP = ("http-streams",)
OF_TWO = ("speedup", "up_ratio", "worker_ratio")  #: against a build before
MAY_BE_NOTHING = ("calls_lost", "beyond_timeout_p95_s")
if EVERY_ONE:
    OF_LOAD = (*OF_LOAD, "worker+materializer", "worker-scraped", "bare-sent", "bare-confirmed")
    OF_LOAD = (*OF_LOAD, "latency-avro", "latency-bare")
    OF_SCALE = (*OF_SCALE, "long-session", "idle", "start", "restart", "streams", "streams-3000", "streams-5000")
    OF_SCALE = (*OF_SCALE, "open-turns", "neighbours", "host", "rolling")


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_every_case_comes_to_a_figure(broker: DevBroker, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--bootstrap-server", broker.bootstrap_server),
            *("--turns", "100", "--seconds", "1", "--output", str(output)),
            *("--cases", ",".join((*OF_LOAD, *OF_SCALE, *OF_HTTP))),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    cases = {case["name"]: case["summary"] for case in json.loads(output.read_text())["cases"]}
    for name, summary in cases.items():
        assert summary["cpu_ms_per_turn"]["median"] > 0, name
        if name != "latency-bare":
            figure = "first_delta_p50_ms" if name.startswith("latency") else "turns_per_s"
            assert summary[figure]["min"] > 0, name
    assert "| a worker, Avro requests |" in done.stdout
    assert set(cases) == set(OF_LOAD)
    scale = {name: entry["result"] for name, entry in json.loads((tmp_path / "scale.json").read_text()).items()}
    assert set(scale) == set(OF_SCALE)
    assert scale["channel"]["chat_records_ratio"] == 1.0  # a count: it is the same for channels of any size
    measured = [bar for bar in BARS if bar.case in OF_SCALE and bar.figure not in (*OF_TWO, *MAY_BE_NOTHING)]
    assert all(scale[bar.case][bar.figure] > 0 for bar in measured)
    streams = json.loads((tmp_path / "http.json").read_text())["http-streams"]["result"]
    assert streams["lost"] == 0
    assert streams["frames"] == 200
    assert streams["p99_ms"] >= streams["p50_ms"] > 0
    assert {path.stem for path in tmp_path.glob("bench-*.svg")} >= {"bench-channel-time", "bench-takeover"}


def test_a_model_s_stream_comes_to_figures(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    arguments = "--rounds 1 --streams 2 --pieces 60 --interval-ms 1 --output"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.model_stream", *arguments.split(), str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode in (0, 1), done.stderr
    readers = json.loads(output.read_text())["readers"]
    names = ("bare", "http", "openai", "anthropic", "openai through its library")
    assert {name: figures["pieces"] for name, figures in readers.items()} == dict.fromkeys(names, 80)
