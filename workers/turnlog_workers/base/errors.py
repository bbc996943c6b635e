"""Errors that a person or a program meets. Each has the exit code that the command line ends with."""

from typing import ClassVar, Final

#: What each exit code of ``turnlog`` means. README.md and docs/reference.md list them, too.
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1  #: a turn or a history compaction failed, a history differs, or something unexpected happened
EXIT_USAGE: Final = 2  #: what was asked for makes no sense as it stands, or a part of Turnlog is not installed
EXIT_UNREACHABLE: Final = 3  #: no broker answers
EXIT_NOT_FOUND: Final = 4
EXIT_REFUSED: Final = 5
EXIT_TIMED_OUT: Final = 6


class TurnlogError(Exception):
    """Base of all errors that Turnlog raises on purpose. The text is a sentence for whoever has to do something."""

    exit_code: ClassVar[int] = EXIT_FAILED


class UsageError(TurnlogError):
    """What was asked for makes no sense as it stands; nothing was sent."""

    exit_code = EXIT_USAGE


class MissingExtraError(UsageError):
    """A part of Turnlog is not installed: the sentence names the extra that brings it."""


class BrokerUnreachableError(TurnlogError):
    """No broker answers, or it will not let us in."""

    exit_code = EXIT_UNREACHABLE


class BrokerRefusesError(BrokerUnreachableError):
    """A broker answers, and will not let us in: to try again cannot help."""


class NotFoundError(TurnlogError):
    """A topic, a session, a file or a position does not exist (any more)."""

    exit_code = EXIT_NOT_FOUND
