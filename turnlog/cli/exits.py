"""The one place that turns an exception into an exit code and a sentence.

What each code means is said in ``turnlog_workers.base.errors``, beside the classes that have them.
"""

import errno

from turnlog.errors import EXIT_FAILED, EXIT_TIMED_OUT, TurnlogError

#: What somebody can mend who looks at the disk, and no fault of ours.
_OF_THE_DISK = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for any error that a command can end with."""
    from turnlog_workers.base.logs import without_url_secrets  # it takes a moment, which --help has no need of

    text = without_url_secrets(str(error)) or type(error).__name__
    if isinstance(error, TurnlogError):
        return error.exit_code, text
    if isinstance(error, TimeoutError):
        return EXIT_TIMED_OUT, text
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = error.filename2 or error.filename or "A file"
        return EXIT_FAILED, f"{where} cannot be written or read: {error.strerror}. Check the disk and its rights."
    return EXIT_FAILED, f"Unexpected {type(error).__name__}: {text} (--verbose shows where it comes from.)"
