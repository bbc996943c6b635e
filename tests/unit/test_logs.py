"""What a log line looks like, and what never stands in one."""

import io
import json
import logging
import sys
from collections import OrderedDict
from collections.abc import Iterator

import pytest

from turnlog_workers.base import logs
from turnlog_workers.base.config import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    for name in ("turnlog_schemas", "turnlog_streams", "turnlog_workers", "turnlog"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.set_up(Settings(), stream)
    place = logs.at(session="web-1", turn="t-1", topic="chat.requests", partition=3, offset=17)
    logging.getLogger("turnlog_workers.shard.partition").warning("refused: %s", "busy", extra=place)
    assert stream.getvalue()[13:] == (
        "WARNING turnlog_workers.shard.partition: refused: busy (session=web-1 turn=t-1 chat.requests[3]@17)\n"
    )


def test_elsewhere_it_is_one_json_object_a_line() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(), stream)
    log = logging.getLogger("turnlog_workers.shard.partition")
    log.info("two\nlines", extra=logs.at(session="web-1", partition=0, offset=0))
    try:
        raise ValueError("what happened")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "INFO",
        "logger": "turnlog_workers.shard.partition",
        "message": "two\nlines",
        "session": "web-1",
        "partition": 0,
        "offset": 0,
    }
    assert "ValueError: what happened" in second["exception"]


def test_the_setting_decides_over_the_stream() -> None:
    stream = Terminal()
    logs.set_up(Settings(log_format="json"), stream)
    logging.getLogger("turnlog_workers").warning("x")
    assert json.loads(stream.getvalue())["message"] == "x"
    stream = io.StringIO()
    logs.set_up(Settings(log_format="human"), stream)  # type: ignore[arg-type]
    logging.getLogger("turnlog_workers").warning("x")
    assert stream.getvalue().endswith("WARNING turnlog_workers: x\n")


def test_the_level_holds_and_libraries_are_quieter() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(log_level="INFO"), stream)
    logging.getLogger("turnlog_workers").debug("no")
    logging.getLogger("aiokafka.consumer").info("no")
    logging.getLogger("kafka.net.selector").warning("no")
    assert stream.getvalue() == ""
    logging.getLogger("aiokafka.consumer").warning("yes")
    assert "yes" in stream.getvalue()


def test_our_debug_lines_do_not_drown_in_those_of_libraries() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(log_level="DEBUG"), stream)
    logging.getLogger("turnlog_workers.shard.partition").debug("ours")
    for name in ("aiokafka.consumer", "faust.app", "kafka.net.selector", "openai._base_client", "some_plug_in"):
        logging.getLogger(name).debug("theirs")
    assert "ours" in stream.getvalue()
    assert "theirs" not in stream.getvalue()
    logging.getLogger("some_plug_in").info("said at INFO")
    assert "said at INFO" in stream.getvalue()


def test_libraries_are_heard_where_somebody_asks_for_them() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(log_level="WARNING", library_log_level="DEBUG"), stream)
    for name in ("aiokafka.consumer", "kafka.net.selector", "some_plug_in"):
        logging.getLogger(name).debug("now yes, %s", name)
        assert f"now yes, {name}" in stream.getvalue()
    logging.getLogger("turnlog_workers.shard.partition").info("not ours")
    assert "not ours" not in stream.getvalue()


def test_only_the_named_fields_are_written() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(), stream)
    logging.getLogger("turnlog_workers").warning("x", extra={"text": "what the user wrote", "session": "web-1"})
    assert "what the user wrote" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_planted_secret_stands_in_no_line(log_format: str) -> None:
    secret = 'pass"wo\\rd~1'
    stream = io.StringIO()
    settings = Settings(sasl_password=secret, log_format=log_format)  # type: ignore[arg-type]
    logs.set_up(settings, stream)
    log = logging.getLogger("turnlog_workers")
    log.error("cannot log in with %s", secret)
    log.error("options %r", {"sasl_plain_password": secret})
    log.error("settings %s", settings)
    try:
        raise ValueError(f"bad credentials {secret}")
    except ValueError:
        log.exception("failed", stack_info=True)
    out = stream.getvalue()
    assert "pass" not in out.replace("password", "")
    assert "wo\\rd" not in out


def test_what_the_environment_holds_under_a_secrets_name_stands_in_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "planted-for-a-plug-in")
    stream = io.StringIO()
    logs.set_up(Settings(), stream)
    logging.getLogger("a_plug_in").warning("asked with planted-for-a-plug-in")
    assert "asked with [secret]" in stream.getvalue()
    assert logs.without_known_secrets("refused planted-for-a-plug-in, password=x") == "refused [secret], password=x"


