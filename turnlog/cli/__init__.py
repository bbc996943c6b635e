"""The command line: ``turnlog``."""

import sys

from turnlog.cli.intruders import check


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    # Before anything of ours is imported: with a foreign package in its place, that would end in a traceback.
    problem = check()
    if problem is not None and "doctor" not in sys.argv[1:2]:
        print(f"turnlog: {problem}", file=sys.stderr)
        sys.exit(2)
    from turnlog.cli.app import app

    app(prog_name="turnlog")
