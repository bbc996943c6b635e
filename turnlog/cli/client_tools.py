"""Tools that whoever runs a command runs itself: described in a file, their outputs on the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from turnlog.errors import UsageError
from turnlog_schemas.json_values import MisfitError, record_reader
from turnlog_schemas.parts import ClientTool, ToolOutput
from turnlog_schemas.shorthands import spell_out

Tools = Annotated[
    Path | None,
    typer.Option(
        "--tools",
        metavar="FILE",
        help='Tools that you run, as JSON: [{"name": …, "description": …, "parameters": {…}}].',
        show_default=False,
    ),
]
ToolOutputs = Annotated[
    list[str] | None,
    typer.Option(
        "--tool-output",
        metavar="CALL=TEXT",
        help="The output of a call that the session waits for; one for each of its calls.",
        show_default=False,
    ),
]


def tools_of(path: Path | None) -> tuple[ClientTool, ...]:
    """The tools that a file describes, as a request does. Raises :class:`UsageError`."""
    if path is None:
        return ()
    try:
        body: dict[str, Any] = {"tools": json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({type(error).__name__}).") from error
    spell_out(body)
    tools = body["tools"] if isinstance(body["tools"], list) else [body["tools"]]
    try:
        return tuple(record_reader(ClientTool)(tool) for tool in tools)
    except MisfitError as error:
        raise UsageError(f"{path} describes no tool: {error}.") from error


def outputs_of(words: Sequence[str]) -> tuple[ToolOutput, ...]:
    """The outputs that ``CALL=TEXT`` stands for. Raises :class:`UsageError`."""
    outputs = []
    for word in words:
        call_id, sign, output = word.partition("=")
        if not call_id or not sign:
            raise UsageError(f"--tool-output is CALL=TEXT, not {word[:60]!r}.")
        outputs.append(ToolOutput(call_id=call_id, output=output))
    return tuple(outputs)
