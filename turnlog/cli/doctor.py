"""``turnlog doctor``: would a chat be answered? If not, what to do."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings
from turnlog.cli.exits import explain
from turnlog.errors import EXIT_OK, EXIT_USAGE, TurnlogError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted, duration
from turnlog_workers.base.extras import installed

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

SESSION = "turnlog-doctor"
_CONNECT_TIMEOUT_S = 5.0
_RESEND_AFTER_S = 5.0
_SNAPSHOT_WAIT_S = 6.0  # at least: the machine may be busy
_SNAPSHOT_POLL_S = 0.2
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. A check that is not ``needed`` does not stand in the way of an answer."""

    name: str
    ok: bool
    detail: str
    exit_code: int = EXIT_OK
    needed: bool = True
    otherwise: str = "missing"  #: the word for one that is neither ok nor needed


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The model to ask. Default: the model of a new session.", show_default=False
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", metavar="SECONDS", min=0.1, help="How long to wait for the answer.")
    ] = 30.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Check whether a chat would be answered (exit code 0), and say what to do if not.

    Sends a real chat to a session of its own, "turnlog-doctor", which grows by one turn each time.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    checks = asyncio.run(_collect(settings, model, timeout_s, quiet=json))
    failed = next((check for check in checks if not check.ok and check.needed), None)
    if json:
        document = [{"check": c.name, "ok": c.ok, "needed": c.needed, "detail": c.detail} for c in checks]
        output.print_json({"ok": failed is None, "checks": document})
    elif failed is None:
        output.print_text("A chat would be answered.")
    raise typer.Exit(failed.exit_code if failed else EXIT_OK)


async def _collect(settings: "Settings", model: str | None, timeout_s: float, *, quiet: bool) -> list[Check]:
    checks = []
    async for check in _examine(settings, model, timeout_s):
        checks.append(check)
        if not quiet:
            _print(check)
    return checks


def _print(check: Check) -> None:
    word = "ok" if check.ok else "FAILED" if check.needed else check.otherwise
    output.print_text(f"{word:<8} {check.name}: {check.detail}")


async def _examine(settings: "Settings", model: str | None, timeout_s: float) -> AsyncIterator[Check]:
    """The checks in order, up to the first that everything after it needs."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < _OLDEST_PYTHON:
        yield Check(
            name="python", ok=False, detail=f"{python}; Turnlog needs 3.11 or newer: install one", exit_code=EXIT_USAGE
        )
        return
    yield Check(name="python", ok=True, detail=python)
    for examine in (_broker, _topics):
        check = await examine(settings)
        yield check
        if not check.ok:
            return
    held = await _transactions(settings)
    if held is not None:
        yield held
    request_id = f"doctor-{time.time_ns():x}"
    check = await _worker(settings, model, request_id, timeout_s)
    yield check
    if check.ok:
        yield await _snapshot(settings, request_id, timeout_s)
    elif settings.snapshot.exists():
        age, failing = publication(settings)  # nothing was said that it could have: this is all that can be told
        detail = f"{settings.snapshot} ({age}). {failing}".rstrip(". ")
        yield Check(name="snapshot", ok=not failing, detail=detail, needed=False)


async def _broker(settings: "Settings") -> Check:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    from turnlog_workers.kafka.connections import client_options

    options = client_options(settings, "turnlog-doctor")
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=int(_CONNECT_TIMEOUT_S * 1000))
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await admin.start()
    except (KafkaError, OSError) as error:
        from turnlog_workers.kafka.unreachable import unreachable

        code, sentence = explain(unreachable(settings, error))
        return Check(name="broker", ok=False, detail=sentence, exit_code=code)
    finally:
        await admin.close()
    return Check(name="broker", ok=True, detail=f"{settings.bootstrap_server} answers")


async def _topics(settings: "Settings") -> Check:
    if not installed("worker"):
        return await _topics_of_a_client(settings)
    from turnlog_workers.kafka.topics_admin import check_topics

    try:
        state = await asyncio.to_thread(check_topics, settings, timeout_s=_CONNECT_TIMEOUT_S)
    except Exception as error:
        code, sentence = explain(error)
        return Check(name="topics", ok=False, detail=sentence, exit_code=code)
    what = "; ".join(state.problems) or f"{settings.prefix}.* are as they must be"
    return Check(name="topics", ok=True, detail=f"{what} ({counted(state.partition_count, 'partition')})")


async def _topics_of_a_client(settings: "Settings") -> Check:
    """What can be told without the libraries of a worker: are they there at all?"""
    from turnlog.client.async_client import Client

    try:
        async with Client(settings, connect_timeout_s=_CONNECT_TIMEOUT_S):
            pass
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="topics", ok=False, detail=sentence, exit_code=code)
    detail = f"{settings.prefix}.* exist (pip install 'turnlog[worker]' to check their configuration, too)"
    return Check(name="topics", ok=True, detail=detail)


async def _transactions(settings: "Settings") -> Check | None:
    """Whose open transactions keep requests waiting; ``None``: nobody's, for so long that it is worth a word."""
    if not installed("worker"):
        return None
    from turnlog_workers.base.errors import BrokerUnreachableError
    from turnlog_workers.kafka.open_transactions import HELD_S, open_transactions
    from turnlog_workers.kafka.topics_admin import list_topics

    def look() -> list[str]:
        topics = {topic.name: topic.partitions for topic in list_topics(settings, timeout_s=_CONNECT_TIMEOUT_S)}
        partitions = range(topics.get(settings.topics.requests, 0))
        found = open_transactions(settings, partitions, timeout_s=_CONNECT_TIMEOUT_S)
        return [str(held) for held in found if held.open_for_s is None or held.open_for_s >= HELD_S]

    try:
        held = await asyncio.to_thread(look)
    except BrokerUnreachableError as error:
        if type(error.__cause__).__name__.endswith("AuthorizationFailedError"):
            return None  # whoever may not read requests is not told
        held = [f"the broker does not tell of open transactions: {error}"]
    if not held:
        return None
    return Check(name="transactions", ok=False, detail="; ".join(held), needed=False, otherwise="waits")


