"""A sealed prefix on a real broker: its texts stand nowhere in the log, and an erased session's nowhere at all."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.deployment import START_S, Deployment
from tests.waiting import eventually
from turnlog import Client, RequestRefusedError
from turnlog.cli.app import app
from turnlog.snapshot.listing import SessionFilter, list_sessions
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.sealing import SEALED
from turnlog_workers.kafka.topics_admin import TopicsError, init_topics
from turnlog_workers.materializer.moments import Until, file_as_of, parse_until
from turnlog_workers.materializer.verification import verify

GONE, KEPT = "Xylographer", "Zymurgist"  #: in every text of a session that is erased, and of one that is not


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    quick = {"seal_texts": "true", "publish_interval_s": "0.2", "store_commit_events": "1"}
    with Deployment(broker.bootstrap_server, tmp_path, partitions=2, **quick) as deployment:
        deployment.make_topics()
        yield deployment


def files_with(folder: Path, word: str) -> list[str]:
    """Those whose bytes hold it."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # files come and go
            if word.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return sorted(found)


async def records_with(deployment: Deployment, topic: str, word: str) -> int:
    """How many say it in the clear, in whichever part."""
    found = 0
    for record in await deployment.dump(topic):
        parts = [record.key, record.value, *(content for _, content in record.headers)]
        found += any(word.encode() in part for part in parts if part)
    return found


def erase_by_user(deployment: Deployment, user: str) -> dict[str, dict[str, int]]:
    """As an operator does it; the receipts, by session."""
    settings = deployment.settings
    where = ["-b", settings.bootstrap_server, "--prefix", settings.prefix, "--data-dir", str(settings.data_dir)]
    words = ["sessions", "erase", "--meta", f"user_id={user}", "--yes", "--json", *where]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    receipts: dict[str, dict[str, int]] = json.loads(result.stdout)
    return receipts


def before_now(deployment: Deployment) -> Until:
    """This moment; a file of it is made."""
    moment = parse_until(["0s"], now=datetime.now(UTC))
    file_as_of(deployment.settings, moment)
    return moment


def about(word: str) -> dict[str, object]:
    return {"title": f"{word} title", "instructions": f"Be a {word}.", "metadata": {"user_id": word}}


async def test_what_is_erased_stands_nowhere_and_the_rest_is_as_it_was(deployment: Deployment) -> None:
    settings, data = deployment.settings, deployment.settings.data_dir
    worker, materializer = deployment.worker(), deployment.start("materializer", "materialize")
    await eventually(lambda: worker.ready and materializer.ready, "both are ready", START_S)
    async with Client(settings) as client:
        for word in (GONE, KEPT):
            new = NewSession(**about(word))  # type: ignore[arg-type]
            said = await client.chat(word.lower(), f"Hello {word}", new_session=new).result()
            assert word in said.text  # the echo of a text that the log has sealed
        made = await client.create("room", **about(GONE))  # type: ignore[arg-type]
        await client.chat(made.session_id, f"In a room, {GONE}").result()
        assert await records_with(deployment, deployment.topics.events, GONE) == 0
        assert await records_with(deployment, deployment.topics.requests, GONE) > 0  # it is said in the clear there
        events = await deployment.dump(deployment.topics.events)
        assert sum(name == SEALED for record in events for name, _ in record.headers) > 8
        await eventually(
            lambda: len(files_with(data, GONE)) >= 3, "stores, analysts' file and snapshot have it", START_S
        )

        mine = SessionFilter(metadata={"user_id": GONE})
        in_snapshot = lambda: len(list_sessions(settings.snapshot, mine).sessions) == 2  # noqa: E731
        await eventually(in_snapshot, "the snapshot has both", START_S)
        now = await asyncio.to_thread(before_now, deployment)
        assert any("as-of" in name for name in files_with(data, GONE))
        receipts = await asyncio.to_thread(erase_by_user, deployment, GONE)
        assert set(receipts) == {GONE.lower(), made.session_id}
        assert [kept_ms // 86_400_000 for kept_ms in receipts[made.session_id].values()] == [
            14,
            8,
            37,
            1,
        ]  # segments go as a whole
        receipt = await client.erase(made.session_id)
        assert asdict(receipt) == receipts[made.session_id] == receipts[GONE.lower()]
        with pytest.raises(RequestRefusedError, match="was erased") as refused:
            await client.chat(GONE.lower(), "Are you there?").result()
        assert refused.value.code == "erased"
        await eventually(lambda: files_with(data, GONE) == [], "no file has it any more", 2 * START_S)
        assert KEPT.encode() in (await asyncio.to_thread(file_as_of, settings, now)).read_bytes()
        assert files_with(data, GONE) == []
        assert (await client.history(KEPT.lower())).messages[0].content[0].text == f"Hello {KEPT}"  # type: ignore[index]
        assert (await asyncio.to_thread(verify, settings, settings.snapshot)).difference is None

        keys = {record.key.decode(): record.value for record in await deployment.dump(f"{settings.prefix}.keys")}
        subjects = (f"session:{GONE.lower()}", f"session:{made.session_id}", f"channel:room:{made.session_id}")
        for subject in subjects:
            assert keys[subject] is not None
            assert [value for name, value in keys.items() if name.startswith(f"{subject}/")] == [None]

        assert await asyncio.to_thread(worker.stop) == 0
        other = deployment.worker("w1", data_dir=str(deployment.folder / "another"))  # from the log alone
        await eventually(lambda: other.ready, "another worker is ready", START_S)
        assert (await client.get(KEPT.lower())).title == f"{KEPT} title"
        assert await client.erase(GONE.lower()) == receipt
        with pytest.raises(RequestRefusedError, match="was erased"):
            await client.history(made.session_id)
        await client.chat("room-later", "Hello").result()
        assert files_with(deployment.folder / "another", GONE) == []
    erased = [event for name in (GONE.lower(), made.session_id) for event in await deployment.events_of(name)]
    assert sum(isinstance(event.payload, ev.SessionErased) for event in erased) == 2


def test_a_prefix_that_was_made_in_the_clear_is_not_sealed_later(broker: DevBroker, tmp_path: Path) -> None:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        with pytest.raises(TopicsError, match="chosen when a prefix is made"):
            init_topics(deployment.settings.model_copy(update={"seal_texts": True}))
