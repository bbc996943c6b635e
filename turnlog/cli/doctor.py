"""``turnlog doctor``: would a chat be answered? If not, what to do."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, finite
from turnlog.cli.doctor_checks import (
    Check,
    check_dead_letters,
    check_default_model,
    check_lag,
    check_model,
    check_readiness,
    check_workers,
    lacks,
    log_ends,
)
from turnlog.cli.exits import explain
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.errors import EXIT_OK, EXIT_USAGE, TurnlogError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted, duration
from turnlog_workers.base.extras import installed

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

_SNAPSHOT_WAIT_S = 6.0  # at least: the machine may be busy
_SNAPSHOT_POLL_S = 0.2
_OLDEST_PYTHON = (3, 11)


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Have this model answer, too, in a session that is archived then.", show_default=False
        ),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s", metavar="SECONDS", min=0.1, callback=finite, help="How long to wait for the answer."
        ),
    ] = 30.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Check whether a chat would be answered (exit code 0), and say what to do if not.

    Asks the owner of every partition, in a way that leaves no session behind, and tells what waits, which dead letters
    want a decision, and how far the snapshot is.
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
    from turnlog_workers.base.logs import without_url_secrets

    checks = []
    async for found in _examine(settings, model, timeout_s):
        check = replace(found, detail=without_url_secrets(found.detail))
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
    held, partitions = await _transactions(settings)
    if held is not None:
        yield held
    yield await check_lag(settings)
    yield await check_dead_letters(settings)
    if (readiness := await check_readiness(settings)) is not None:
        yield readiness
    if not model and (unservable := await asyncio.to_thread(check_default_model, settings)) is not None:
        yield unservable
    check = await check_workers(settings, partitions, timeout_s)
    yield check
    if check.ok and model:
        yield await check_model(settings, model, timeout_s)
    if check.ok:
        yield await _snapshot(settings, timeout_s)
    elif settings.snapshot.exists():
        age, failing = publication(settings)  # nothing was said that it could have: this is all that can be told
        detail = f"{settings.snapshot} ({age}). {failing}".rstrip(". ")
        yield Check(name="snapshot", ok=not failing, detail=detail, needed=False)


async def _broker(settings: "Settings") -> Check:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    from turnlog_workers.kafka.connections import client_options

    options = client_options(settings, "turnlog-doctor")
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=int(CONNECT_TIMEOUT_S * 1000))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
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
        state = await asyncio.to_thread(check_topics, settings, timeout_s=CONNECT_TIMEOUT_S)
    except Exception as error:
        code, sentence = explain(error)
        return Check(name="topics", ok=False, detail=sentence, exit_code=code)
    what = "; ".join(state.problems) or f"{settings.prefix}.* are as they must be"
    return Check(name="topics", ok=True, detail=f"{what} ({counted(state.partition_count, 'partition')})")


async def _topics_of_a_client(settings: "Settings") -> Check:
    """What can be told without the libraries of a worker: are they there at all?"""
    from turnlog.client.async_client import Client

    try:
        async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S):
            pass
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="topics", ok=False, detail=sentence, exit_code=code)
    detail = f"{settings.prefix}.* exist (pip install 'turnlog[worker]' to check their configuration, too)"
    return Check(name="topics", ok=True, detail=detail)


async def _transactions(settings: "Settings") -> tuple[Check | None, set[int]]:
    """Whose open transactions keep requests waiting, and in which partitions.

    ``None``: nobody's, for so long that it is worth a word.
    """
    if not installed("worker"):
        return None, set()
    from turnlog_workers.base.errors import BrokerUnreachableError
    from turnlog_workers.kafka.open_transactions import HELD_S, open_transactions
    from turnlog_workers.kafka.topics_admin import list_topics

    held_partitions: set[int] = set()

    def look() -> list[str]:
        topics = {topic.name: topic.partitions for topic in list_topics(settings, timeout_s=CONNECT_TIMEOUT_S)}
        partitions = range(topics.get(settings.topics.requests, 0))
        found = open_transactions(settings, partitions, timeout_s=CONNECT_TIMEOUT_S)
        held_partitions.update(held.partition for held in found)
        return [str(held) for held in found if held.open_for_s is None or held.open_for_s >= HELD_S]

    try:
        held = await asyncio.to_thread(look)
    except BrokerUnreachableError as error:
        if type(error.__cause__).__name__.endswith("AuthorizationFailedError"):
            return None, set()  # whoever may not read requests is not told
        held = [f"the broker does not tell of open transactions: {error}"]
    if not held:
        return None, held_partitions
    return Check(
        name="transactions", ok=False, detail="; ".join(held), needed=False, otherwise="waits"
    ), held_partitions


async def _snapshot(settings: "Settings", timeout_s: float) -> Check:
    """Does the published snapshot have all that is in the log now?"""
    path = settings.snapshot
    if not installed("sql"):
        detail = "not looked at: SQL needs more than the client: pip install 'turnlog[sql]'"
        return Check(name="snapshot", ok=False, detail=detail, needed=False, otherwise="unknown")
    try:
        ends = await log_ends(settings)
    except TurnlogError as error:
        detail = f"not known: {explain(error)[1]}"
        return Check(name="snapshot", ok=False, detail=detail, needed=False, otherwise="unknown")
    return await caught_up(settings, ends, min(timeout_s, max(_SNAPSHOT_WAIT_S, 3 * settings.publish_interval_s)), path)


async def caught_up(settings: "Settings", ends: Mapping[int, int], timeout_s: float, path: Path) -> Check:
    """Wait for the snapshot to have the log up to these ends."""
    deadline = time.monotonic() + timeout_s
    while True:
        missing, told = await asyncio.to_thread(lacks, settings, ends)
        if missing == 0:
            age, _ = publication(settings)
            return Check(name="snapshot", ok=True, detail=f"{path} has all of the log ({age})")
        problem = told if missing is None else f"lacks {counted(missing, 'event')} of the log: it is out of date"
        if time.monotonic() > deadline:
            age, failing = publication(settings)
            advice = failing or "SQL needs it: run `turnlog materialize`, or name another with --data-dir"
            return Check(name="snapshot", ok=False, detail=f"{path} {problem} ({age}). {advice}", needed=False)
        await asyncio.sleep(_SNAPSHOT_POLL_S)


def publication(settings: "Settings") -> tuple[str, str]:
    """How old the snapshot is, and what its materializer said of a publication that fails; empty: nothing."""
    from turnlog_workers.materializer.publication_state import read_state

    now = time.time()
    try:
        age = f"last change published {duration(max(0.0, now - settings.snapshot.stat().st_mtime))} ago"
    except OSError:
        age = "never published here"
    state = read_state(settings.data_dir)
    return age, state.describe(now) if state is not None else ""
