"""``python -m tests.game_day [INCIDENT ...]``: each incident on a stage of its own, until its alert is gone again.

Prints a line for each, and rows for the table in docs/runbook.md. The exit code is 1 if one was not noticed or mended.
"""

import argparse
import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.broker import SETTINGS, FaultNode
from tests.game_day.disk import SmallDisk, can_mount, small_disk
from tests.game_day.hanging import installed
from tests.game_day.incidents import INCIDENTS, Incident, Scene
from tests.game_day.stage import FACTOR, WORKERS, elapsed, on_stage
from tests.prometheus import program
from tests.secured_broker import SecuredBroker
from turnlog_workers.devstack.broker import DevBroker

#: Whoever is connected must say again who he is after so many milliseconds: a password that is changed is noticed.
SECURED = {"connections.max.reauth.ms": "3000", "allow.everyone.if.no.acl.found": "true"}
_DISK_MIB = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of an incident; seconds of a day that is hastened."""

    incident: Incident
    fired_s: float
    also: list[str]  #: other alerts that fired by then
    cleared_s: float  #: from the beginning of the mending
    answered: int  #: requests of users, all that were promised an answer

    def row(self) -> str:
        """Of the table."""
        also, name = ", ".join(self.also), self.incident.alert
        alert, fired = (f"[{name}](#{name.lower()})", f"{self.fired_s:.0f}") if name else ("none", "")
        cleared = f"{self.cleared_s:.0f}" if name else ""
        return f"| {self.incident.what} | {alert} | {fired} | {also} | {self.incident.mended} | {cleared} |"


async def play(incident: Incident, broker: FaultNode | DevBroker, folder: Path) -> Played:
    """One incident from its beginning to the end of its alerts. To be lost, the broker must be a node of its own."""
    settings, of = dict(incident.settings), dict[str, Mapping[str, str]]()
    address, disk, secured = broker.bootstrap_server, None, None
    with contextlib.ExitStack() as stack:
        if incident.small_disk:
            disk = stack.enter_context(small_disk(folder / "disk", _DISK_MIB))
            settings[incident.small_disk] = str(_place_on(disk, incident.small_disk))
        if incident.secured:
            secured = stack.enter_context(_secured(folder / "secured"))
            address, settings = secured.address, settings | secured.login("others")
            of = dict.fromkeys(WORKERS, secured.login("worker"))
        stack.enter_context(installed(folder))
        async with on_stage(address, folder / "stage", settings, of) as stage:
            steps = incident.play(Scene(stage=stage, broker=broker, disk=disk, secured=secured))
            began = time.monotonic()
            await anext(steps)
            if incident.alert:
                fired = await stage.fires(incident.alert)
            else:
                await asyncio.to_thread(stage.prometheus.wait_for_rounds)
                fired = sorted(stage.prometheus.firing())
                assert not fired, f"nobody had to be woken, and {fired} fire"
            also = [name for name in fired if name != incident.alert]
            fired_s, again = elapsed(began), time.monotonic()
            async for _ in steps:
                raise AssertionError("it goes wrong once")
            await stage.calm()
            cleared_s = elapsed(again)
            answered = await stage.all_answered()
    return Played(incident=incident, fired_s=fired_s, also=also, cleared_s=cleared_s, answered=answered)


def _place_on(disk: SmallDisk, setting: str) -> Path:
    return disk.folder / ("snapshot.duckdb" if setting == "snapshot_path" else "data")


@contextlib.contextmanager
def _secured(folder: Path) -> Iterator[SecuredBroker]:
    folder.mkdir(parents=True)
    secured = SecuredBroker(folder, SECURED)
    with secured.broker:
        secured.make_users(["worker", "others"])
        yield secured


async def play_all(incidents: list[Incident], keep: Path | None) -> int:
    """One after the other; how many did not go as they should."""
    played: list[Played] = []
    with tempfile.TemporaryDirectory(prefix="turnlog-game-day-") as name:
        folder = Path(name)
        node = FaultNode(DevBroker(folder / "broker", preferred_port=None, extra_settings=SETTINGS))
        await node.start()
        try:
            for incident in incidents:
                try:
                    one = await play(incident, node, folder / incident.name)
                except AssertionError as error:
                    _say(f"{incident.name}: {error}")
                    if keep is not None:
                        _keep(folder / incident.name / "stage", keep / incident.name)
                    continue
                played.append(one)
                _say(
                    f"{incident.name}: {incident.alert or 'no alert'} after {one.fired_s:g} s, "
                    f"gone {one.cleared_s:g} s after the "
                    f"mending began; {one.answered} requests of users answered; also {', '.join(one.also) or 'none'}"
                )
        finally:
            await node.close()
    print("\n".join(one.row() for one in played), flush=True)
    return len(incidents) - len(played)


def _keep(stage: Path, into: Path) -> None:
    shutil.copytree(
        stage, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("series", "data", "*.ready", "installed")
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """The command line."""
    by_name = {incident.name: incident for incident in INCIDENTS}
    parser = argparse.ArgumentParser(prog="python -m tests.game_day", description=__doc__)
    parser.add_argument("incidents", nargs="*", metavar="INCIDENT", help=f"default: all; {', '.join(by_name)}")
    parser.add_argument("--keep", type=Path, help="keep logs of what did not go as it should here")
    options = parser.parse_args()
    if program("prometheus") is None:
        parser.error("there is no Prometheus here: scripts/prometheus.sh brings one where it can")
    unknown = [name for name in options.incidents if name not in by_name]
    if unknown:
        parser.error(f"no such incident: {', '.join(unknown)}")
    chosen = [by_name[name] for name in options.incidents or by_name]
    left_out = [] if can_mount() else [incident for incident in chosen if incident.small_disk]
    for incident in left_out:
        _say(f"{incident.name}: left out, only root on Linux may make a small disk")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is one of the incidents
    _say(f"everything that waits in the rules waits {FACTOR} times shorter")
    return 1 if asyncio.run(play_all([each for each in chosen if each not in left_out], options.keep)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
