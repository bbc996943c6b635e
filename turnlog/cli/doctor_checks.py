"""What ``turnlog doctor`` looks at in a running deployment: what waits, and whether every owner answers."""

import asyncio
import contextlib
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnlog.cli.exits import explain
from turnlog.cli.lag import positions_of, summary
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.errors import EXIT_OK, RequestTimedOutError, SessionNotFoundError, TurnlogError
from turnlog_workers.base.counted import counted, duration

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog_workers.base.config import Settings

PATIENCE_S = 5.0  #: a request that waits for less is nothing to talk of
_RESEND_AFTER_S = 5.0
_AT_ONCE = 64  #: partitions that are asked at a time
_LETTERS_TIMEOUT_S = 10.0
_MAX_LETTERS = 10_000
_READYZ_TIMEOUT_S = 2.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
_ADVICE = "(`turnlog up` runs a whole stack, `turnlog worker` one worker; their logs say more)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. A check that is not ``needed`` does not stand in the way of an answer."""

    name: str
    ok: bool
    detail: str
    exit_code: int = EXIT_OK
    needed: bool = True
    otherwise: str = "missing"  #: the word for one that is neither ok nor needed


def _unknown(name: str, error: BaseException) -> Check:
    return Check(name=name, ok=False, detail=f"not known: {explain(error)[1]}", needed=False, otherwise="unknown")


async def check_lag(settings: "Settings") -> Check:
    """Do requests wait for an owner?"""
    from turnlog.client.lag import measure_lag

    try:
        found = await measure_lag(settings)
    except TurnlogError as error:
        return _unknown("lag", error)
    for_long = found.waiting > 0 and (found.oldest_age_s is None or found.oldest_age_s > PATIENCE_S)
    more = "; `turnlog lag` shows where" if for_long else ""
    return Check(name="lag", ok=not for_long, detail=f"{summary(found)}{more}", needed=False, otherwise="waits")


async def check_dead_letters(settings: "Settings") -> Check:
    """Do dead letters wait for a decision?"""
    from turnlog.client.dead_letters import LetterFilter, dead_letter_reader

    count, newest, more = 0, "", False
    try:
        async with asyncio.timeout(_LETTERS_TIMEOUT_S), dead_letter_reader(settings) as reader:
            async for letter in reader.letters(LetterFilter()):
                count, newest = count + 1, f"{letter.id}, {letter.code}"
                if count == _MAX_LETTERS:
                    more = True
                    break
    except TimeoutError:
        more = True
    except TurnlogError as error:
        return _unknown("dead letters", error)
    if not count and not more:
        return Check(name="dead letters", ok=True, detail="none waits for a decision", needed=False)
    waits = f"{counted(count, 'dead letter')} {'waits' if count == 1 else 'wait'} for a decision"
    many = " or more" if more else ""
    detail = f"{waits}{many}, the last {newest}: `turnlog dead-letters list`" if count else f"{waits}{many}"
    return Check(name="dead letters", ok=False, detail=detail, needed=False, otherwise="waits")


async def check_readiness(settings: "Settings") -> Check | None:
    """What the process whose settings these are says of itself; ``None``: they name no way to ask it."""
    if settings.metrics_port:
        host = _ANYWHERE.get(settings.metrics_host, settings.metrics_host)
        url = f"http://{host}:{settings.metrics_port}/readyz"
        ready, said = await asyncio.to_thread(_readyz, url)
        return Check(name="readiness", ok=ready, detail=f"{url}: {said}", needed=False, otherwise="unready")
    if settings.ready_file is not None:
        there = await asyncio.to_thread(settings.ready_file.exists)
        said = "is there" if there else "is not there: the process is not ready"
        return Check(
            name="readiness", ok=there, detail=f"{settings.ready_file} {said}", needed=False, otherwise="unready"
        )
    return None


def _readyz(url: str) -> tuple[bool, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_READYZ_TIMEOUT_S) as answer:
            return True, answer.read(1000).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return False, error.read(1000).decode(errors="replace").strip() or f"status {error.code}"
    except OSError as error:
        return False, f"nobody answers ({getattr(error, 'reason', None) or error})"


