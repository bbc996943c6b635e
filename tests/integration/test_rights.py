"""A broker with TLS, passwords and an authorizer: each role works with the rights that are printed and no more.

Who is not let in is told why.
"""

import argparse
import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType
from typer.testing import CliRunner

from tests.deployment import START_S, Deployment
from tests.http_stack import start_gateway
from tests.secured_broker import Authority, SecuredBroker, password
from tests.token_server import CLIENT_SECRET, TokenServer, unsigned_token
from tests.waiting import eventually, until
from turnlog import Client
from turnlog.cli.app import app
from turnlog.client.dead_letters import LetterFilter, dead_letter_reader
from turnlog.client.lag import measure_lag
from turnlog.client.redriving import LetterDesk
from turnlog.errors import BrokerUnreachableError
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import EXIT_UNREACHABLE
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.refusal import refusal
from turnlog_workers.kafka.topics_admin import init_topics

PREFIX = "chat"
MODEL_KEY = "planted-key-of-a-model"
ROLES = ("operator", "worker", "materializer", "gateway", "program")
OPERATIONS = {
    "Create": ACLOperation.CREATE,
    "Describe": ACLOperation.DESCRIBE,
    "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS,
    "Read": ACLOperation.READ,
    "Write": ACLOperation.WRITE,
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """One broker for all; its users have their rights, and ``nobody`` has none."""
    secured = SecuredBroker(tmp_path_factory.mktemp("secured"))
    with secured.broker:
        secured.make_users((*ROLES, "nobody"))
        grant(secured.broker)
        init_topics(secured.anybody.model_copy(update={"prefix": "other", "partitions": 2}))
        yield secured


def printed_rights() -> list[str]:
    """The lines of ``turnlog acls print``. A program that chats is a producer and a reader."""
    whose = ["--principal", "producer=User:program", "--principal", "reader=User:program"]
    printed = CliRunner().invoke(app, ["acls", "print", "--prefix", PREFIX, *whose])
    assert printed.exit_code == 0, printed.output
    return [line for line in printed.output.splitlines() if not line.startswith("#")]


def grant(broker: DevBroker) -> None:
    """Do what the lines say."""
    parser = argparse.ArgumentParser(prog="kafka-acls.sh")
    for option in ("bootstrap-server", "allow-principal", "topic", "group"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--resource-pattern-type", default="literal")
    parser.add_argument("--operation", action="append", choices=list(OPERATIONS))
    parser.add_argument("--add", action="store_true")
    acls = []
    for line in printed_rights():
        said = parser.parse_args(shlex.split(line)[1:])
        kind = ResourceType.TOPIC if said.topic else ResourceType.GROUP
        pattern = ACLResourcePatternType[said.resource_pattern_type.upper()]
        resource = ResourcePattern(kind, said.topic or said.group, pattern)
        acls += [
            ACL(said.allow_principal, "*", OPERATIONS[operation], ACLPermissionType.ALLOW, resource)
            for operation in said.operation
        ]
    with connected(
        KafkaAdminClient, Settings(bootstrap_server=broker.bootstrap_server), "test-rights", START_S
    ) as admin:
        admin.create_acls(acls)


async def write(settings: Settings, topic: str) -> Any:
    producer = AIOKafkaProducer(**client_options(settings, "test-rights"), acks="all")
    await producer.start()
    try:
        return await producer.send_and_wait(topic, b"x", partition=0)
    finally:
        await producer.stop()


def logged_in(secured: SecuredBroker, folder: Path, user: str, **settings: str) -> Deployment:
    values = {"prefix": PREFIX, **secured.login(user), **settings}
    return Deployment(secured.address, folder, partitions=2, **values)


async def test_each_role_with_its_rights(
    secured: SecuredBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", MODEL_KEY)
    password_file = tmp_path / "password"
    password_file.write_text(f"{password('worker')}\n", encoding="utf-8")

    def as_user(user: str) -> dict[str, str]:
        return {"sasl_username": user, "sasl_password": password(user)}

    with logged_in(secured, tmp_path, "program") as deployment:
        init = deployment.start("init", "topics", "init", **as_user("operator"))
        assert await asyncio.to_thread(init.wait) == 0, init.log
        in_file = {"sasl_password": "", "sasl_password_file": str(password_file)}
        debug = {"log_level": "DEBUG", "library_log_level": "DEBUG"}
        worker = deployment.worker(sasl_username="worker", **in_file, **debug)
        materializer = deployment.start("materializer", "materialize", **as_user("materializer"), **debug)
        gateway, address = start_gateway(deployment, **as_user("gateway"))
        for process in (worker, materializer, gateway):
            await eventually(lambda process=process: process.ready, f"{process.name} is ready", START_S)

        program = deployment.settings
        async with Client(program) as client:
            assert (await client.chat("web-1", "Hello").result(timeout_s=START_S)).text == "Hello"
        await asyncio.to_thread(use_gateway, address)
        for role in ("program", "materializer", "gateway", "operator"):
            with pytest.raises(TopicAuthorizationFailedError):
                await write(logged_in(secured, tmp_path / role, role).settings, deployment.topics.events)
        await write(program, deployment.topics.requests)  # one that nobody can read: it is parked

        def in_snapshot(table: str) -> bool:
            with open_snapshot(deployment.settings.snapshot) as connection:
                return run(connection, f"SELECT count(*) FROM {table}").rows[0][0] > 0

        for table in ("messages", "dead_letters"):
            await asyncio.to_thread(until, lambda table=table: in_snapshot(table), f"{table} has rows")
        await mend(logged_in(secured, tmp_path / "operator", "operator").settings, program)
        await asyncio.to_thread(gateway.stop)
        for process in (worker, materializer):
            assert "DEBUG" in process.log  # the libraries told all they had to tell
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(materializer.stop)
    everybody = Deployment(secured.broker.bootstrap_server, tmp_path / "reader", partitions=2, prefix=PREFIX)
    topics = everybody.topics
    for topic in (topics.events, topics.dead_letters, topics.replies):
        for record in await everybody.dump(topic):
            assert without_secrets(repr(record).encode()), record
    password_file.unlink()
    for file in await asyncio.to_thread(files_below, tmp_path):
        assert without_secrets(file.read_bytes()), file


def use_gateway(address: str) -> None:
    """What reads and writes each topic that a gateway uses."""
    with httpx.Client(base_url=address, timeout=START_S) as http:
        said = http.put("/v1/settings/default-model", json={"value": "echo:"})
        assert said.is_success, said.text
        made = http.post("/v1/responses", json={"model": "echo:", "input": "Hello"})
        assert made.is_success, made.text
        read = http.get(f"/v1/responses/{made.json()['id']}")
        assert read.json()["status"] == "completed", read.text
        assert http.get("/v1/settings").json() == {"default-model": "echo:"}


async def mend(operator: Settings, program: Settings) -> None:
    """What an operator looks at and does; a program may not."""
    found = await measure_lag(operator)
    assert (found.members, len(found.partitions)) == (1, 2)
    assert {each.owner is not None for each in found.partitions} == {True}
    async with dead_letter_reader(operator) as reader:
        (parked,) = [letter async for letter in reader.letters(LetterFilter())]
        async with LetterDesk(operator, partition_count=reader.recorded_partitions) as desk:
            await desk.redrive(parked, force=True)
            await desk.discard(parked)
        sent, discarded = desk.outcomes()
        assert sent.sent_to
        assert not discarded.why_not
    with pytest.raises(BrokerUnreachableError, match="denies user 'program' a right"):
        await measure_lag(program)
    with pytest.raises(BrokerUnreachableError, match="denies user 'program' a right"):
        async with dead_letter_reader(program) as reader:
            pytest.fail(f"they may be read: {[letter.id async for letter in reader.letters(LetterFilter())]}")


def without_secrets(told: bytes) -> bool:
    secrets = (MODEL_KEY, CLIENT_SECRET, unsigned_token("worker").partition(".")[0], *map(password, ROLES))
    return all(secret.encode() not in told for secret in secrets)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


WRONG_PASSWORD = ({"sasl_password": "planted-wrong-secret"}, "refuses user 'nobody' or the password")
WRONG_CA = ({"ssl_ca_file": "other"}, "is not trusted")
NO_RIGHT = ({}, "denies user 'nobody' a right")


@pytest.mark.parametrize("wrong", [WRONG_PASSWORD, WRONG_CA, NO_RIGHT], ids=["password", "authority", "right"])
def test_who_is_not_let_in_is_told_so_at_once(
    secured: SecuredBroker, tmp_path: Path, wrong: tuple[dict[str, str], str]
) -> None:
    settings, told = dict(wrong[0]), wrong[1]
    if "ssl_ca_file" in settings:
        settings["ssl_ca_file"] = str(Authority(tmp_path, "other").ca_file)
    commands = ("worker", "materialize", "send s1 Hello", "doctor", "serve --port 0", "topics init")
    with logged_in(secured, tmp_path, "nobody", prefix="other", **settings) as deployment:
        for command in commands:
            process = deployment.start(command.partition(" ")[0], *command.split())
            assert process.wait(10.0) == EXIT_UNREACHABLE, process.log
            assert told in process.log
            assert "planted-wrong-secret" not in process.log
            assert password("nobody") not in process.log


def test_a_token_in_a_file(secured: SecuredBroker, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    bearer = {
        **secured.login(""),
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_password": "",
        "sasl_token_file": str(token_file),
    }
    settings = Settings(bootstrap_server=secured.address, prefix=PREFIX, **bearer)  # type: ignore[arg-type]
    token_file.write_text(f"{unsigned_token('operator')}\n", encoding="utf-8")
    init_topics(settings.model_copy(update={"partitions": 2}))
    with pytest.raises(TopicAuthorizationFailedError):
        asyncio.run(write(settings, settings.topics.events))
    token_file.write_text("no token at all", encoding="utf-8")
    assert "refuses the token in TURNLOG_SASL_TOKEN_FILE" in str(refusal(settings))


async def test_a_worker_whose_tokens_come_from_an_endpoint(
    secured: SecuredBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    secret_file = tmp_path / "secret"
    secret_file.write_text(CLIENT_SECRET, encoding="utf-8")
    init_topics(secured.anybody.model_copy(update={"prefix": PREFIX, "partitions": 2}))
    with TokenServer() as tokens, logged_in(secured, tmp_path, "program") as deployment:
        bearer = {
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_token_url": tokens.url,
            "sasl_password": "",
            "sasl_password_file": str(secret_file),
        }
        worker = deployment.worker(sasl_username="worker", log_level="DEBUG", **bearer)
        await eventually(lambda: worker.ready, "the worker is ready", START_S)
        async with Client(deployment.settings) as client:
            assert (await client.chat("token-1", "Hello").result(timeout_s=START_S)).text == "Hello"
        assert [client for client, _, _ in tokens.asked] == ["worker"], "one for all connections"
        await asyncio.to_thread(worker.stop)
        assert without_secrets(worker.log.encode())
        secret_file.write_text("wrong", encoding="utf-8")
        refused = deployment.worker("w1", sasl_username="worker", **bearer)
        assert await asyncio.to_thread(refused.wait, 10.0) == EXIT_UNREACHABLE, refused.log
        assert "refuses client 'worker' (HTTP 401, invalid_client)" in refused.log
