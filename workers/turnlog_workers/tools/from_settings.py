"""The tools of a worker, as its settings have them."""

from turnlog_workers.base.config import Settings
from turnlog_workers.tools.mcp_tools import McpServers
from turnlog_workers.tools.toolbox import ToolBounds, Toolbox


def toolbox_of(settings: Settings) -> Toolbox:
    """The rules, bounds and servers of the settings; nothing is imported or started before a turn asks for it."""
    bounds = ToolBounds(
        timeout_s=settings.tool_timeout_s,
        max_output_bytes=settings.max_tool_output_bytes,
        max_running=settings.max_running_tools,
        max_running_per_tool=settings.max_running_calls_per_tool,
        max_calls_per_step=settings.max_calls_per_step,
    )
    sources = []
    if settings.mcp_servers:
        sources.append(McpServers(settings.mcp_servers, connect_s=settings.mcp_connect_timeout_s))
    return Toolbox(settings.allow_tools, bounds, sources=sources)
