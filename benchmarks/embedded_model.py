"""``python -m benchmarks.embedded_model``: what is left of the small model's speed behind Kafka, worker and log?

Two ways to the same kind of answers, with the same threads, one after the other in each round, on a machine on which
the same stack runs all the time: the engine alone, called in a process of its own (``xllamacpp``'s own API); and a chat
with ``smollm2:`` from the request to the terminal frame. Once with one session, once with as many at a time as there
are slots. Reported are tokens per second, the median of the rounds, and their ratio; and the CPU time that the model's
process took for a token, which says the same on a machine on which others work, too. The exit code is 1 below 0.9.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import meter
from benchmarks.deployment import MATERIALIZER, WORKER, Deployment
from turnlog import Client
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.launch import launch_argv
from turnlog_workers.runners.smollm2 import packages
from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir

LEAST_RATIO = 0.9
_SLOTS = 4
_ROUNDS = 5
_ANSWER_TIMEOUT_S = 300.0
_MAX_TOKENS = 512
_RESULT = Path(__file__).parent / "results" / "embedded_model.json"
_SUBJECTS = ("whale", "ship", "storm", "lighthouse", "harbour", "island", "pirate", "mermaid")
#: The engine alone: reads a JSON list of prompts on a line, answers all of them at a time, writes tokens and seconds.
_BARE = """
import json, sys, threading, time
import xllamacpp
model, threads, slots, context, max_tokens = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.kv_unified = model, slots, slots * context, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.verbosity = 1
server = xllamacpp.Server(params)
def answer(prompt, counts):
    def take(chunk):
        if chunk.get("usage"):
            counts.append(chunk["usage"]["completion_tokens"])
    server.handle_chat_completions({"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens,
        "temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.05, "stream": True,
        "stream_options": {"include_usage": True}}, take)
