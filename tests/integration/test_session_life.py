"""What outlives a worker and what changes while it runs: idempotency keys, run-time settings, runners, limits."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import START_S, Deployment, Process
from tests.waiting import eventually
from turnlog import Client, RequestConflictError, RequestRefusedError, UsageError
from turnlog_schemas import events as ev
from turnlog_schemas.frames import TextDelta
from turnlog_schemas.parts import NewSession
from turnlog_workers.devstack.broker import DevBroker

SETTING_TIMEOUT_S = 3.0  #: a change is followed within a second; the rest is for a busy machine


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path) as deployment:
        deployment.make_topics()
        yield deployment


async def serving(worker: Process) -> Process:
    """The worker, once it serves."""
    await eventually(lambda: worker.ready, f"{worker.name} is ready", START_S)
    return worker


async def started_turns(deployment: Deployment, session_id: str) -> int:
    """How often the model was called for a session, attempts counted."""
    return sum(isinstance(event.payload, ev.TurnStarted) for event in await deployment.events_of(session_id))


async def test_keys_survive_a_killed_worker_and_another_one_s_empty_folder(deployment: Deployment) -> None:
    """The second worker starts from the log alone; the third where the second has stopped."""
    worker = await serving(deployment.worker("w0", data_dir=str(deployment.folder / "first")))
    async with Client(deployment.settings, resend_after_s=2.0) as client:
        made = await client.create("keys", title="T", metadata={"a": "b"}, request_id="create")
        resolved = await client.resolve("keys", request_id="resolve")
        rotated = await client.rotate("keys", title="R", request_id="rotate")
        archived = await client.archive(rotated.session_id, "keys", request_id="archive")
        turn = await client.chat("chatted", "Hello", request_id="chat").result()
        with pytest.raises(RequestRefusedError) as refused:
            await client.cancel("chatted", request_id="cancel")
        for kill, name in ((True, "second"), (False, "second")):
            await asyncio.to_thread(worker.kill if kill else worker.stop)
            worker = await serving(deployment.worker("w1", data_dir=str(deployment.folder / name)))
            again = await client.create("keys", title="T", metadata={"a": "b"}, request_id="create")
            assert (again.session_id, again.created) == (made.session_id, True)
            again = await client.resolve("keys", request_id="resolve")
            assert (again.session_id, again.created) == (resolved.session_id, False)
            again = await client.rotate("keys", title="R", request_id="rotate")
            assert (again.session_id, again.created) == (rotated.session_id, True)
            assert await client.archive(rotated.session_id, "keys", request_id="archive") == archived
            assert (await client.chat("chatted", "Hello", request_id="chat").result()).text == turn.text
            with pytest.raises(RequestRefusedError) as refused_again:
                await client.cancel("chatted", request_id="cancel")
            assert (refused_again.value.code, refused_again.value.reason) == (refused.value.code, refused.value.reason)
            with pytest.raises(RequestConflictError):
                await client.rotate("keys", title="other", request_id="rotate")
            with pytest.raises(RequestConflictError):
                await client.chat("chatted", "Something else", request_id="chat").result()
        assert await started_turns(deployment, "chatted") == 1
    opened = [e for events in (await deployment.accepted()).values() for e in events]
    assert sum(isinstance(event.payload, ev.ChannelSessionOpened) for event in opened) == 2


async def test_keys_survive_eviction(deployment: Deployment) -> None:
    """The session leaves memory with its runner. That the runner is gone shows: a new one is of the new setting."""
    idle_s = 1.0
    await serving(deployment.worker(idle_timeout_s=str(idle_s), store_commit_interval_s="0.2"))
    async with Client(deployment.settings) as client:
        await client.chat("cold", "Hello", request_id="first").result()
        made = await client.create("cold-channel", request_id="made")
        await client.set_setting("runner/echo", "script")
        evicted_at = time.monotonic() + 2 * idle_s + 2.0  # it looks once a second; nothing outside tells
        await eventually(lambda: time.monotonic() > evicted_at, "it is idle for long enough")
        again = await client.chat("cold", "Hello", request_id="first").result()
        assert again.text == "Hello"
        assert await started_turns(deployment, "cold") == 1
        assert (await client.create("cold-channel", request_id="made")).session_id == made.session_id
        with pytest.raises(RequestConflictError):
            await client.chat("cold", "Bye", request_id="first").result()
        assert (await client.chat("cold", "Bye").result()).text != "Bye", "its runner was not closed"
        assert (await client.get("cold")).messages == 4


async def test_default_models_are_followed_within_a_second(deployment: Deployment) -> None:
    workers = [deployment.worker(f"w{number}") for number in range(2)]
    for worker in workers:
        await serving(worker)
    async with Client(deployment.settings) as client:
        numbers = iter(range(10_000))

        async def model_of(session_id: str, model: str | None = None, channel: str | None = None) -> str:
            turn = client.chat(session_id, "Hello", model=model, new_session=NewSession(channel=channel))
            await turn.result()
            return turn.view.model

        async def follows(channel: str, model: str) -> float:
            """How long it takes until new sessions in every partition have the model."""
            began = time.monotonic()
            for partition in range(3):
                while (found := await model_of(f"{partition}-{next(numbers)}", channel=channel)) != model:
                    assert time.monotonic() < began + SETTING_TIMEOUT_S, f"still {found}"
            return time.monotonic() - began

        one, two, three = "script:1?words=1&tools=0", "script:2?words=1&tools=0", "script:3?words=1&tools=0"
        own = (await client.create("mine", model=three)).session_id
        assert await model_of("live") == "echo:"
        await client.set_setting("default-model", one)
        await follows("web", one)
        await client.set_setting("default-model/web", two)
        await follows("web", two)
        await follows("other", one)
        assert await model_of(own) == three, "the session's own"
        assert await model_of(own, "echo:") == "echo:", "the request's"
        assert await client.get_settings() == {"default-model": one, "default-model/web": two}
        await client.set_setting("default-model/web", None)
        await follows("web", one)
        await client.set_setting("default-model", None)
        await follows("web", "echo:")
        assert await client.get_settings() == {}
        with pytest.raises(UsageError, match="default-model/CHANNEL"):
            await client.set_setting("default_model", one)

        # A worker that starts later reads them before it serves.
        await client.set_setting("default-model", two)
        for worker in workers:
            await asyncio.to_thread(worker.stop)
        await serving(deployment.worker("w2"))
        assert await model_of("later") == two


async def test_a_live_runner_stays_until_its_session_is_reset(deployment: Deployment) -> None:
    await serving(deployment.worker())
    async with Client(deployment.settings) as client:
        for session_id in ("kept", "reset"):
            assert (await client.chat(session_id, "Hello").result()).text == "Hello"
        await client.set_setting("runner/echo", "script")
        began = time.monotonic()
        number = 0
        while (await client.chat(f"new-{number}", "Hello").result()).text == "Hello":
            assert time.monotonic() < began + SETTING_TIMEOUT_S, "the worker does not follow"
            number += 1
        info = await client.reset_runner("reset")
        assert (info.session_id, info.messages) == ("reset", 2)
        assert (await client.chat("kept", "Hello").result()).text == "Hello"
        assert (await client.chat("reset", "Hello").result()).text != "Hello"
        async with client.chat("reset", "Hello", model="script:s?tools=0&words=50&delta_ms=20") as turn:
            async for reply in turn:
                if isinstance(reply.frame, TextDelta):
                    break
            await client.reset_runner("reset")  # a turn that runs is not touched
            assert (await turn.result()).status == "completed"


async def test_a_turn_has_so_many_steps_and_so_much_time(deployment: Deployment) -> None:
    await serving(deployment.worker(max_turn_messages="4", turn_timeout_s="2"))
    async with Client(deployment.settings) as client:
        steps = await client.chat("steps", "Go", model="script:s?tools=3&words=2").result()
        assert (steps.status, steps.code) == ("failed", "too_many_steps")
        roles = [message.role async for message in client.messages("steps")]
        assert roles == ["user", "assistant", "tool", "assistant", "tool"], "no call is left without a result"
        late = await client.chat("late", "Go", model="script:s?tools=0&words=9&hang_s=60").result()
        assert (late.status, late.code) == ("failed", "turn_timeout")
        assert "2 s" in late.reason
        assert (await client.chat("late", "Hello", model="echo:").result()).text == "Hello"


async def test_a_model_that_the_workers_do_not_allow_is_passed_over(deployment: Deployment) -> None:
    worker = deployment.worker(allow_models="echo:*")
    await serving(worker)
    async with Client(deployment.settings) as client:  # its own list allows script:, the worker's does not
        for name in ("default-model", "fast-model", "default-model/web"):
            await client.set_setting(name, "script:1?words=1&tools=0")
            await eventually(lambda name=name: f"{name} is ignored" in worker.log, "the worker says so")
        turn = client.chat("web-1", "Hello")
        assert (await turn.result()).text == "Hello"
        assert turn.view.model == "echo:"
        with pytest.raises(UsageError, match=r"'gpt:4' is not allowed here"):
            await client.set_setting("fast-model", "gpt:4")
