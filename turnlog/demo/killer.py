"""Kills workers of the demo's stack in the middle of their work, and knows when they are back."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from turnlog.demo.screen import Screen
from turnlog.errors import TurnlogError
from turnlog_schemas.codec import Codec
from turnlog_schemas.events import PartitionClaimed
from turnlog_schemas.registry import EVENTS
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.base.json_file import read_json
from turnlog_workers.kafka.connections import client_options

_READ_TIMEOUT_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A worker that was killed."""

    name: str
    pid: int


class Killer:
    """Kills the worker that owns a session."""

    def __init__(self, data_dir: Path, screen: Screen) -> None:
        self._data_dir, self._screen = data_dir, screen
        self.victims: list[Victim] = []

    async def kill_owner(self, settings: Settings, session_id: str, *, epoch: int) -> None:
        """SIGKILL for the worker that writes this session: the one whose claim opened the epoch."""
        name = await _owner(settings, partition_of(session_id.encode(), settings.partitions), epoch)
        pid = read_json(self._data_dir / "stack.json").get("children", {}).get(name)
        if pid is None:
            raise TurnlogError(f"The worker {name!r} that owns {session_id} is not one of this stack's processes.")
        self.victims.append(Victim(name=name, pid=pid))
        os.kill(pid, signal.SIGKILL)
        self._screen.alarm(
            f"kill -9 {pid}: {name}, which was generating this answer, is dead. "
            "It comes back, or another one takes over."
        )

    async def back(self, victim: Victim, timeout_s: float) -> int:
        """The process id under which a killed worker runs again."""
        killed = {None, *(one.pid for one in self.victims if one.name == victim.name)}
        state = await self.stack_state(
            lambda state: state.get("children", {}).get(victim.name) not in killed, timeout_s
        )
        pid: int = state["children"][victim.name]
        return pid

    async def stack_state(self, is_it: Callable[[Mapping[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
        """What ``stack.json`` says, once it says what is waited for."""
        async with asyncio.timeout(timeout_s):
            while True:
                state = read_json(self._data_dir / "stack.json")
                if is_it(state):
                    return state
                await asyncio.sleep(_POLL_S)


async def _owner(settings: Settings, partition: int, epoch: int) -> str:
    """Who made the claim at this offset of the event log."""
    place = TopicPartition(settings.topics.events, partition)
    consumer = AIOKafkaConsumer(**client_options(settings, "turnlog-demo"), enable_auto_commit=False)
    async with asyncio.timeout(_READ_TIMEOUT_S), consumer:
        consumer.assign([place])
        consumer.seek(place, epoch)
        record = await consumer.getone()
    _, claim = Codec(EVENTS).decode(record.value)
    if record.offset != epoch or not isinstance(claim, PartitionClaimed):
        raise TurnlogError(f"{place.topic}[{partition}]@{epoch} is not the claim that the reply frames name.")
    return claim.owner
