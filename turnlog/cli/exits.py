"""The one place that turns an exception into an exit code and a sentence.

What each code means is said in ``turnlog_workers.base.errors``, beside the classes that have them.
"""

from turnlog.errors import EXIT_FAILED, EXIT_TIMED_OUT, TurnlogError


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for any error that a command can end with."""
    from turnlog_workers.base.logs import without_url_secrets  # it takes a moment, which --help has no need of

    text = without_url_secrets(str(error)) or type(error).__name__
    if isinstance(error, TurnlogError):
        return error.exit_code, text
    if isinstance(error, TimeoutError):
        return EXIT_TIMED_OUT, text
    return EXIT_FAILED, f"Unexpected {type(error).__name__}: {text} (--verbose shows where it comes from.)"
