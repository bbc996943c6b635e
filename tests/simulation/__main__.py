"""``python -m tests.simulation --seeds 0:10000 [--jobs 2]``, ``python -m tests.simulation --seed 17 -v``."""

import argparse
import contextlib
import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.simulation.run import Outcome, simulate
from tests.simulation.weakened import WEAKNESSES, weakened

PROGRESS_SEEDS = 5_000
CHUNK_ENDED = "chunk ended:"  #: and the exit code it would have had

_Task = tuple[int, str]
_Result = tuple[int, list[tuple[str, str]], list[str], int]


def _run(seed: int, weakness: str, verbose: bool = False) -> Outcome:
    if not weakness:
        return simulate(seed, verbose=verbose)
    with weakened(weakness):
        return simulate(seed, WEAKNESSES[weakness].plan, verbose=verbose)


def _prepare() -> None:
    """What is loaded stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 50)


def _one(task: _Task) -> _Result:
    seed, weakness = task
    outcome = _run(seed, weakness)
    return seed, [(anomaly.kind, str(anomaly)) for anomaly in outcome.anomalies], outcome.faults, outcome.callbacks


def _replay(seed: int, weakness: str, verbose: bool) -> int:
    outcome = _run(seed, weakness, verbose)
    print(f"seed {seed}: faults {outcome.faults}, {outcome.callbacks} callbacks, {outcome.virtual_s:.1f} s")
    for anomaly in outcome.anomalies:
        print(f"  {anomaly}")
    return 1 if outcome.anomalies else 0


@contextlib.contextmanager
def _results(tasks: Sequence[_Task], jobs: int) -> Iterator[Iterator[_Result]]:
    """What came of them, as it comes. One job needs no process of its own."""
    if jobs == 1:
        yield map(_one, tasks)
        return
    with multiprocessing.Pool(jobs, _prepare) as pool:
        yield pool.imap_unordered(_one, tasks, chunksize=20)


def _many(first: int, last: int, jobs: int, most: int, weakness: str, limit_s: float) -> int:
    started = time.monotonic()
    tasks = [(seed, weakness) for seed in range(first, last)]
    failing, kinds, done, callbacks = 0, Counter[str](), 0, 0
    with _results(tasks, jobs) as results:
        for seed, anomalies, faults, count in results:
            done += 1
            if done % PROGRESS_SEEDS == 0:
                print(f"{done} seeds, {failing} with anomalies", flush=True)
            callbacks += count
            if anomalies:
                failing += 1
                kinds.update({kind for kind, _ in anomalies})
                print(f"seed {seed}: faults {faults}", flush=True)
                for _, text in anomalies[:4]:
                    print(f"  {text}", flush=True)
                if failing >= most:
                    break
            if time.monotonic() - started > limit_s:
                break
    seconds = time.monotonic() - started
    print(
        f"{done} seeds, {failing} with anomalies {dict(kinds)}; {seconds:.1f} s, {done / seconds:.0f} seeds/s, "
        f"{callbacks / done:.0f} callbacks a seed"
    )
    return 1 if failing else 0


def _chunks(most: int, weakness: str) -> int:
    """Run the ranges that come on standard input, one a line, and say when each has ended."""
    for line in sys.stdin:
        first, last = _range(line)
        code = _many(first, last, 1, most, weakness, float("inf"))
        print(f"{CHUNK_ENDED} {code}", flush=True)
    return 0


def _range(text: str) -> tuple[int, int]:
    first, last = text.split(":")
    return int(first), int(last)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0:1000", help="FIRST:LAST, the last one not included")
    parser.add_argument("--seed", type=int, help="replay one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--chunks", action="store_true", help="take FIRST:LAST from standard input, line by line")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--most", type=int, default=20, help="stop after so many failing seeds")
    parser.add_argument("--weaken", default="", choices=["", *WEAKNESSES], help="take a defence out")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, options.weaken, options.verbose)
    if options.jobs == 1:
        _prepare()
    if options.chunks:
        return _chunks(options.most, options.weaken)
    first, last = _range(options.seeds)
    return _many(first, last, options.jobs, options.most, options.weaken, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
