"""Sessions of a random log that are erased, for ``tests.event_logs``."""

from dataclasses import replace
from typing import Any

from tests.event_logs import LogWriter, write_on
from tests.lifecycle_steps import ADDRESSES
from turnlog_schemas import events as ev
from turnlog_streams.forwarding import ReceiveForward
from turnlog_streams.policy import ErasurePolicy
from turnlog_streams.session.commands import Erase

KEPT = ErasurePolicy(requests_kept_ms=7, replies_kept_ms=1, dead_letters_kept_ms=30, key_kept_ms=2)


def erase_some(log: LogWriter, sessions: int) -> None:
    """Erase the first sessions; their channels hear of it; then everybody goes on."""
    log.policy = replace(log.policy, erasure=KEPT)
    for number, name in enumerate(sorted(log.sessions)[:sessions]):
        log.tell(name, Erase(request_id=f"e{number}", command_hash="erase", reply=ADDRESSES[number % 2]))
    for _ in range(50):  # in the order in which they were sent
        for message in [each for each in log.network.flying if each.target[0] in (ev.CHANNEL, ev.SESSION)]:
            log.network.flying.remove(message)
            log.tell(message.target[1], message.command, message.target[0])
            if isinstance(message.command, ReceiveForward):
                known: Any = log.sessions if message.target[0] == ev.SESSION else log.channels
                log.network.receipt(known.get(message.target[1]), message.command)
    write_on(log, 30, sessions=3)
