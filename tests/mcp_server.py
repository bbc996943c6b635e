"""A small server of tools: ``python -m tests.mcp_server`` speaks over its standard streams."""

import os

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("small")


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
async def fails() -> str:
    """Never works."""
    raise ToolError("this never works")


@server.tool()
async def told(context: Context) -> str:
    """What the caller said beside the arguments."""
    meta = context.request_context.meta
    return str(dict(meta or {}))


@server.tool()
async def dies() -> str:
    """Takes the server with it."""
    os._exit(3)


@server.tool()
async def given() -> str:
    """A variable that it was given, and one that it was not."""
    return f"{os.environ.get('GIVEN_TO_TOOLS')} {os.environ.get('NOT_GIVEN_TO_TOOLS')}"


if __name__ == "__main__":
    server.run()
