"""Leaders that move, under load: a node of three dies, stops in order, or stands still and does not know better."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.faults.cluster import NODES, FaultCluster
from tests.faults.stack import Outcome, Stack, run_stack

TURNS_BETWEEN = 20
KILLED_WITH_IT = 2  #: slot of the worker that dies together with a node


class LeaderFault(StrEnum):
    """What becomes of the node that leads; afterwards an election gives it back what it led."""

    KILLED = "killed"
    STOPPED = "stopped"  #: SIGTERM: it hands over first
    PAUSED = "paused"  #: a zombie among the brokers


@dataclass(slots=True)
class Moved:
    """What came out of a round; a line of the file that a run is resumed from."""

    number: int
    seed: str
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)
    elections: int = 0
    partitions_moved: int = 0  #: away from a node and back to it
    kills: int = 0
    turns: int = 0
    requests: int = 0
    events: int = 0
    frames: int = 0
    late_frames: int = 0
    late_copies: int = 0
    bad: list[str] = field(default_factory=list)


async def run_moves(cluster: FaultCluster, folder: Path, seed: str, number: int) -> Moved:
    """One round on these nodes. Never raises for what the worker does: that is told in ``bad``."""
    moved = Moved(number=number, seed=f"{seed}/leaders {number}", seconds=0.0)
    began = time.monotonic()
    outcome = Outcome()
    try:
        outcome, _ = await run_stack(
            cluster, folder, moved.seed, lambda stack: _moves(stack, cluster, moved), replication_factor=f"{len(NODES)}"
        )
        moved.bad = outcome.bad[:50]
    except AssertionError as error:
        moved.bad = [f"the round ended early: {error}"]
    moved.seconds = round(time.monotonic() - began, 1)
    moved.kills, moved.turns, moved.requests = outcome.kills, outcome.turns, outcome.requests
    moved.events, moved.frames = outcome.events, outcome.frames
    moved.late_frames, moved.late_copies = outcome.late_frames, outcome.late_copies
    return moved


async def _moves(stack: Stack, cluster: FaultCluster, moved: Moved) -> None:
    stack.broker_fails()  # a frame waits for its leader only
    faults = list(LeaderFault)
    stack.chance.shuffle(faults)
    for fault in faults:
        await _move(stack, cluster, moved, fault)
        await stack.turns_end(TURNS_BETWEEN)


async def _move(stack: Stack, cluster: FaultCluster, moved: Moved, fault: LeaderFault) -> None:
    """A node that leads a part of the log goes away and comes back; two of three go on meanwhile."""
    topics = stack.deployment.topics
    every = [topics.events, topics.requests, topics.replies, topics.dead_letters]
    await cluster.until_whole(every)
    before = await cluster.leaders(every)
    node = stack.chance.choice(sorted({each.leader for (topic, _), each in before.items() if topic == topics.events}))
    led = sorted(place for place, each in before.items() if each.leader == node)
    stack.tell(f"node {node}, which leads {len(led)} partitions, is {fault}")
    stack.deployment.log_ends_known = fault is not LeaderFault.PAUSED
    await _away(cluster, node, fault)
    try:
        if fault is LeaderFault.KILLED:
            stack.kill(KILLED_WITH_IT)
            stack.start_worker(KILLED_WITH_IT)
        await cluster.until_without(node, every)
        stack.tell("others lead")
        moved.partitions_moved += len(led)
        moved.faults[fault] = moved.faults.get(fault, 0) + 1
        await stack.turns_end(TURNS_BETWEEN)
    finally:
        await _back(cluster, node, fault)
    stack.tell(f"node {node} is back")
    await cluster.until_whole(every)
    stack.deployment.log_ends_known = True
    await cluster.elect_preferred(list(before))
    await cluster.until_preferred(every)
    moved.elections += 1
    moved.partitions_moved += sum(before[place].preferred == node for place in led)
    stack.tell("the preferred replicas lead")


async def _away(cluster: FaultCluster, node: int, fault: LeaderFault) -> None:
    if fault is LeaderFault.PAUSED:
        cluster.pause(node)
    elif fault is LeaderFault.STOPPED:
        await cluster.nodes[node].stop()
    else:
        await cluster.nodes[node].kill()


async def _back(cluster: FaultCluster, node: int, fault: LeaderFault) -> None:
    if fault is LeaderFault.PAUSED:
        cluster.resume(node)
    else:
        await cluster.nodes[node].start()


def summary(rounds: Sequence[Moved]) -> dict[str, Any]:
    """The figures of all rounds together."""
    bad = [f"round {each.number} of leaders: {text}" for each in rounds for text in each.bad]
    return {
        "rounds": len(rounds),
        "faults": {str(fault): sum(each.faults.get(fault, 0) for each in rounds) for fault in LeaderFault},
        "elections": sum(each.elections for each in rounds),
        "partitions_moved": sum(each.partitions_moved for each in rounds),
        "kills": sum(each.kills for each in rounds),
        "turns": sum(each.turns for each in rounds),
        "requests": sum(each.requests for each in rounds),
        "events": sum(each.events for each in rounds),
        "frames": sum(each.frames for each in rounds),
        "late_frames": {
            "rounds": len(rounds),
            "frames": sum(each.late_frames for each in rounds),
            "copies": sum(each.late_copies for each in rounds),
        },
        "seconds": round(sum(each.seconds for each in rounds), 1),
        "anomalies": len(bad),
        "bad": bad[:100],
    }
