"""The command that sends one message to a session: ``send``."""

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.client_tools import ToolOutputs, Tools, outputs_of, tools_of
from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Files,
    Json,
    MaxTokens,
    Model,
    ModelSetting,
    Prefix,
    RequestId,
    Stop,
    Temperature,
    TimeoutS,
    Verbose,
    client_settings,
    content_of,
    files_of,
    params_of,
    refuse_unservable,
)
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.errors import UsageError
from turnlog.terminal import output
from turnlog_schemas.parts import ContentPart, NewSession

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

Content = str | tuple[ContentPart, ...]


class OnBusy(StrEnum):
    """What a message does when the session is busy."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"


def send(
    session_id: Annotated[
        str, typer.Argument(metavar="SESSION", help="The session's id. A session that does not exist is created.")
    ],
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="What the user says; - reads it from standard input. May be left out with --tool-output.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the turn and print the answer.", show_default=False)
    ] = False,
    on_busy: Annotated[
        OnBusy,
        typer.Option(
            "--on-busy", help="If the session is still busy with a turn: wait for it, be refused, or cancel it."
        ),
    ] = OnBusy.ENQUEUE,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    model_setting: ModelSetting = None,
    file: Files = None,
    channel: Annotated[
        str | None,
        typer.Option("--channel", help="If this message creates the session: its channel.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Who says it, of several people.", show_default=False)
    ] = None,
    tools: Tools = None,
    tool_outputs: ToolOutputs = None,
    request_id: RequestId = None,
    timeout_s: TimeoutS = 120.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Send one message to a session. Prints the request's id and its place in the topic, or with --wait the answer."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    if text is None and not tool_outputs:
        raise UsageError("TEXT is missing: what does the user say?")
    if text == "-":
        text = sys.stdin.read().removesuffix("\n").removesuffix("\r")  # what ends the last line is not of the message
    new = NewSession(channel=channel) if channel is not None else None
    asked: dict[str, Any] = {"request_id": request_id, "model": model, "on_busy": on_busy.value, "new_session": new}
    asked["params"] = params_of(temperature, max_tokens, stop, model_setting)
    content = content_of(text or "", files_of(file))
    asked |= {"name": name, "tools": tools_of(tools), "tool_outputs": outputs_of(tool_outputs or [])}
    if wait:
        asyncio.run(_send_and_wait(settings, session_id, content, asked, timeout_s=timeout_s, json=json))
    else:
        asyncio.run(_send(settings, session_id, content, asked, json=json))


async def _send(settings: "Settings", session_id: str, content: Content, asked: dict[str, Any], *, json: bool) -> None:
    from turnlog.client.async_client import Client

    async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
        sent = await client.enqueue(session_id, content, **asked)
    topic = settings.topics.requests
    if json:
        document = {"request_id": sent.request_id, "session_id": session_id, "topic": topic}
        output.print_json({**document, "partition": sent.partition, "offset": sent.offset})
    else:
        output.print_text(f"request {sent.request_id} at {topic}[{sent.partition}]@{sent.offset}")


async def _send_and_wait(
    settings: "Settings", session_id: str, content: Content, asked: dict[str, Any], *, timeout_s: float, json: bool
) -> None:
    from turnlog.client.async_client import Client
    from turnlog.terminal.live import finished_document

    async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
        turn = await client.chat(session_id, content, timeout_s=timeout_s, **asked).result()
    if json:
        output.print_json(finished_document(turn))
    else:
        if turn.text:
            output.print_text(turn.text)
        for call in turn.pending_calls:
            output.print_text(f"-> {call.name} {call.arguments} (send --tool-output {call.call_id}=…)")
    turn.raise_for_status()
