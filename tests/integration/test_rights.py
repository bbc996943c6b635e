"""A broker with passwords and an authorizer: each role works with the rights of docs/settings.md, and with no more."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from tests.deployment import START_S, Deployment
from tests.waiting import eventually, until
from turnlog import Client
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import HOST, free_port
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.kafka_python import connected

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "chat"
ROLES = ("init", "worker", "materializer", "program")
OPERATIONS = {
    "Create": ACLOperation.CREATE,
    "Describe": ACLOperation.DESCRIBE,
    "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS,
    "Read": ACLOperation.READ,
    "Write": ACLOperation.WRITE,
}


def password(user: str) -> str:
    return f"{user}-secret"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[DevBroker, str]]:
    """A broker, and its address for those who must say who they are. On the other one everybody may do everything."""
    client, controller, sasl = (free_port() for _ in range(3))
    users = " ".join(f'user_{user}="{password(user)}"' for user in ROLES)
    login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    settings = {
        "listeners": f"PLAINTEXT://{HOST}:{client},CONTROLLER://{HOST}:{controller},SASL://{HOST}:{sasl}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{client},SASL://{HOST}:{sasl}",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "group.min.session.timeout.ms": "1000",
    }
    with DevBroker(tmp_path / "broker", port=client, extra_settings=settings) as broker:
        yield broker, f"{HOST}:{sasl}"


def documented_rights() -> list[tuple[str, ACLOperation, ResourceType, str]]:
    """Role, operation, kind of thing and its name, as the table says them."""
    section = (ROOT / "docs/settings.md").read_text(encoding="utf-8").partition("\n## Rights\n")[2]
    rows = re.findall(r"^\| (?!role|-)([^|]+) \| ([^|]*) \| ?([^|]*)\|$", section, flags=re.MULTILINE)
    assert len(rows) == len(ROLES)
    rights = []
    for role, (_, topics, group) in zip(ROLES, rows, strict=True):
        for kind, cell in ((ResourceType.TOPIC, topics), (ResourceType.GROUP, group)):
            for clause in filter(str.strip, cell.split(";")):
                operations, _, names = clause.partition(" on ")
                for operation in re.findall(r"\w+", operations.replace(" and ", " ")):
                    rights += [(role, OPERATIONS[operation], kind, name) for name in re.findall(r"`([^`]+)`", names)]
    return rights


def grant(broker: DevBroker) -> None:
    acls = []
    for role, operation, kind, name in documented_rights():
        pattern = ACLResourcePatternType.PREFIXED if name.endswith("*") else ACLResourcePatternType.LITERAL
        resource = ResourcePattern(kind, name.removesuffix("*"), pattern)
        acls.append(ACL(f"User:{role}", "*", operation, ACLPermissionType.ALLOW, resource))
    with connected(
        KafkaAdminClient, Settings(bootstrap_server=broker.bootstrap_server), "test-rights", START_S
    ) as admin:
        admin.create_acls(acls)


def as_user(user: str) -> dict[str, str]:
    return {"sasl_username": user, "sasl_password": password(user)}


async def write(settings: Settings, topic: str) -> Any:
    producer = AIOKafkaProducer(**client_options(settings, "test-rights"), acks="all")
    await producer.start()
    try:
        return await producer.send_and_wait(topic, b"x", partition=0)
    finally:
        await producer.stop()


async def test_each_role_with_its_rights(secured: tuple[DevBroker, str], tmp_path: Path) -> None:
    broker, address = secured
    grant(broker)
    everybody = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "prefix": PREFIX,
        **as_user("program"),
    }
    with Deployment(address, tmp_path, partitions=2, **everybody) as deployment:
        init = deployment.start("init", "topics", "init", **as_user("init"))
        assert await asyncio.to_thread(init.wait) == 0, init.log
        worker = deployment.worker(**as_user("worker"))
        materializer = deployment.start("materializer", "materialize", **as_user("materializer"))
        for process in (worker, materializer):
            await eventually(lambda process=process: process.ready, f"{process.name} is ready", START_S)

        program = deployment.settings
        async with Client(program) as client:
            assert (await client.chat("web-1", "Hello").result(timeout_s=START_S)).text == "Hello"
        with pytest.raises(TopicAuthorizationFailedError):
            await write(program, deployment.topics.events)
        await write(program, deployment.topics.requests)  # one that nobody can read: it is parked

        def in_snapshot(table: str) -> bool:
            with open_snapshot(deployment.settings.snapshot) as connection:
                return run(connection, f"SELECT count(*) FROM {table}").rows[0][0] > 0

        for table in ("messages", "dead_letters"):
            await asyncio.to_thread(until, lambda table=table: in_snapshot(table), f"{table} has rows")
        assert password("worker") not in worker.log
