"""Random steps of channels for ``tests.event_logs``: lifecycle requests, forwards that arrive, newer versions."""

import random
from typing import Protocol

from tests.lifecycle_world import Message, Network
from turnlog_schemas import commands as cmd
from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_schemas.parts import NewSession, ReplyAddress, Usage
from turnlog_streams.channel.commands import ChangeChannel
from turnlog_streams.channel.state import Channel
from turnlog_streams.forwarding import ReceiveForward
from turnlog_streams.lookups import RowsInMemory
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import Archive, Cancel
from turnlog_streams.session.state import Session

ADDRESSES = (
    ReplyAddress(),
    ReplyAddress(reply_to="chat.replies.x", framing="json", traceparent="00-a-b-01", tracestate="v=1"),
)


class Writer(Protocol):
    """What the steps need of the log's writer."""

    rng: random.Random
    partition: int
    network: Network
    sessions: dict[str, Session]
    channels: dict[str, Channel]

    def rows(self, channel: str) -> RowsInMemory: ...
    def tell(self, name: str, command: object, kind: str = SESSION) -> None: ...
    def newer_event(self, name: str, kind: str = SESSION) -> None: ...


def lifecycle_step(writer: Writer, *, newer: bool) -> None:
    """One of them."""
    rng = writer.rng
    kind = rng.random()
    if kind < 0.40:
        _request(writer)
    elif kind < 0.85:
        for _ in range(rng.randrange(1, 5)):
            if writer.network.flying:
                _arrive(writer, rng.choice(writer.network.flying), again=rng.random() < 0.1)
    elif kind < 0.88:
        writer.network.lose_receipts()
        for source, state in [*_named(SESSION, writer.sessions), *_named(CHANNEL, writer.channels)]:
            writer.network.send_due(source, state.outbox, again=True)
    elif kind < 0.975 and writer.sessions:
        _cancel(writer)
    elif kind < 0.98 and writer.sessions:
        archive = Archive(
            request_id=f"r{rng.randrange(30)}", command_hash=f"h{rng.randrange(3)}", reply=rng.choice(ADDRESSES)
        )
        writer.tell(rng.choice(sorted(writer.sessions)), archive)
    elif newer and writer.channels:
        writer.newer_event(rng.choice(sorted(writer.channels)), CHANNEL)


def _named(
    kind: str, states: dict[str, Session] | dict[str, Channel]
) -> list[tuple[tuple[str, str], Session | Channel]]:
    return [((kind, name), state) for name, state in states.items()]


def _request(writer: Writer) -> None:
    rng = writer.rng
    channel = rng.choice([f"c{writer.partition}", f"s{writer.partition}-1"])
    new = rng.choice([None, NewSession(), NewSession(title="T", model="echo:x", instructions="", metadata={"\0": "ü"})])
    sessions = writer.rows(channel).sessions
    wanted = rng.choice([*sorted(sessions), f"s{writer.partition}-0", "never"])
    kinds = [
        cmd.CreateSession(new_session=new),
        cmd.ResolveSession(new_session=new),
        cmd.RotateSession(new_session=new),
    ]
    command = rng.choice([*kinds, cmd.ArchiveSession()])
    given = wanted if isinstance(command, cmd.ArchiveSession) else rng.choice([None, None, None, wanted])
    request_id, command_hash = f"r{rng.randrange(60)}", f"h{rng.randrange(3)}"
    if rng.random() < 0.1:
        reply = rng.choice(ADDRESSES)
        refuse = Refuse(request_id=request_id, command_hash=command_hash, code="what", reason="?", reply=reply)
        writer.tell(channel, refuse, CHANNEL)
        return
    request = ChangeChannel(
        request_id=request_id,
        command_hash=command_hash,
        command=command,
        session_id=given,
        new_ids=(f"{channel}-{rng.randrange(2**32):08x}",),
        reply=rng.choice(ADDRESSES),
    )
    writer.tell(channel, request, CHANNEL)


def _arrive(writer: Writer, message: Message, *, again: bool) -> None:
    if not again:
        writer.network.flying.remove(message)
    kind, name = message.target
    writer.tell(name, message.command, kind)
    if isinstance(message.command, ReceiveForward):
        state = writer.sessions.get(name) if kind == SESSION else writer.channels.get(name)
        writer.network.receipt(state, message.command)


def _cancel(writer: Writer) -> None:
    rng = writer.rng
    session_id = rng.choice(sorted(writer.sessions))
    cancel = Cancel(
        request_id=f"r{rng.randrange(30)}",
        command_hash=f"h{rng.randrange(3)}",
        turn_id=rng.choice([None, *sorted(writer.sessions[session_id].turns)]),
        reply=rng.choice(ADDRESSES),
        partial=rng.choice(["", "Half an ans"]),
        usage=Usage(input_tokens=2, output_tokens=1, model_calls=1, last_input_tokens=2),
    )
    writer.tell(session_id, cancel)