async def check_workers(settings: "Settings", held: Collection[int], timeout_s: float) -> Check:
    """Does the owner of every partition answer? Each is asked for a session that is not there: that leaves nothing.

    ``held``: partitions whose requests wait for a transaction, which no owner can help.
    """
    from turnlog.client.async_client import Client

    started = time.monotonic()
    silent: dict[int, TurnlogError] = {}
    try:
        async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S, resend_after_s=_RESEND_AFTER_S) as client:
            asked = sorted(set(range(client.partition_count)) - set(held))
            at_once = asyncio.Semaphore(_AT_ONCE)

            async def ask(partition: int) -> None:
                async with at_once:
                    try:
                        await client.get(nobody(partition, client.partition_count), timeout_s=timeout_s)
                    except SessionNotFoundError:
                        pass  # its owner has said so
                    except TurnlogError as error:
                        silent[partition] = error

            await asyncio.gather(*(ask(partition) for partition in asked))
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="worker", ok=False, detail=f"{sentence} {_ADVICE}", exit_code=code)
    if silent:
        missed = silent[min(silent)]
        code, sentence = explain(missed)
        if isinstance(missed, RequestTimedOutError):  # its advice is to run this
            sentence = f"nothing was heard for {timeout_s:g} s."
        which = ", ".join(str(partition) for partition in sorted(silent)[:20])
        of_all = f"{len(silent)} of {counted(len(asked), 'partition')} did not answer ({which}): {sentence} {_ADVICE}"
        return Check(name="worker", ok=False, detail=of_all, exit_code=code)
    took_ms = (time.monotonic() - started) * 1000
    waits = f"; {counted(len(set(held)), 'partition')} not asked, where a transaction is open" if held else ""
    detail = f"the owners of {counted(len(asked), 'partition')} answered within {took_ms:.0f} ms{waits}"
    return Check(name="worker", ok=True, detail=detail)


def nobody(partition: int, count: int) -> str:
    """The id of a session that is not there, of a partition."""
    from turnlog_streams.topics import partition_of

    while True:
        session_id = f"turnlog-doctor-{uuid.uuid4().hex[:12]}"
        if partition_of(session_id.encode(), count) == partition:
            return session_id


async def check_model(settings: "Settings", model: str, timeout_s: float) -> Check:
    """Does a model answer? In a session of its own, which is archived then."""
    from turnlog.client.async_client import Client

    session_id = f"turnlog-doctor-{uuid.uuid4().hex[:12]}"
    started = time.monotonic()
    try:
        async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            turn = client.chat(
                session_id, "Are you there?", model=model, timeout_s=timeout_s, resend_after_s=_RESEND_AFTER_S
            )
            try:
                (await turn.result()).raise_for_status()
                took_s = time.monotonic() - started
            finally:
                await _archive(client, session_id)
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="model", ok=False, detail=f"{model}: {sentence}", exit_code=code)
    return Check(name="model", ok=True, detail=f"{turn.view.model} answered within {duration(took_s)}")


async def _archive(client: "Client", session_id: str) -> None:
    with contextlib.suppress(TurnlogError):  # it may never have been made
        await client.archive(session_id, timeout_s=CONNECT_TIMEOUT_S)


def check_default_model(settings: "Settings") -> Check | None:
    """Is it known here that no worker would serve the default model? ``None``: it is not. Blocks."""
    from turnlog.models import default_model, refuse_unservable, run_settings

    model = default_model(settings, run_settings(settings))
    try:
        refuse_unservable(settings, model)
    except TurnlogError as error:
        code, sentence = explain(error)
        return Check(name="model", ok=False, detail=f"the default model: {sentence}", exit_code=code)
    return None


async def log_ends(settings: "Settings") -> "Mapping[int, int]":
    """Where the event log ends, by partition. Raises :class:`BrokerUnreachableError`."""
    from turnlog.client.topic_look import count_partitions, in_words, topic_reader

    topic = settings.topics.events
    (partitions,) = await count_partitions(settings, topic)
    async with topic_reader(settings) as reader, in_words(settings, topic):
        return await reader.ends(topic, partitions)


def lacks(settings: "Settings", ends: "Mapping[int, int]") -> tuple[int | None, str]:
    """How many records of the log up to there the snapshot does not have. Blocks.

    ``None``: unknown; then with the words that say why, behind its name.
    """
    path = settings.snapshot
    if not path.is_file():
        return None, "is a folder" if path.is_dir() else "is not there"
    positions, told = positions_of(settings)
    if positions is None:
        return None, f"cannot be asked: {told}"
    return sum(max(0, end - positions.get(partition, 0)) for partition, end in ends.items()), told