async def _worker(settings: "Settings", model: str | None, request_id: str, timeout_s: float) -> Check:
    from turnlog.client.async_client import Client

    started = time.monotonic()
    try:
        async with Client(settings, connect_timeout_s=_CONNECT_TIMEOUT_S) as client:
            turn = client.chat(
                SESSION,
                "Are you there?",
                request_id=request_id,
                model=model,
                timeout_s=timeout_s,
                resend_after_s=_RESEND_AFTER_S,
            )
            (await turn.result()).raise_for_status()
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="worker", ok=False, detail=f"{sentence} {_ADVICE}", exit_code=code)
    took_ms = (time.monotonic() - started) * 1000
    return Check(name="worker", ok=True, detail=f"a chat with {turn.view.model} was answered in {took_ms:.0f} ms")


_ADVICE = "(`turnlog up` runs a whole stack, `turnlog worker` one worker; their logs say more)"


async def _snapshot(settings: "Settings", request_id: str, timeout_s: float) -> Check:
    """Is the turn that was just answered in the published snapshot?"""
    path = settings.snapshot
    if not installed("sql"):
        detail = "not looked at: SQL needs more than the client: pip install 'turnlog[sql]'"
        return Check(name="snapshot", ok=False, detail=detail, needed=False, otherwise="unknown")
    started = time.monotonic()
    deadline = started + min(timeout_s, max(_SNAPSHOT_WAIT_S, 3 * settings.publish_interval_s))
    problem = ""
    while True:
        if path.is_file():
            try:
                if await asyncio.to_thread(_has_turn, settings, request_id):
                    took_s = time.monotonic() - started
                    age, _ = publication(settings)
                    return Check(name="snapshot", ok=True, detail=f"{path} has that chat after {took_s:.1f} s ({age})")
                problem = "does not have that chat yet: it is out of date"
            except TurnlogError as error:
                problem = f"cannot be asked: {error}"
        else:
            problem = "is a folder" if path.is_dir() else "is not there"
        if time.monotonic() > deadline:
            age, failing = publication(settings)
            advice = failing or "SQL needs it: run `turnlog materialize`, or name another with --data-dir"
            detail = f"{path} {problem} ({age}). {advice}"
            return Check(name="snapshot", ok=False, detail=detail, needed=False)
        await asyncio.sleep(_SNAPSHOT_POLL_S)


def publication(settings: "Settings") -> tuple[str, str]:
    """How old the snapshot is, and what its materializer said of a publication that fails; empty: nothing."""
    from turnlog_workers.materializer.publications import read_state

    now = time.time()
    try:
        age = f"last change published {duration(max(0.0, now - settings.snapshot.stat().st_mtime))} ago"
    except OSError:
        age = "never published here"
    state = read_state(settings.data_dir)
    return age, state.describe(now) if state is not None else ""


def _has_turn(settings: "Settings", request_id: str) -> bool:
    from turnlog.snapshot.sql import open_snapshot, run

    with open_snapshot(settings.snapshot) as connection:
        found = run(connection, "SELECT 1 FROM turns WHERE session_id = ? AND request_id = ?", [SESSION, request_id])
    return bool(found.rows)
