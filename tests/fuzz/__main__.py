"""``make fuzz``: the long form. A problem names its input: ``--seed`` makes it again."""

import argparse
import sys

from tests.fuzz.requests import fuzz_requests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    verdicts = fuzz_requests(arguments.inputs, arguments.seed, print)
    for kind, count in verdicts.kinds.most_common():
        print(f"{count:8,} {kind}")
    print(f"{verdicts.inputs:,} verdicts, the slowest {verdicts.slowest_s * 1000:.0f} ms")
    print("\n".join(verdicts.problems[:20]) or "no problem")
    return 1 if verdicts.problems else 0


if __name__ == "__main__":
    sys.exit(main())
