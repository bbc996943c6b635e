"""Three nodes, each of them broker and controller, so that the leader of a partition can be another one."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import PreferredLeaderNotAvailableError

from tests.deployment import eventually_async
from tests.faults.broker import SETTINGS, FaultNode
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import TurnlogError
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_files import cache_dir, ensure_jars, find_java
from turnlog_workers.devstack.broker_ports import HOST, free_port
from turnlog_workers.devstack.jvm import Jvm
from turnlog_workers.devstack.log_directory import cluster_id_of, format_once
from turnlog_workers.kafka.kafka_python import connected

NODES = (1, 2, 3)
_PREFERRED = 0  #: of the protocol's kinds of election
_REQUEST_S = 20.0
MOVED_S = 120.0  #: a dead node is noticed after its session (2.5 s); this machine may be busy
_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "auto.leader.rebalance.enable": "false",  # who leads is up to the scenario
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads a partition, who may be elected without loss, and who should lead."""

    leader: int  #: -1: nobody
    in_sync: frozenset[int]
    preferred: int


Place = tuple[str, int]  #: topic and partition


class FaultCluster:
    """Nodes by their ids, as :func:`fault_cluster` starts them."""

    def __init__(self, nodes: Mapping[int, FaultNode]) -> None:
        """They have been started."""
        self.nodes = dict(nodes)
        self.bootstrap_server = ",".join(node.bootstrap_server for node in nodes.values())

    def way_of(self, name: str) -> str:
        """Everybody goes directly, to whichever node is there."""
        return self.bootstrap_server

    def pause(self, node: int) -> None:
        """A node that stands still, and will think that it still leads."""
        os.kill(self.nodes[node].pid, signal.SIGSTOP)

    def resume(self, node: int) -> None:
        os.kill(self.nodes[node].pid, signal.SIGCONT)

    async def leaders(self, topics: Sequence[str]) -> dict[Place, Leadership]:
        """As the cluster tells it: a node that has just been asked may stand still."""
        found: dict[Place, Leadership] = await eventually_async(
            lambda: asyncio.to_thread(self._leaders, topics), "the cluster tells its leaders", MOVED_S
        )
        return found

    async def elect_preferred(self, places: Sequence[Place]) -> None:
        """What ``kafka-leader-election --election-type preferred`` does, again until every one of them can lead.

        A node that has just come back is in sync a moment before the controller lets it lead.
        """
        await eventually_async(
            lambda: asyncio.to_thread(self._elect, places), "the preferred replicas are elected", MOVED_S
        )

    async def until_without(self, node: int, topics: Sequence[str]) -> None:
        """Until every partition is led by another one."""
        await self._until(topics, lambda each: each.leader not in (node, -1), f"node {node} leads nothing any more")

    async def until_whole(self, topics: Sequence[str]) -> None:
        """Until every node has all that is acknowledged."""
        await self._until(topics, lambda each: len(each.in_sync) == len(NODES), "every replica is in sync")

    async def until_preferred(self, topics: Sequence[str]) -> None:
        await self._until(topics, lambda each: each.leader == each.preferred, "the preferred replicas lead")

    async def _until(self, topics: Sequence[str], condition: Callable[[Leadership], bool], what: str) -> None:
        async def so() -> bool:
            found = await asyncio.to_thread(self._leaders, topics)
            return bool(found) and all(condition(each) for each in found.values())

        await eventually_async(so, what, MOVED_S)

    def _leaders(self, topics: Sequence[str]) -> dict[Place, Leadership]:
        """Empty while the cluster does not tell."""
        try:
            with connected(KafkaAdminClient, self._settings(), "fault-leaders", _REQUEST_S) as admin:
                described = admin.describe_topics(list(topics))
        except TurnlogError:
            return {}
        return {
            (topic["name"], partition["partition_index"]): Leadership(
                leader=partition["leader_id"],
                in_sync=frozenset(partition["isr_nodes"]),
                preferred=partition["replica_nodes"][0],
            )
            for topic in described
            for partition in topic["partitions"]
        }

    def _elect(self, places: Sequence[Place]) -> bool:
        wanted: dict[str, list[int]] = {}
        for topic, partition in places:
            wanted.setdefault(topic, []).append(partition)
        with connected(KafkaAdminClient, self._settings(), "fault-leaders", _REQUEST_S) as admin:
            try:
                admin.elect_leaders(_PREFERRED, wanted, timeout_ms=int(_REQUEST_S * 1000))
            except PreferredLeaderNotAvailableError:
                return False
        return True

    def _settings(self) -> Settings:
        return Settings(bootstrap_server=self.bootstrap_server)


@contextlib.asynccontextmanager
async def fault_cluster(folder: Path) -> AsyncIterator[FaultCluster]:
    """Three nodes that run."""
    ports: list[int] = []
    for _ in range(2 * len(NODES)):
        ports.append(free_port(frozenset(ports)))
    clients, controllers = ports[: len(NODES)], ports[len(NODES) :]
    voters = ",".join(f"{node}@{HOST}:{port}" for node, port in zip(NODES, controllers, strict=True))
    brokers: dict[int, DevBroker] = {}
    for node, client, controller in zip(NODES, clients, controllers, strict=True):
        ways = {
            "node.id": str(node),
            "listeners": f"PLAINTEXT://{HOST}:{client},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{client}",
            "controller.quorum.voters": voters,
        }
        folder_of_node = folder / f"node-{node}"
        brokers[node] = DevBroker(folder_of_node, port=client, extra_settings=SETTINGS | _REPLICATED | ways)
    await asyncio.to_thread(_format_as_one, brokers)
    nodes = {node: FaultNode(broker) for node, broker in brokers.items()}
    try:
        await asyncio.gather(*(node.start() for node in nodes.values()))  # one alone elects no controller
        yield FaultCluster(nodes)
    finally:
        await asyncio.gather(*(node.close() for node in nodes.values()))


def _format_as_one(brokers: Mapping[int, DevBroker]) -> None:
    """Each node's directory is formatted as one of its own; then all are told the first one's cluster."""
    cache = cache_dir()
    jvm = Jvm(find_java(), ensure_jars(cache), cache)
    cluster_id = ""
    for node, broker in brokers.items():
        log_dir = broker.data_dir / "kafka-logs"
        broker.data_dir.mkdir(parents=True)
        format_once(log_dir, jvm, cache, brokers[1]._write_format_properties)
        cluster_id = cluster_id or cluster_id_of(log_dir)
        ids = {"cluster.id": cluster_id, "node.id": str(node)}
        path = log_dir / "meta.properties"
        lines = path.read_text(encoding="utf-8").splitlines()
        told = [f"{name}={ids[name]}" if (name := line.partition("=")[0]) in ids else line for line in lines]
        path.write_text("\n".join(told) + "\n", encoding="utf-8")