def test_of_tokens_that_change_the_newest_are_known_and_what_was_there_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_kept_secrets", OrderedDict())
    monkeypatch.setattr(logs, "_MAX_KEPT_SECRETS", 3)
    monkeypatch.setenv("SHOP_API_KEY", "of-the-start")
    logs.set_up(Settings(sasl_password="a-password"), io.StringIO())  # type: ignore[arg-type]
    for number in range(10):
        logs.keep_secret("in-use-again")
        logs.keep_secret(f"token-{number}")
    assert list(logs._kept_secrets) == ["token-8", "in-use-again", "token-9"]
    known = [*logs._kept_secrets, "of-the-start", "a-password"]
    assert logs.redacted(" ".join(known)) == " ".join(["[secret]"] * 5)
    assert logs.redacted("token-0 token-7") == "token-0 token-7"
    logs.set_up(Settings(), io.StringIO())
    assert logs.redacted("token-9 a-password") == "[secret] a-password"


def test_a_key_in_the_address_of_a_tool_server_is_a_secret() -> None:
    url = "https://tools.example/mcp?tenant=acme-shop&api_key=hunter2-hunter2&sig=x"
    settings = Settings(mcp_servers={"shop": {"url": url}})  # type: ignore[dict-item]
    assert logs.secrets_of(settings) == ("hunter2-hunter2",)


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("password=hunter2, user=me", "password=[secret], user=me"),
        ("{'sasl_plain_password': 'hun ter'}", "{'sasl_plain_password': [secret]}"),
        ('{"api_key": "hunter2"}', '{"api_key": [secret]}'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer [secret]"),
        ("sent bearer abcdef.ghijkl-mnop==", "sent bearer [secret]"),
        ("the bearer of this", "the bearer of this"),
        ("https://me:hunter2@host/x", "https://[secret]@host/x"),
        ("https://hunter2@host/x", "https://[secret]@host/x"),
        ("redis://:hun@ter2@host:1/x", "redis://[secret]@host:1/x"),
        ("asked https://host/mcp?key=hunter2&v=2 in vain", "asked https://host/mcp?[secret] in vain"),
        ("{'url': 'https://host/x?hunter2', 'n': 1}", "{'url': 'https://host/x?[secret]', 'n': 1}"),
        ("(is it https://host/x?) Ask me@host?", "(is it https://host/x?) Ask me@host?"),
        ("https://host/x#options", "https://host/x#options"),
        ("key sk-abcdefghijklmnopqrstuvwx", "key [secret]"),
        ("fencing_token=17 epoch=17", "fencing_token=17 epoch=17"),
        ("kafka://localhost:9092", "kafka://localhost:9092"),
        ("chat.requests[3]@17: unknown command", "chat.requests[3]@17: unknown command"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_nothing_else(line: str, clean: str) -> None:
    assert logs.SecretFilter().redact(line) == clean


def test_warnings_of_libraries_are_logged_too() -> None:
    stream = io.StringIO()
    logs.set_up(Settings(), stream)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old thing" in stream.getvalue()
    assert sys.stderr is not stream


def test_what_a_library_repeats_comes_through_once_in_a_while() -> None:
    stream, clock = io.StringIO(), iter([0.0, 1.0, 2.0, 9.0, 11.0, 11.5])
    logs.set_up(Settings(log_format="human"), stream)
    (handler,) = logging.getLogger().handlers
    (seldom,) = (found for found in handler.filters if isinstance(found, logs.SeldomFilter))
    seldom._now = lambda: next(clock)
    for _ in range(5):
        logging.getLogger("aiokafka.consumer").error("Unable connect to node with id %s: %s", 1, "refused")
    logging.getLogger("aiokafka.consumer").error("something else")
    for _ in range(3):
        logging.getLogger("turnlog_workers.shard.partition").error("ours is never held back")
    said = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert said == [
        "Unable connect to node with id 1: refused",
        "Unable connect to node with id 1: refused (and 3 times since it was last said)",
        "something else",
        *["ours is never held back"] * 3,
    ]


def test_a_quiet_library_says_nothing_until_the_last_has_ended() -> None:
    library = logging.getLogger("a.library.of.theirs")
    before = library.level
    with logs.quiet(library.name):
        with logs.quiet(library.name):
            assert not library.isEnabledFor(logging.CRITICAL)
        assert not library.isEnabledFor(logging.CRITICAL)
    assert library.level == before
    library.setLevel(logging.DEBUG)
    with logs.quiet(library.name):
        assert library.isEnabledFor(logging.DEBUG), "who asked for everything gets it"
