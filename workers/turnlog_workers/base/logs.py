"""Logging of every process: lines for people on a terminal, one JSON object a line elsewhere; no secrets in either.

A record says where it belongs with ``extra=at(...)``: the session, the turn, the record ``topic[partition]@offset``.
Text of messages never belongs into a log; only the fields named here are written, whatever else ``extra`` holds.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO
from urllib.parse import parse_qsl, urlsplit

from turnlog_workers.base.config import Settings
from turnlog_workers.base.model_servers import secrets_in_environment

_REDACTED = "[secret]"
_FIELDS = ("session", "turn", "topic", "partition", "offset")
_OURS = ("turnlog_schemas", "turnlog_streams", "turnlog_workers", "turnlog")
#: Libraries that tell their own story at INFO; ours says what matters.
_TALKATIVE = ("aiokafka", "kafka", "faust", "mode", "asyncio")
_ALIKE_CHARACTERS = 40
_MAX_KINDS = 1000
#: Warns of each step of its own loop that takes 0.1 s, as the first connection of every process does.
_NERVOUS = "kafka.net.selector"
_NAMED_SECRET = re.compile(
    r"((?:(?:password|passwd|secret|api[_-]?key)|(?:access|auth|bearer)[_-]token|authorization)[\"']?\s*[=:]\s*"
    r"(?:(?:bearer|basic)\s+)?)(\"[^\"]*\"|'[^']*'|[^\s,;)}\]]+)",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(\w://)[^/\s?#\"<>]{1,2000}@")
_URL_QUERY = re.compile(r"(\w://[^\s?#\"'<>]{1,2000}\?)(?=[\w%&=/+-])[^\s\"'<>]+")  # it may be signed
_SECRET_PARAMETER = re.compile(r"key|token|secret|sig|pass|auth|cred|code", re.IGNORECASE)
_MODEL_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{16,}")
_BEARER = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE)


def at(
    *,
    session: str | None = None,
    turn: str | None = None,
    topic: str | None = None,
    partition: int | None = None,
    offset: int | None = None,
) -> dict[str, Any]:
    """The ``extra`` of a log call: where the record belongs."""
    place = {"session": session, "turn": turn, "topic": topic, "partition": partition, "offset": offset}
    return {name: value for name, value in place.items() if value is not None}


def place_of(record: logging.LogRecord) -> dict[str, Any]:
    """What :func:`at` gave to a record."""
    return {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}


class SecretFilter(logging.Filter):
    """Takes secrets out of a record's message and traceback: the known values, and what looks like one."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._secrets: list[str] = []
        self._formatter = logging.Formatter()
        self.know(*secrets)

    def know(self, *secrets: str) -> None:
        """Take out these values from now on, and no others."""
        # A value may also appear as Python or JSON would quote it.
        forms = {form for s in secrets if s for form in (s, repr(s)[1:-1], json.dumps(s)[1:-1])}
        self._secrets = sorted(forms, key=len, reverse=True)

    def without_known(self, text: str) -> str:
        """The text without the values that are known to be secret."""
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text

    def redact(self, text: str) -> str:
        """The text without secrets."""
        text = self.without_known(text)
        text = _NAMED_SECRET.sub(rf"\g<1>{_REDACTED}", text)
        text = without_url_secrets(text)
        text = _BEARER.sub(rf"\g<1>{_REDACTED}", text)
        return _MODEL_KEY.sub(_REDACTED, text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record pass, clean."""
        message = record.getMessage()
        clean = self.redact(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_text is None:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.redact(record.exc_text)
        if record.stack_info:
            record.stack_info = self.redact(record.stack_info)
        return True


def without_url_secrets(text: str) -> str:
    """Addresses without a name and password, and without what stands behind their ``?``."""
    text = _URL_CREDENTIALS.sub(rf"\g<1>{_REDACTED}@", text)
    return _URL_QUERY.sub(rf"\g<1>{_REDACTED}", text)


_in_force = SecretFilter()
_set_up_with: tuple[str, ...] = ()  # secrets that a process has from its start to its end
_kept_secrets: OrderedDict[str, None] = OrderedDict()  # keys and tokens that were read since, the latest used last
_keeping = threading.Lock()
_MIN_SECRET_CHARACTERS = 6  # a shorter one is no secret, and would be found in every other word
_MAX_KEPT_SECRETS = 300  # tokens change every few minutes, each line is searched for all; more than there are servers


def keep_secret(secret: str) -> None:
    """Take this value out of every line that is logged from now on, until many others have been used after it."""
    if len(secret) < _MIN_SECRET_CHARACTERS:
        return
    with _keeping:
        known = secret in _kept_secrets
        _kept_secrets[secret] = None
        _kept_secrets.move_to_end(secret)
        while len(_kept_secrets) > _MAX_KEPT_SECRETS:
            _kept_secrets.popitem(last=False)
        if not known:
            _in_force.know(*_set_up_with, *_kept_secrets)


def redacted(text: str) -> str:
    """A text without the secrets that the log knows of: to be called before a text is cut, else half a secret stays."""
    return _in_force.redact(text)


def without_known_secrets(text: str) -> str:
    """A text that goes to users and models: without the values that are known to be secret, and else as it is."""
    return _in_force.without_known(text)


class HumanFormatter(logging.Formatter):
    """``12:03:04.123 WARNING turnlog_workers.shard.partition: what happened (session=web-1 chat.requests[3]@17)``."""

    _COLOURS: Mapping[int, str] = {
        logging.DEBUG: "\x1b[2m",
        logging.WARNING: "\x1b[33m",
        logging.ERROR: "\x1b[31m",
        logging.CRITICAL: "\x1b[31;1m",
    }

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
        self._colours = colours

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line, with the place the record belongs to."""
        line = super().formatMessage(record)
        place = _human_place(record)
        if place:
            line = f"{line} ({place})"
        colour = self._COLOURS.get(record.levelno) if self._colours else None
        return f"{colour}{line}\x1b[0m" if colour else line


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, place, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        out: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **place_of(record),
        }
        exception = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        if exception:
            out["exception"] = exception
        if record.stack_info:
            out["stack"] = record.stack_info
        return json.dumps(out, default=str)


