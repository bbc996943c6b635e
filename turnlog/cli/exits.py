"""The one place that turns an exception into an exit code and a sentence."""

import sys

from turnlog.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_TIMED_OUT,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    TurnlogError,
)

#: Errors of other modules: exit code by module and class name. Subclasses stand before their base.
_CODES: tuple[tuple[str, str, int], ...] = (
    ("turnlog_workers.devstack.stack_dir", "StackInUseError", EXIT_USAGE),
    ("turnlog_workers.devstack.stack_dir", "DataDirError", EXIT_USAGE),
    ("turnlog_workers.devstack.stack_dir", "StackError", EXIT_FAILED),
    ("turnlog_workers.devstack.broker_ports", "PortTakenError", EXIT_USAGE),
    ("turnlog_workers.devstack.broker_dir", "DataDirInUseError", EXIT_USAGE),
    ("turnlog_workers.devstack.broker_files", "BrokerError", EXIT_UNREACHABLE),
    ("turnlog_workers.kafka.kafka_python", "BrokerUnreachableError", EXIT_UNREACHABLE),
    ("turnlog_workers.kafka.topics_admin", "TopicsError", EXIT_NOT_FOUND),
    ("turnlog_workers.base.settings_check", "SettingsError", EXIT_USAGE),
    ("turnlog_workers.membership.worker_name", "NameTakenError", EXIT_USAGE),
)


def _class(module: str, name: str) -> type[BaseException] | None:
    """An exception class, if its module was imported at all: what was not cannot have raised it."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for any error that a command can end with."""
    text = str(error) or type(error).__name__
    if isinstance(error, TurnlogError):
        return error.exit_code, text
    for module, name, code in _CODES:
        kind = _class(module, name)
        if kind is not None and isinstance(error, kind):
            return code, text
    if _is(error, "pydantic", "ValidationError"):
        return EXIT_USAGE, _settings_sentence(error)
    if isinstance(error, TimeoutError):
        return EXIT_TIMED_OUT, text
    return EXIT_FAILED, f"Unexpected {type(error).__name__}: {text} (--verbose shows where it comes from.)"


def _is(error: BaseException, module: str, name: str) -> bool:
    kind = _class(module, name)
    return kind is not None and isinstance(error, kind)


def _settings_sentence(error: BaseException) -> str:
    problems = []
    for problem in error.errors(include_url=False):  # type: ignore[attr-defined]
        name = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        problems.append(f"TURNLOG_{name.upper()}: {what}" if name else what)
    return "A setting cannot be used. " + "; ".join(problems)
