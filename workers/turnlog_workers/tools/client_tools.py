"""Tools that a request brings, as models are told of them: nobody here runs them."""

import json
from collections.abc import Sequence

from turnlog_schemas.parts import ClientTool
from turnlog_workers.runners.base import ToolDefinition


def client_tools(tools: Sequence[ClientTool]) -> tuple[ToolDefinition, ...]:
    """Their definitions. What the reader of requests let through is the JSON schema of an object."""
    return tuple(
        ToolDefinition(
            name=tool.name, description=tool.description, parameters=json.loads(tool.parameters), client=True
        )
        for tool in tools
    )
