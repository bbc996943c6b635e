"""The embedded model for real: a conversation through kills of its worker and of the model's process, in DuckDB."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.deployment import START_S, Deployment, Frame, Process, Wire
from tests.waiting import eventually
from turnlog_schemas.frames import TextDelta, TurnCompleted
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir

SESSION = "real-1"
LONG = "smollm2:?max_tokens=64"  #: enough to be killed in
SHORT = "smollm2:?max_tokens=16"
KILL_WORKER = {3, 7}
KILL_MODEL = {5}
QUESTIONS = (
    "Hello! Who are you?",
    "What is the largest animal in the sea?",
    "Tell me a long story about a whale.",
    "What was the story about?",
    "Tell me a long story about a ship.",
    "Which of the two did you like more?",
    "Tell me a long story about a storm.",
    "Name a colour of the sea.",
    "Name another one.",
    "Goodbye!",
)
TURN_S = 90.0  #: on a busy machine


async def asked(wire: Wire, number: int) -> str:
    request_id = f"q-{number}"
    model = LONG if number in KILL_WORKER | KILL_MODEL else SHORT
    await wire.chat_json(SESSION, QUESTIONS[number - 1], request_id=request_id, model=model)
    return request_id


async def in_the_middle(wire: Wire, request_id: str) -> Frame:
    """A piece of the answer, but not its first ones."""

    def pieces() -> list[Frame]:
        return [frame for frame in wire.of(request_id) if isinstance(frame.payload, TextDelta)]

    await eventually(lambda: len(pieces()) >= 5, f"{request_id} streams", TURN_S)
    assert not any(frame.terminal for frame in wire.of(request_id))
    return pieces()[-1]


async def completed(wire: Wire, request_id: str) -> TurnCompleted:
    terminal = await wire.terminal(request_id, TURN_S)
    assert isinstance(terminal.payload, TurnCompleted), terminal.payload
    return terminal.payload


def counted(model: RuntimeDir) -> Callable[[], int]:
    """How many answers the model's process generates now."""

    async def ask(socket: str) -> str:
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: model\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return text

    def now() -> int:
        info = model.server()
        assert info is not None
        text = asyncio.run(ask(info.socket))
        (line,) = (line for line in text.splitlines() if line.startswith("llamacpp:requests_processing "))
        return int(line.split()[1])

    return now


@pytest.mark.timeout(420)
async def test_a_conversation_survives_its_workers_and_its_models_process(
    broker: DevBroker, tmp_path: Path, runtime_folder: Path, real_model: Path
) -> None:
    folder = RuntimeDir(runtime_folder / "smollm2-1")
    values = {"allow_models": "smollm2:*", "default_model": "smollm2:", "runtime_dir": str(runtime_folder)}
    with Deployment(broker.bootstrap_server, tmp_path, **values, publish_interval_s="0.5") as deployment:
        deployment.make_topics()
        worker: Process = deployment.worker()
        deployment.start("m", "materialize")
        async with deployment.wire() as wire:
            await eventually(lambda: worker.ready, "the worker is ready", START_S)
            answers: list[TurnCompleted] = []
            for number in range(1, len(QUESTIONS) + 1):
                request_id = await asked(wire, number)
                if number in KILL_WORKER | KILL_MODEL:
                    await in_the_middle(wire, request_id)
                    before = folder.server()
                    assert before is not None
                    if number in KILL_WORKER:
                        worker.kill()
                        worker = deployment.worker()
                    else:
                        os.kill(before.pid, signal.SIGKILL)
                    answers.append(await completed(wire, request_id))
                    after = folder.server()
                    assert after is not None
                    assert (after.pid == before.pid) is (number in KILL_WORKER)
                else:
                    answers.append(await completed(wire, request_id))
            await cancelled_at_once(wire, folder)
        check_history(await published(deployment.settings.snapshot, len(QUESTIONS) + 1), answers)
        worker.stop()
        await eventually(lambda: folder.server() is None, "the model's process ends with its last user", 60)


async def cancelled_at_once(wire: Wire, folder: RuntimeDir) -> None:
    """The turn ends at once, its generation within about a second."""
    await wire.chat_json(SESSION, "Tell me a very long story.", request_id="q-11", model="smollm2:?max_tokens=2000")
    await in_the_middle(wire, "q-11")
    processing = counted(folder)
    assert await asyncio.to_thread(processing) == 1
    body = {"session_id": SESSION, "request_id": "c-11", "command": {"type": "cancel_turn"}}
    began = time.monotonic()
    await wire.produce(SESSION.encode(), json.dumps(body).encode())
    terminal = await wire.terminal("q-11", TURN_S)
    assert terminal.kind == "TurnCancelled"
    assert terminal.seen_at - began < 5.0  # a busy machine: the model's whole answer would take half a minute
    while await asyncio.to_thread(processing):
        assert time.monotonic() - began < 8.0
    later = [frame for frame in wire.of("q-11") if frame.seen_at > terminal.seen_at]
    assert not any(isinstance(frame.payload, TextDelta) for frame in later)


async def published(snapshot: Path, turns: int) -> duckdb.DuckDBPyConnection:
    """The snapshot that has them all."""

    def found() -> duckdb.DuckDBPyConnection | None:
        if not snapshot.exists():
            return None
        connection = duckdb.connect(str(snapshot), read_only=True)
        ended = connection.execute("SELECT 1 FROM turns WHERE status IN ('completed', 'cancelled')").fetchall()
        if len(ended) == turns:
            return connection
        connection.close()
        return None

    connection = await eventually(found, f"the snapshot has {turns} turns", START_S)
    assert connection is not None
    return connection


def check_history(snapshot: duckdb.DuckDBPyConnection, answers: list[TurnCompleted]) -> None:
    """Each question once and each answer once, in order; the answer is what the client was told."""
    with snapshot:
        messages = snapshot.execute(
            "SELECT message_seq, role, content FROM messages WHERE session_id = ? ORDER BY message_seq", [SESSION]
        ).fetchall()
        turns = snapshot.execute(
            "SELECT request_id, status, attempt FROM turns WHERE session_id = ? ORDER BY accepted_offset", [SESSION]
        ).fetchall()
    expected = []
    for question, answer in zip(QUESTIONS, answers, strict=True):
        expected += [("user", question), ("assistant", answer.text)]
    assert [(role, content) for _, role, content in messages[: len(expected)]] == expected
    assert [seq for seq, _, _ in messages] == list(range(1, len(messages) + 1))
    assert [status for _, status, _ in turns] == ["completed"] * len(QUESTIONS) + ["cancelled"]
    attempts = {number: attempts for number, (_, _, attempts) in enumerate(turns, start=1)}
    assert {number for number, count in attempts.items() if count > 1} == KILL_WORKER | KILL_MODEL
    tokens = [answer.usage.last_input_tokens for answer in answers]
    assert tokens == sorted(tokens), "each turn shows the model all that was said before"
