"""Tokens of a token endpoint: asked for once, renewed in time, within bounds, and no secret in any sentence."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.token_server import CLIENT_SECRET, TokenServer
from turnlog.cli.exits import explain
from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.kafka import login
from turnlog_workers.kafka.login import TokenProvider, sasl_token
from turnlog_workers.kafka.refusal import refusal
from turnlog_workers.kafka.token_endpoint import TokenEndpoint, TokenEndpointError

FAILURES = [(503, {}), (429, {}), (0, None)]


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with TokenServer(life_s=100) as server:
        yield server


class Clock:
    def __init__(self) -> None:
        self.now, self.pauses = 1000.0, list[float]()

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s


def endpoint(url: str, clock: Clock, secret: str = CLIENT_SECRET, **options: str) -> TokenEndpoint:
    return TokenEndpoint(url, "me: +", lambda: secret, now=lambda: clock.now, sleep=clock.sleep, **options)


def test_a_token_is_asked_for_once_and_again_before_it_runs_out(server: TokenServer) -> None:
    clock = Clock()
    tokens = endpoint(server.url, clock, scope="kafka all")
    first = tokens.token()
    clock.now += 79
    assert tokens.token() == first
    assert server.asked == [
        ("me: +", CLIENT_SECRET, {"grant_type": ["client_credentials"], "scope": ["kafka all"]}),
    ]
    clock.now += 2
    server.answers = [(200, {"access_token": "second", "expires_in": 50})]
    assert tokens.token() == "second"
    clock.now += 41
    server.answers = [(200, {"access_token": "third"})]
    assert tokens.token() == "third"
    clock.now += 239
    assert tokens.token() == "third"  # no life was said


@pytest.mark.parametrize(("said", "life_s"), [("50", 50), ("50.0", 50), ("0.5", 0.5), (50.0, 50)])
def test_a_life_may_be_said_as_text(server: TokenServer, said: object, life_s: float) -> None:
    clock = Clock()
    tokens = endpoint(server.url, clock)
    server.answers = [(200, {"access_token": "first", "expires_in": said})]
    assert tokens.token() == "first"
    clock.now += 0.79 * life_s
    assert tokens.token() == "first"
    clock.now += 0.02 * life_s
    assert tokens.token() != "first"


def test_an_address_is_named_without_what_may_be_a_key(server: TokenServer) -> None:
    server.answers = [(200, [])]
    with pytest.raises(TokenEndpointError, match=r"/token\?\[secret\] answers") as caught:
        endpoint(f"{server.url}?api=hunter2", Clock()).token()
    assert "hunter2" not in explain(caught.value)[1]
    assert explain(RuntimeError("no https://me@host/x?hunter2"))[1].startswith(
        "Unexpected RuntimeError: no https://[secret]@host/x?[secret] ("
    )


async def test_an_endpoint_that_hangs_takes_no_thread_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def hangs(_: Settings) -> str:
        asked.release()
        assert go_on.wait(60)
        return "a-token"

    monkeypatch.setattr(login, "sasl_token", hangs)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    waiting = [asyncio.create_task(TokenProvider(Settings()).token()) for _ in range(20)]
    try:
        for _ in range(2):
            assert await asyncio.to_thread(asked.acquire, timeout=60)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 60) == "done"
    finally:
        go_on.set()
    assert await asyncio.gather(*waiting) == ["a-token"] * 20


async def test_a_secret_that_cannot_be_read_for_a_moment_ends_nothing(server: TokenServer, tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "secret"

    def secret() -> str:
        if not file.exists():
            raise SettingsError("the file is not there")
        return file.read_text()

    tokens = TokenEndpoint(server.url, "me", secret, now=lambda: clock.now, sleep=clock.sleep)
    with pytest.raises(SettingsError):
        tokens.token()
    file.write_text(CLIENT_SECRET)
    first = tokens.token()
    file.unlink()
    clock.now += 81
    assert tokens.token() == first, "it is valid for some time"
    settings = Settings(
        bootstrap_server="kafka:9092",
        security_protocol="SASL_SSL",
        sasl_mechanism="OAUTHBEARER",
        sasl_token_file=str(tmp_path / "token"),
    )
    with pytest.raises(TokenEndpointError, match="cannot be read"):  # as a client that runs hears it: try again
        await TokenProvider(settings).token()


@pytest.mark.parametrize("failure", FAILURES)
def test_an_endpoint_that_is_away_is_asked_three_times(server: TokenServer, failure: tuple[int, Any]) -> None:
    clock = Clock()
    tokens = endpoint(server.url, clock)
    server.answers = [failure, failure]
    assert tokens.token()
    assert (len(server.asked), clock.pauses) == (3, [0.2, 0.4])
    server.answers = [failure] * 4
    clock.now += 85  # it is to be renewed, and still valid
    held = tokens.token()
    clock.now += 5
    assert tokens.token() == held
    assert len(server.asked) == 6, "a renewal that failed is tried again after a while, not for each connection"
    clock.now += 20
    server.answers = [failure] * 3
    for _ in range(10):
        with pytest.raises(TokenEndpointError, match=r"TURNLOG_SASL_TOKEN_URL=http://127.0.0.1:.* cannot"):
            tokens.token()
    assert len(server.asked) == 9, "the connections that come right after a failure do not wait as long as the first"
    clock.now += 1.5
    assert tokens.token()
    assert len(server.asked) == 10


def test_an_endpoint_that_nobody_listens_for() -> None:
    with TokenServer() as server:
        url = server.url
    clock = Clock()
    with pytest.raises(TokenEndpointError, match="cannot be asked: Connection refused"):
        endpoint(url, clock).token()
    assert len(clock.pauses) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": "invalid_client"}), r"refuses client 'me: \+' \(HTTP 401, invalid_client\)"),
        ((400, {"error": CLIENT_SECRET}), r"\(HTTP 400\)"),
        ((403, b"\xff"), r"\(HTTP 403\)"),
        ((302, {}), r"\(HTTP 302\)"),
        ((200, b"<html>"), "answers with no token"),
        ((200, []), "answers with no token"),
        ((200, {"access_token": ""}), "answers with no token"),
        ((200, {"access_token": "two\nlines"}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": 0}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": True}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": "soon"}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": "-1"}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": "0"}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": "1e9"}), "answers with no token"),
        ((200, {"access_token": "t", "expires_in": "٣٦٠٠"}), "answers with no token"),
        ((200, {"access_token": "t" * 70_000}), "answers with no token"),
    ],
)
def test_what_is_no_token_is_told_at_once(server: TokenServer, answer: tuple[int, Any], told: str) -> None:
    clock = Clock()
    server.answers = [answer]
    with pytest.raises(TokenEndpointError, match=told) as caught:
        endpoint(server.url, clock).token()
    assert (len(server.asked), clock.pauses) == (1, [])
    assert CLIENT_SECRET not in str(caught.value)


def test_all_connections_of_a_process_share_a_token(server: TokenServer) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "sasl_token_url": server.url}
    given = Settings(**login, sasl_username="worker", sasl_password=CLIENT_SECRET)  # type: ignore[arg-type]
    assert sasl_token(given) == sasl_token(given.model_copy())
    assert len(server.asked) == 1
    wrong = Settings(**login, sasl_username="worker", sasl_password="wrong")  # type: ignore[arg-type]
    assert "refuses client 'worker' (HTTP 401, invalid_client)" in str(refusal(wrong))
