"""Tiny children for the supervisor's tests: each appends what happens to it to one journal file."""

import sys
from pathlib import Path

from turnlog_workers.devstack.supervisor import ChildSpec

_PROGRAM = """
import os, pathlib, signal, sys, time
name, journal, plan = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]

def note(what):
    with journal.open("a") as file:
        file.write(f"{name} {what}\\n")

def stop(number, frame):
    note("stopped")
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if plan == "stubborn" else stop)
note("started")
start_file = os.environ.get("TURNLOG_START_FILE")
while start_file and not pathlib.Path(start_file).exists():
    time.sleep(0.005)
starts = journal.read_text().splitlines().count(f"{name} started")
if plan == "broken" or (plan == "fifth" and starts % 5) or (plan == "seventh" and starts < 7):
    print(f"{name} cannot start", flush=True)
    sys.exit(3)
if plan != "never ready":
    note("ready")
    pathlib.Path(os.environ["TURNLOG_READY_FILE"]).touch()
if plan == "fifth" and starts == 5:
    sys.exit(4)
while True:
    signal.pause()
"""


def fake_child(name: str, journal: Path, plan: str = "good") -> ChildSpec:
    """A child that follows a plan.

    good: is ready, stops on SIGTERM. stubborn: as good, ignores SIGTERM. broken: ends before it is ready. never ready:
    runs without getting ready. seventh: as broken up to its seventh start, then as good. fifth: ready at every fifth
    start only; ends at once at the first of these.
    """
    return ChildSpec(name=name, argv=(sys.executable, "-c", _PROGRAM, name, str(journal), plan))
