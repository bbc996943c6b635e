"""``python -m tests.simulation --seeds 0:10000 [--jobs 2]``, ``python -m tests.simulation --seed 17 -v``."""

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation.run import Outcome, simulate
from tests.simulation.weakened import WEAKNESSES, weakened

PROGRESS_SEEDS = 5_000


def _run(seed: int, weakness: str, verbose: bool = False) -> Outcome:
    if not weakness:
        return simulate(seed, verbose=verbose)
    with weakened(weakness):
        return simulate(seed, WEAKNESSES[weakness].plan, verbose=verbose)


def _prepare() -> None:
    """What is loaded stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _one(task: tuple[int, str]) -> tuple[int, list[tuple[str, str]], list[str], int]:
    seed, weakness = task
    outcome = _run(seed, weakness)
    return seed, [(anomaly.kind, str(anomaly)) for anomaly in outcome.anomalies], outcome.faults, outcome.callbacks


def _replay(seed: int, weakness: str, verbose: bool) -> int:
    outcome = _run(seed, weakness, verbose)
    print(f"seed {seed}: faults {outcome.faults}, {outcome.callbacks} callbacks, {outcome.virtual_s:.1f} s")
    for anomaly in outcome.anomalies:
        print(f"  {anomaly}")
    return 1 if outcome.anomalies else 0


def _many(first: int, last: int, jobs: int, most: int, weakness: str, limit_s: float) -> int:
    started = time.monotonic()
    tasks = [(seed, weakness) for seed in range(first, last)]
    failing, kinds, done, callbacks = 0, Counter[str](), 0, 0
    with multiprocessing.Pool(jobs, _prepare) as pool:
        for seed, anomalies, faults, count in pool.imap_unordered(_one, tasks, chunksize=20):
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
        pool.terminate()
    seconds = time.monotonic() - started
    print(
        f"{done} seeds, {failing} with anomalies {dict(kinds)}; {seconds:.1f} s, {done / seconds:.0f} seeds/s, "
        f"{callbacks / done:.0f} callbacks a seed"
    )
    return 1 if failing else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0:1000", help="FIRST:LAST, the last one not included")
    parser.add_argument("--seed", type=int, help="replay one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--most", type=int, default=20, help="stop after so many failing seeds")
    parser.add_argument("--weaken", default="", choices=["", *WEAKNESSES], help="take a defence out")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, options.weaken, options.verbose)
    first, last = (int(part) for part in options.seeds.split(":"))
    return _many(first, last, options.jobs, options.most, options.weaken, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