print("ready", flush=True)
for line in sys.stdin:
    prompts, counts = json.loads(line), []
    began = time.monotonic()
    calls = [threading.Thread(target=answer, args=(prompt, counts)) for prompt in prompts]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    print(json.dumps([sum(counts), time.monotonic() - began, len(counts)]), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Answers that were generated at a time."""

    tokens: int
    seconds: float
    cpu_s: float  #: of the process that holds the model

    @property
    def cpu_ms_per_token(self) -> float:
        return 1000 * self.cpu_s / self.tokens

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Bare:
    """The engine alone, in a process of its own."""

    def __init__(self, threads: int, max_tokens: int) -> None:
        arguments = (packages.model_file(), threads, _SLOTS, Settings().embedded_context_tokens, max_tokens)
        self._process = subprocess.Popen(
            launch_argv([sys.executable, "-c", _BARE, *map(str, arguments)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine ended (exit code {self._process.wait()})")
        return line

    def measure(self, prompts: Sequence[str]) -> Measured:
        """All of them at a time."""
        assert self._process.stdin is not None
        began = cpu_s(self._process.pid)
        self._process.stdin.write(json.dumps(prompts) + "\n")
        self._process.stdin.flush()
        tokens, seconds, answered = json.loads(self._read())
        if answered != len(prompts):
            raise RuntimeError(f"{answered} of {len(prompts)} prompts were answered")
        return Measured(tokens=tokens, seconds=seconds, cpu_s=cpu_s(self._process.pid) - began)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def through_turnlog(client: Client, folder: Path, prompts: Sequence[str], run: str, max_tokens: int) -> Measured:
    """A chat each, in a session of its own, all at a time: from the request to the terminal frame."""

    async def chat(number: int, prompt: str) -> int:
        model = f"smollm2:?max_tokens={max_tokens}"
        turn = client.chat(f"bench-{run}-{number}", prompt, model=model, timeout_s=_ANSWER_TIMEOUT_S)
        finished = await turn.result()
        finished.raise_for_status()
        return finished.usage.output_tokens

    server = RuntimeDir(folder).server()
    used = cpu_s(server.pid) if server is not None else 0.0
    began = time.monotonic()
    tokens = await asyncio.gather(*(chat(number, prompt) for number, prompt in enumerate(prompts)))
    seconds = time.monotonic() - began
    return Measured(tokens=sum(tokens), seconds=seconds, cpu_s=cpu_s(server.pid) - used if server is not None else 0.0)


def prompts_of(number: int, count: int) -> list[str]:
    """Questions of one round: neither way finds what it has read before."""
    subjects = [_SUBJECTS[(number + one) % len(_SUBJECTS)] for one in range(count)]
    return [
        f"Story {number}-{one}: tell me a very long and detailed story about a {subject}."
        for one, subject in enumerate(subjects)
    ]


def summary(rounds: Sequence[tuple[Measured, Measured]]) -> dict[str, Any]:
    """Rounds of (bare, through Turnlog)."""
    bare, ours = ([pair[way].tokens_per_s for pair in rounds] for way in (0, 1))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return {
        "bare_tokens_per_s": round(statistics.median(bare), 2),
        "turnlog_tokens_per_s": round(statistics.median(ours), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "bare_cpu_ms_per_token": round(statistics.median(pair[0].cpu_ms_per_token for pair in rounds), 2),
        "turnlog_cpu_ms_per_token": round(statistics.median(pair[1].cpu_ms_per_token for pair in rounds), 2),
        "tokens": sum(pair[way].tokens for pair in rounds for way in (0, 1)),
    }


async def _measure(deployment: Deployment, folder: Path, options: argparse.Namespace, bare: Bare) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with Client(deployment.settings) as client:
        await through_turnlog(client, folder, ["Hello!"], "warm-up", 8)
        bare.measure(["Hello!"])
        for name, count in (("one session", 1), (f"{_SLOTS} sessions", _SLOTS)):
            rounds = []
            for number in range(options.rounds):
                deployment.check_alive()
                run = f"{count}-{number}"
                # Each way goes first in every other round: what changes on the machine meets both.
                ways = [0, 1] if number % 2 == 0 else [1, 0]
                pair: dict[int, Measured] = {}
                for way in ways:
                    prompts = prompts_of(2 * number + way + 100 * count, count)
                    if way == 0:
                        pair[0] = await asyncio.to_thread(bare.measure, prompts)
                    else:
                        pair[1] = await through_turnlog(client, folder, prompts, run, options.tokens)
                rounds.append((pair[0], pair[1]))
                _say(f"{name}, round {number + 1}: {pair[0].tokens_per_s:.1f} bare, {pair[1].tokens_per_s:.1f} Turnlog")
            found[name] = summary(rounds)
    return found


@contextlib.contextmanager
def _stack(directory: Path, bootstrap_server: str | None, variables: dict[str, str]) -> Iterator[Deployment]:
    with contextlib.ExitStack() as stack:
        pid = None
        if bootstrap_server is None:
            broker = stack.enter_context(DevBroker(directory / "broker", preferred_port=None, say=_say))
            bootstrap_server, pid = broker.bootstrap_server, broker.pid
        deployment = Deployment(bootstrap_server, directory / "deployment", pid)
        stack.enter_context(deployment.process("worker", WORKER, variables))
        stack.enter_context(deployment.process("materializer", MATERIALIZER))
        yield deployment


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round: does everything work?")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--tokens", type=int, default=_MAX_TOKENS, help=f"of an answer (default: {_MAX_TOKENS})")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="of the model")
    parser.add_argument("--bootstrap-server", help="measure on this broker (default: starts one of its own)")
    parser.add_argument("--output", type=Path, default=_RESULT)
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.tokens = 1, 16
    return options


def main(argv: Sequence[str]) -> int:
    """Measure; the exit code."""
    options = _arguments(argv)
    packages.install(_say)
    with tempfile.TemporaryDirectory(prefix="tl-bench-") as temporary:
        directory = Path(temporary)
        variables = {
            "TURNLOG_ALLOW_MODELS": "smollm2:*",
            "TURNLOG_DEFAULT_MODEL": "smollm2:",
            "TURNLOG_RUNTIME_DIR": str(directory / "run"),
            "TURNLOG_EMBEDDED_THREADS": str(options.threads),
            "TURNLOG_EMBEDDED_SLOTS": str(_SLOTS),
        }
        (directory / "run").mkdir(mode=0o700)
        with _stack(directory, options.bootstrap_server, variables) as deployment:
            bare = Bare(options.threads, options.tokens)
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    found = runner.run(_measure(deployment, directory / "run" / "smollm2-1", options, bare))
            finally:
                bare.close()
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "command": shlex.join(["python", "-m", "benchmarks.embedded_model", *argv]),
        "commit": meter.commit(),
        "machine": meter.machine(),
        "threads": options.threads,
        "cases": found,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0 if options.quick or all(case["ratio"] >= LEAST_RATIO for case in found.values()) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
