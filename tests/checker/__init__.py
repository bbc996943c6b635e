"""The checker: one pure function over what a run left behind. It knows nothing of how the run was made."""

from tests.checker.effects import LateFrame, check_frames, check_tools, late_frames
from tests.checker.forwards import check_forwards
from tests.checker.history import Anomaly, GroupCommit, History, SeenFrame, SentRequest, StoreContent, ToolRun
from tests.checker.history_compactions import check_history_compactions
from tests.checker.lifecycle import check_lifecycle
from tests.checker.log_view import LogView, accepted_events
from tests.checker.neighbours import check_neighbours
from tests.checker.requests import check_requests
from tests.checker.stores import check_stores
from tests.checker.streams import check_log


def check(history: History) -> list[Anomaly]:
    """Everything in the history that must not be."""
    view = LogView(history)
    return [
        *check_log(view),
        *check_requests(view),
        *check_history_compactions(view),
        *check_frames(view),
        *check_tools(view),
        *check_forwards(view),
        *check_neighbours(view),
        *check_stores(view),
    ]


__all__ = [
    "Anomaly",
    "GroupCommit",
    "History",
    "LateFrame",
    "SeenFrame",
    "SentRequest",
    "StoreContent",
    "ToolRun",
    "accepted_events",
    "check",
    "check_lifecycle",
    "late_frames",
]
