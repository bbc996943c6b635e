"""What a runner is made of: all that the author of a plug-in imports. ``docs/runners.md`` shows how one is written.

It needs no more than the client's installation: neither Faust nor a broker.
"""

from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import ContentPart, ToolCall, Usage, content_text, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages
from turnlog_workers.runners.base import (
    CONTEXT_TOO_LONG,
    AssistantMessage,
    ReasoningDelta,
    Runner,
    RunnerError,
    RunnerFactory,
    RunnerOutput,
    TakesFiles,
    TextDelta,
    ToolDefinition,
    ToolResult,
    TurnFiles,
    TurnInput,
    TurnTools,
    UsageReport,
)

__all__ = [
    "CONTEXT_TOO_LONG",
    "AssistantMessage",
    "ContentPart",
    "GenerationParams",
    "HistoryMessage",
    "ReasoningDelta",
    "Runner",
    "RunnerError",
    "RunnerFactory",
    "RunnerOutput",
    "TakesFiles",
    "TextDelta",
    "ToolCall",
    "ToolDefinition",
    "ToolResult",
    "TurnFiles",
    "TurnInput",
    "TurnTools",
    "Usage",
    "UsageReport",
    "content_text",
    "openai_messages",
    "text_content",
]
