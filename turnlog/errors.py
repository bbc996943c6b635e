"""What can go wrong for a program that uses Turnlog. Every error has the exit code that the command line ends with."""

EXIT_OK = 0
EXIT_FAILED = 1  #: a turn or a history compaction failed, or a history differs
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5
EXIT_TIMED_OUT = 6


class TurnlogError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = EXIT_FAILED


class UsageError(TurnlogError):
    """What was asked for makes no sense as it stands; nothing was sent."""

    exit_code = EXIT_USAGE


class BrokerUnreachableError(TurnlogError):
    """No broker answers, or it will not let us in."""

    exit_code = EXIT_UNREACHABLE


class NotFoundError(TurnlogError):
    """A topic, a session, a file or a position does not exist (any more)."""

    exit_code = EXIT_NOT_FOUND


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
