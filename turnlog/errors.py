"""What can go wrong for a program that uses Turnlog. Every error has the exit code that the command line ends with."""

from turnlog_workers.base.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_TIMED_OUT,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    BrokerUnreachableError,
    MissingExtraError,
    NotFoundError,
    TurnlogError,
    UsageError,
)


class RequestRefusedError(TurnlogError):
    """A request is not carried out. ``code`` is stable and machine-readable, ``reason`` is a sentence."""

    exit_code = EXIT_REFUSED

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"refused ({code}): {reason}")
        self.code = code
        self.reason = reason


class SessionBusyError(RequestRefusedError):
    """Refused with code ``busy``: the session has turns that are not ended. Another try later may be accepted."""


class SessionArchivedError(RequestRefusedError):
    """Refused with code ``archived``: the session stays readable, and takes no more messages."""


class RequestConflictError(RequestRefusedError):
    """Refused with code ``conflict``: the request id was used before, for something else."""


class SessionNotFoundError(NotFoundError, RequestRefusedError):
    """Refused with code ``not_found``: no such session, or a channel without an active one."""


class TurnFailedError(TurnlogError):
    """A turn ended, and not well: ``status`` is ``failed`` or ``cancelled``."""

    def __init__(self, status: str, code: str, reason: str) -> None:
        super().__init__(f"the turn {'was cancelled' if status == 'cancelled' else 'failed'} ({code}): {reason}")
        self.status = status
        self.code = code
        self.reason = reason


class HistoryCompactionFailedError(TurnlogError):
    """No summary of the session's history could be had. The history is as it was; ``code`` and ``reason`` say why.

    Another request, with an id of its own, tries again.
    """

    def __init__(self, session_id: str, code: str, reason: str) -> None:
        super().__init__(f"the history of session {session_id} was not compacted ({code}), it is as it was: {reason}")
        self.code = code
        self.reason = reason


class RequestTimedOutError(TurnlogError):
    """No answer came in time. The request may be carried out all the same: ask again with the same request id."""

    exit_code = EXIT_TIMED_OUT


class TurnTimedOutError(RequestTimedOutError):
    """No terminal frame came in time. The turn may still end: ask again with the same request id."""


class ReaderTooSlowError(TurnlogError):
    """The frames of a turn were not read while they came. ``ChatTurn.result`` works all the same."""


class SnapshotBehindError(TurnlogError):
    """The published snapshot did not catch up with the log in time, or is not there."""

    exit_code = EXIT_TIMED_OUT


_BY_CODE: dict[str, type[RequestRefusedError]] = {
    "busy": SessionBusyError,
    "archived": SessionArchivedError,
    "conflict": RequestConflictError,
    "not_found": SessionNotFoundError,
}


def refusal(code: str, reason: str) -> RequestRefusedError:
    """The error of a refusal code."""
    return _BY_CODE.get(code, RequestRefusedError)(code, reason)


__all__ = [
    "EXIT_FAILED",
    "EXIT_NOT_FOUND",
    "EXIT_OK",
    "EXIT_REFUSED",
    "EXIT_TIMED_OUT",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
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
    "SnapshotBehindError",
    "TurnFailedError",
    "TurnTimedOutError",
    "TurnlogError",
    "UsageError",
    "refusal",
]
