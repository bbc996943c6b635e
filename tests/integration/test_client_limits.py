"""What a client's request meets that the broker refuses, and a broker that is away: its own error, in its own time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.deployment import Deployment
from turnlog import BrokerUnreachableError, Client, RequestRefusedError, RequestTimedOutError, SyncClient, UsageError
from turnlog_workers.devstack.broker import DevBroker

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("limits")
    sizes = {"max_request_bytes": str(4 * MIB), "max_batch_bytes": str(6 * MIB)}
    with Deployment(broker.bootstrap_server, folder, partitions=1, **sizes) as deployment:
        deployment.make_topics()
        deployment.limit_topic(deployment.topics.requests, MIB)
        yield deployment


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment.settings) as client:
        yield client


async def test_the_send_after_a_refused_one_works(client: Client, deployment: Deployment) -> None:
    for _ in range(2):
        with pytest.raises(RequestRefusedError, match=rf"it has \d+ bytes; .* max.message.bytes is {MIB}\)") as caught:
            await client.enqueue("web-1", "x" * 2 * MIB)
        assert caught.value.code == "too_long"
        await client.enqueue("web-1", "Hi")
    with pytest.raises(RequestRefusedError, match=rf"it has \d+ bytes; at most {4 * MIB} are sent"):
        await client.enqueue("web-1", "x" * 5 * MIB)
    await client.enqueue("web-1", "Hi")


async def test_what_is_under_way_with_a_refused_one_is_stored_all_the_same(
    client: Client, deployment: Deployment
) -> None:
    before = len(await deployment.dump(deployment.topics.requests))
    texts = ["x" * (2 * MIB if number in (7, 20) else 100 * number) for number in range(40)]
    results = await asyncio.gather(
        *(client.enqueue("web-1", text, request_id=f"u{number}") for number, text in enumerate(texts)),
        return_exceptions=True,
    )
    refused = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert refused == [7, 20], results
    assert all(isinstance(results[number], RequestRefusedError) for number in refused)
    assert len(await deployment.dump(deployment.topics.requests)) >= before + 38


async def test_a_batch_of_short_ones_that_is_refused_together(broker: DevBroker, tmp_path: Path) -> None:
    """Each is judged by itself, also where they travel together."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        deployment.limit_topic(deployment.topics.requests, 3000)
        async with Client(deployment.settings) as client:
            results = await asyncio.gather(
                *(client.enqueue("web-1", "x" * (5000 if number == 5 else 500)) for number in range(20)),
                return_exceptions=True,
            )
        assert [number for number, result in enumerate(results) if isinstance(result, BaseException)] == [5]
        assert isinstance(results[5], RequestRefusedError)
        assert len(await deployment.dump(deployment.topics.requests)) >= 19


async def test_an_id_that_no_answer_could_carry_is_not_sent(client: Client) -> None:
    for request_id in ("", "r" * 257, "a\0b"):
        with pytest.raises(UsageError, match="request_id: 1 to 256 characters, no NUL"):
            await client.get("web-1", request_id=request_id)


TIMEOUT_S = 2.0
VERBS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "create": lambda client: client.create("web", timeout_s=TIMEOUT_S),
    "resolve": lambda client: client.resolve("web", timeout_s=TIMEOUT_S),
    "rotate": lambda client: client.rotate("web", timeout_s=TIMEOUT_S),
    "archive": lambda client: client.archive("web-1", timeout_s=TIMEOUT_S),
    "active": lambda client: client.active("web", timeout_s=TIMEOUT_S),
    "get": lambda client: client.get("web-1", timeout_s=TIMEOUT_S),
    "history": lambda client: client.history("web-1", timeout_s=TIMEOUT_S),
    "messages": lambda client: anext(aiter(client.messages("web-1", timeout_s=TIMEOUT_S))),
    "compact": lambda client: client.compact("web-1", timeout_s=TIMEOUT_S),
    "cancel": lambda client: client.cancel("web-1", timeout_s=TIMEOUT_S),
    "reset_runner": lambda client: client.reset_runner("web-1", timeout_s=TIMEOUT_S),
    "chat": lambda client: client.chat("web-1", "Hi", timeout_s=TIMEOUT_S).result(),
    "chat, read": lambda client: anext(client.chat("web-1", "Hi", timeout_s=TIMEOUT_S)),
    "chat, its result": lambda client: client.chat("web-1", "Hi").result(timeout_s=TIMEOUT_S),
    "chat, a long one": lambda client: client.chat("web-1", "Hi", timeout_s=TIMEOUT_S, resend_after_s=0.3).result(),
    "enqueue": lambda client: client.enqueue("web-1", "Hi"),
    "set_setting": lambda client: client.set_setting("default-model", "echo:"),
    "get_settings": lambda client: client.get_settings(),
}
_SLACK_S = 15.0  #: for a busy machine; any other limit is 30 s or more


@pytest.mark.timeout(300)
async def test_every_verb_keeps_its_time_limit_while_the_broker_is_away(tmp_path: Path) -> None:
    with (
        DevBroker(tmp_path / "broker", preferred_port=None) as broker,
        Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment,
    ):
        deployment.make_topics()
        async with (
            Client(deployment.settings, send_timeout_s=TIMEOUT_S, connect_timeout_s=TIMEOUT_S) as client,
            Client(deployment.settings) as long,  # its own limits are far above those of the verbs
        ):
            without_await = await asyncio.to_thread(SyncClient(deployment.settings).open)
            broker.kill()

            async def took_s(name: str) -> float:
                began = time.monotonic()
                own = name in ("enqueue", "set_setting", "get_settings")
                with pytest.raises((RequestTimedOutError, BrokerUnreachableError)):
                    await VERBS[name](client if own else long)
                return time.monotonic() - began

            took = dict(zip(VERBS, await asyncio.gather(*map(took_s, VERBS)), strict=True))
            took["without await"] = await asyncio.to_thread(without_await_took_s, without_await)
            await asyncio.to_thread(without_await.close)
        assert {name: round(s, 1) for name, s in took.items() if s > TIMEOUT_S + _SLACK_S} == {}


def without_await_took_s(client: SyncClient) -> float:
    """The longer one of two verbs."""
    began = time.monotonic()
    with pytest.raises(RequestTimedOutError, match="nor has the broker acknowledged it"):
        client.get("web-1", timeout_s=TIMEOUT_S)
    between = time.monotonic()
    with pytest.raises(RequestTimedOutError):
        client.chat("web-1", "Hi", timeout_s=TIMEOUT_S).result()
    return max(between - began, time.monotonic() - between)
