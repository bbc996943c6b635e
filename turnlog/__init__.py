"""Turnlog: AI chat sessions as an event-sourced worker on Kafka. What a program that embeds it needs is named here.

Names are imported when they are first used: ``import turnlog`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnlog.client.async_client import Client, SentRequest
    from turnlog.client.chat_turn import ChatTurn
    from turnlog.client.files import file_part
    from turnlog.client.replies import FinishedTurn, Position, ReplyFrame
    from turnlog.client.session_info import ErasureReceipt, HistoryCompaction, HistoryPage, SessionInfo
    from turnlog.client.sync_client import SyncClient, SyncTurn
    from turnlog.errors import (
        BrokerUnreachableError,
        HistoryCompactionFailedError,
        MissingExtraError,
        NotFoundError,
        ReaderTooSlowError,
        RequestConflictError,
        RequestRefusedError,
        RequestTimedOutError,
        SessionArchivedError,
        SessionBusyError,
        SessionNotFoundError,
        TurnFailedError,
        TurnlogError,
        TurnTimedOutError,
        UsageError,
    )
    from turnlog.snapshot.listing import ListedSession, SessionList
    from turnlog.snapshot.live import LiveSnapshot, open_snapshot
    from turnlog_schemas.parts import (
        ClientTool,
        ContentPart,
        HistoryEntry,
        InitialMessage,
        NewSession,
        ToolCall,
        ToolOutput,
        Usage,
        content_text,
    )
    from turnlog_workers.base.config import Settings
    from turnlog_workers.runners.base import Runner, RunnerError, RunnerFactory

_HOMES = {
    "turnlog_schemas.parts": (
        *("ClientTool", "ContentPart", "HistoryEntry", "InitialMessage", "NewSession", "ToolCall", "ToolOutput"),
        *("Usage", "content_text"),
    ),
    "turnlog.client.chat_turn": ("ChatTurn",),
    "turnlog.client.files": ("file_part",),
    "turnlog.client.async_client": ("Client", "SentRequest"),
    "turnlog.errors": (
        "BrokerUnreachableError",
        "HistoryCompactionFailedError",
        "MissingExtraError",
        "NotFoundError",
        "ReaderTooSlowError",
        "RequestConflictError",
        "RequestRefusedError",
        "RequestTimedOutError",
        "SessionArchivedError",
        "SessionBusyError",
        "SessionNotFoundError",
        "TurnFailedError",
        "TurnTimedOutError",
        "TurnlogError",
        "UsageError",
    ),
    "turnlog.snapshot.listing": ("ListedSession", "SessionList"),
    "turnlog.snapshot.live": ("LiveSnapshot", "open_snapshot"),
    "turnlog.client.replies": ("FinishedTurn", "Position", "ReplyFrame"),
    "turnlog.client.session_info": ("ErasureReceipt", "HistoryCompaction", "HistoryPage", "SessionInfo"),
    "turnlog.client.sync_client": ("SyncClient", "SyncTurn"),
    "turnlog_workers.base.config": ("Settings",),
    "turnlog_workers.runners.base": ("Runner", "RunnerError", "RunnerFactory"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BrokerUnreachableError",
    "ChatTurn",
    "Client",
    "ClientTool",
    "ContentPart",
    "ErasureReceipt",
    "FinishedTurn",
    "HistoryCompaction",
    "HistoryCompactionFailedError",
    "HistoryEntry",
    "HistoryPage",
    "InitialMessage",
    "ListedSession",
    "LiveSnapshot",
    "MissingExtraError",
    "NewSession",
    "NotFoundError",
    "Position",
    "ReaderTooSlowError",
    "ReplyFrame",
    "RequestConflictError",
    "RequestRefusedError",
    "RequestTimedOutError",
    "Runner",
    "RunnerError",
    "RunnerFactory",
    "SentRequest",
    "SessionArchivedError",
    "SessionBusyError",
    "SessionInfo",
    "SessionList",
    "SessionNotFoundError",
    "Settings",
    "SyncClient",
    "SyncTurn",
    "ToolCall",
    "ToolOutput",
    "TurnFailedError",
    "TurnTimedOutError",
    "TurnlogError",
    "Usage",
    "UsageError",
    "content_text",
    "file_part",
    "open_snapshot",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