def _human_place(record: logging.LogRecord) -> str:
    place = place_of(record)
    words = [f"{name}={place[name]}" for name in ("session", "turn") if name in place]
    if "topic" in place or "partition" in place:
        partition = f"[{place['partition']}]" if "partition" in place else ""
        offset = f"@{place['offset']}" if "offset" in place else ""
        words.append(f"{place.get('topic', '')}{partition}{offset}")
    return " ".join(words)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Every secret value among the settings; of a tool server's address what its query's ``key=`` and the like say."""
    values = (getattr(settings, name) for name in type(settings).model_fields)
    whole = (secret for value in values if hasattr(value, "get_secret_value") and (secret := value.get_secret_value()))
    queries = (query for server in settings.mcp_servers.values() for query in parse_qsl(urlsplit(server.url).query))
    return (*whole, *(value for name, value in queries if _is_named_secret(name, value)))


def _is_named_secret(name: str, value: str) -> bool:
    return len(value) >= _MIN_SECRET_CHARACTERS and _SECRET_PARAMETER.search(name) is not None


#: How many keep a library quiet at the moment, and the level that it had before.
_quiet: dict[str, tuple[int, int]] = {}
_quieting = threading.Lock()


class SeldomFilter(logging.Filter):
    """Lets what a library repeats through once in a while: without a broker they write dozens of lines a second.

    Lines of one logger that begin alike are taken for repetitions; a line that comes through says how many were kept.
    """

    def __init__(
        self, names: Sequence[str], *, interval_s: float = 10.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._names = tuple(names)
        self._interval_s = interval_s
        self._now = now
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in self._names or record.levelno < logging.WARNING:
            return True
        key = record.name, str(record.msg)[:_ALIKE_CHARACTERS]
        said_at, kept = self._seen.get(key, (-self._interval_s, 0))
        now = self._now()
        if now < said_at + self._interval_s:
            self._seen[key] = said_at, kept + 1
            return False
        if len(self._seen) >= _MAX_KINDS and key not in self._seen:
            self._seen.clear()
        self._seen[key] = now, 0
        if kept:
            record.msg, record.args = f"{record.getMessage()} (and {kept} times since it was last said)", None
        return True


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep a library to itself while it tries what we tell of ourselves; at ``DEBUG`` it goes on talking."""
    logger = logging.getLogger(library)
    with _quieting:
        users, before = _quiet.get(library, (0, logger.level))
        _quiet[library] = (users + 1, before)
        if logger.getEffectiveLevel() > logging.DEBUG:
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _quieting:
            users, before = _quiet.pop(library)
            if users > 1:
                _quiet[library] = (users - 1, before)
            else:
                logger.setLevel(before)


def set_up(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logging to ``stream`` (default: standard error) in the form that ``settings.log_format`` asks for.

    ``settings.log_level`` is that of our own loggers. Libraries stay above it unless ``settings.library_log_level``
    asks for more: at DEBUG a Kafka client drowns everything, and a model's client may write whole prompts.
    Replaces what was set up before, so it may be called again.
    """
    global _in_force, _set_up_with
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    human = settings.log_format == "human" or (settings.log_format == "auto" and on_terminal)
    handler = logging.StreamHandler(stream)
    colours = on_terminal and not os.environ.get("NO_COLOR")
    handler.setFormatter(HumanFormatter(colours=colours) if human else JsonFormatter())
    named = secrets_in_environment()  # a plug-in's, and a tool's: what they raise may quote them
    with _keeping:
        _set_up_with = (*secrets_of(settings), *(each for each in named if len(each) >= _MIN_SECRET_CHARACTERS))
        _in_force = SecretFilter((*_set_up_with, *_kept_secrets))
    handler.addFilter(_in_force)
    handler.addFilter(SeldomFilter(_TALKATIVE))
    levels = logging.getLevelNamesMapping()
    ours, theirs = levels[settings.log_level], levels[settings.library_log_level]
    asked_for = theirs < logging.WARNING
    logging.basicConfig(handlers=[handler], level=theirs if asked_for else max(ours, logging.INFO), force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(ours)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(theirs if asked_for else max(ours, theirs))
    logging.getLogger(_NERVOUS).setLevel(theirs if theirs == logging.DEBUG else max(ours, logging.ERROR))
    logging.captureWarnings(True)
