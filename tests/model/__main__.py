"""``python -m tests.model``: the long form of tests/model/test_protocol.py, some minutes for each case."""

import argparse
import sys
import time

from tests.model.explore import Found, explore, walk
from tests.model.setups import ENDLESS, SOUND, SOUND_AND_LARGE, WEAKENED, WIDE


def main(argv: list[str]) -> int:
    """Search every case; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="at most, for each case")
    parser.add_argument("--walks", type=int, default=20_000, help="through the case that is too large to search")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)
    wrong = 0
    for name, setup in (SOUND | SOUND_AND_LARGE).items():
        began = time.monotonic()
        found = explore(setup, seconds=options.seconds, deep=True)
        wrong += _report(name, found, began, expected=False)
    began = time.monotonic()
    wrong += _report("random ways", walk(WIDE, walks=options.walks, seed=options.seed), began, expected=False)
    for name, setup in WEAKENED.items():
        began = time.monotonic()
        found = explore(setup, seconds=options.seconds, deep=name in ENDLESS)
        wrong += _report(name, found, began, expected=True)
    return 1 if wrong else 0


def _report(name: str, found: Found, began: float, *, expected: bool) -> bool:
    """One line, and a trace of what should not be; was it otherwise than expected?"""
    verdict = found.broken or ("nothing, and that is all" if found.complete else "nothing so far")
    print(f"{name:48} {found.states:9,} states {time.monotonic() - began:6.1f} s  {verdict}", flush=True)
    if found.broken and not expected:
        print("\n".join(f"    {step}" for step in found.trace), flush=True)
    return bool(found.broken) is not expected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
