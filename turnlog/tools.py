"""What a tool is made of: all that the author of one imports. ``docs/tools.md`` shows how one is written."""

from turnlog_workers.tools.base import ToolContext, ToolError
from turnlog_workers.tools.function_tool import FunctionTool, tool

__all__ = ["FunctionTool", "ToolContext", "ToolError", "tool"]
