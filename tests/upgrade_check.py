"""``python -m tests.upgrade_check [--old COMMIT]``: rolling restarts under load between an older build and this one.

The older build is a wheel, made of any commit; by default of the newest version that the changelog had before this
commit: of its tag ``vVERSION``, or else of the commit that dated it. It runs with the packages of this environment:
one that needs others says so when it starts. First everything goes back to the older build, in the order of
docs/upgrade.md (a gateway, the materializer, three workers one after the other), and then to this one, the other way
round: so each build takes over from the other what it was in the middle of, and reads what the other wrote. Somebody
chats through the gateway meanwhile. Then the checker of the fault runs judges the log, the frames, the tools and the
stores, and the session that was chatted in must hold each message once. The exit code is 1 if anything is amiss, and 2
if there is no build to compare with.
"""

import argparse
import asyncio
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2

from tests.deployment import Process, eventually_async
from tests.faults.broker import fault_broker
from tests.faults.stack import WORKERS, Outcome, Stack, run_stack
from tests.http_stack import free_port
from tests.waiting import tried

ROOT = Path(__file__).resolve().parents[1]
TURNS_BETWEEN = 5  #: that end before the next worker is restarted
_PAUSE_S = 0.2
_ASK_S = 20.0
_ACCEPTED_S = 120.0  #: a process of another build does its imports itself, beside the load


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade_check", description=__doc__)
    parser.add_argument("--old", default="", help="a commit or tag; default: the last released version's")
    parser.add_argument("--seed", default="upgrade")
    options = parser.parse_args()
    old = options.old or last_release()
    if not old:
        print("upgrade-check: no version before this one is dated in the changelog: name a commit with --old")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="turnlog-upgrade-"))
    outcome, visits = asyncio.run(rolled(folder, build(old, folder), options.seed))
    bad = outcome.bad
    told: dict[str, Any] = {"old": old, "turns": outcome.turns, "events": outcome.events, "frames": outcome.frames}
    print(
        json.dumps(told | {"over_http": visits, "requests": outcome.requests, "anomalies": len(bad), "bad": bad[:20]})
    )
    if bad:
        print(f"upgrade-check: what happened is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def last_release() -> str:
    """The tag of the newest version that the changelog had before this commit, or else the commit that dated it there;
    empty: there is none. Ends the program where the clone does not tell.
    """
    dated = re.search(r"^## \[([\d.]+)\] - ", _git("show", "HEAD^:CHANGELOG.md"), re.MULTILINE)
    if dated and (tag := _git("tag", "--list", f"v{dated[1]}")):
        return tag
    if _git("rev-parse", "--is-shallow-repository") == "true":  # where it is cut off, all seems to be new
        raise SystemExit(
            "upgrade-check: this clone is shallow; git fetch --unshallow --tags, or name a commit with --old"
        )
    return _git("log", "-1", "--format=%H", f"-S{dated.group()}", "HEAD^", "--", "CHANGELOG.md") if dated else ""


def _git(*argv: str) -> str:
    return subprocess.run(["git", *argv], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def build(commit: str, folder: Path) -> Path:
    """The packages of a commit, as its wheel has them."""
    source, packages = folder / "source", folder / "older"
    source.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    for argv in (
        ["hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        ["pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--target", str(packages), "WHEEL"],
    ):
        wheel = [str(path) for path in folder.glob("*.whl")]
        command = [part for word in argv for part in (wheel if word == "WHEEL" else [word])]
        subprocess.run([sys.executable, "-m", *command], cwd=source, check=True, stdout=sys.stderr)
    return packages


class Visitor:
    """A gateway, and somebody who chats through it. While it is restarted, he asks again with the same request id."""

    session_id = "visitor"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._port = free_port()
        self.gateway = self._start()
        self.sent: list[str] = []
        self.tried = 0  #: requests over HTTP
        self.leaving = False  #: what he is about to say is his last word

    def _start(self) -> Process:
        way = self._stack.broker.bootstrap_server
        command = self._stack.command("serve")
        return self._stack.deployment.run("gateway", command, http_port=str(self._port), bootstrap_server=way)

    async def replace_gateway(self) -> None:
        """SIGTERM, its end, and one of the build that is started now."""

        def start() -> Process:
            self.gateway = self._start()
            return self.gateway

        await self._stack.restart(self.gateway, start)

    async def chat(self) -> None:
        """One message after the other, until he leaves: he hears whether his last one was accepted."""
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=_ASK_S) as http:
            for number in itertools.count():
                if self.leaving:
                    return
                body = {"text": f"Message {number}", "request_id": f"visitor-{number}", "model": "echo:"}
                await tried(lambda body=body: self._accepted(http, body), f"message {number} is accepted", _ACCEPTED_S)  # type: ignore[misc]
                self.sent.append(str(body["text"]))
                await asyncio.sleep(_PAUSE_S)

    async def _accepted(self, http: httpx2.AsyncClient, body: dict[str, str]) -> bool | None:
        self.tried += 1
        try:
            response = await http.post(f"/v1/sessions/{self.session_id}/turns", json=body)
        except httpx2.TransportError:  # it is being restarted
            return None
        return True if response.status_code == 202 else None

    async def wrong(self) -> list[str]:
        """What is not as it must be in the session: each message once, in order, with its answer."""
        wanted = [text for text in self.sent for _ in range(2)]  # ``echo:`` says it again
        found: list[str] = []

        async def all_there() -> bool:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=_ASK_S) as http:
                found.clear()
                after = 0
                while True:
                    page = (await http.get(f"/v1/sessions/{self.session_id}/messages?after={after}")).json()
                    found.extend("".join(part["text"] for part in each["content"]) for each in page["messages"])
                    after = page.get("next_after") or 0
                    if not after:
                        return len(found) >= len(wanted)

        try:
            await eventually_async(all_there, "the visitor is answered", _ACCEPTED_S)
        except AssertionError as error:
            return [f"{error}: {len(found)} of {len(wanted)} messages"]
        return [] if found == wanted else [f"the visitor's session holds {found}, not {wanted}"]


async def rolled(folder: Path, older: Path, seed: str) -> tuple[Outcome, int]:
    """A deployment under load that goes to the older build and back; and how many messages were sent over HTTP."""
    visits = [0]

    async def there_and_back(stack: Stack) -> None:
        visitor = Visitor(stack)
        await stack.ready(visitor.gateway)
        chatting = asyncio.create_task(visitor.chat())
        try:
            stack.older = older
            await visitor.replace_gateway()
            await stack.replace_materializer()
            await _replace_workers(stack)
            stack.older = None
            await _replace_workers(stack)
            await stack.replace_materializer()
            await visitor.replace_gateway()
            await stack.turns_end(TURNS_BETWEEN)
        finally:
            visitor.leaving = True
            ended = (await asyncio.gather(chatting, return_exceptions=True))[0]
        if isinstance(ended, Exception):
            stack.outcome.problems.append(f"the visitor gave up: {ended}")
        stack.outcome.problems += await visitor.wrong()
        visitor.gateway.signal(signal.SIGTERM)
        await asyncio.to_thread(visitor.gateway.wait)
        visits[0] = len(visitor.sent)

    async with fault_broker(folder) as broker:
        outcome, _ = await run_stack(broker, folder / "run", seed, there_and_back)
    return outcome, visits[0]


async def _replace_workers(stack: Stack) -> None:
    for slot in range(WORKERS):
        await stack.turns_end(TURNS_BETWEEN)
        await stack.replace(slot)


if __name__ == "__main__":
    raise SystemExit(main())
