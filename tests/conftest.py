"""What every test can ask for."""

import gc
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from tests.waiting import until

pytest_plugins = [
    "tests.broker_fixture",
    "tests.browser",
    "tests.embedded_model",
    "tests.postgres",
    "tests.prometheus",
    "tests.several_processes",
]

# Some thousand tests and the modules of all of them stay to the end: looked through as often as by default, they cost a
# third of the collecting, in each process of a run.
gc.set_threshold(50_000, 20, 20)


# A shell starts what it puts into the background with Ctrl-C ignored, and so would be whatever the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.freeze()


# A busy machine is no finding: examples have no time limit of their own, the test has.
settings.register_profile("turnlog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnlog")


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    for name in ("turnlog_schemas", "turnlog_streams", "turnlog_workers", "turnlog"):
        logging.getLogger(name)  # there from now on, at the latest
    loggers = [logging.root, *(found for found in logging.root.manager.loggerDict.values() if _is_logger(found))]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in loggers]
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # of a command that ran in this process: its stream is closed
            logging.root.removeHandler(handler)
    for logger, level, propagate, disabled in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


@pytest.fixture(autouse=True)
def _logging_of_a_test() -> Iterator[None]:
    """What a test sets up of logging ends with it: others look into the log, too."""
    with _logging_as_it_was():
        yield


@pytest.fixture(scope="module", autouse=True)
def _logging_of_a_module() -> Iterator[None]:
    """As above, for what runs in the fixtures of a whole module."""
    with _logging_as_it_was():
        yield


@pytest.fixture(scope="module", autouse=True)
def _kafka_python_is_closed() -> Iterator[None]:
    """Its clients have threads, which go on connecting for as long as the process lives."""
    before = _threads_of_kafka_python()
    yield
    until(lambda: _threads_of_kafka_python() <= before, "kafka-python's threads end: a client was not closed", 60.0)


def _threads_of_kafka_python() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("kafka-io")}


def _is_logger(found: object) -> bool:
    return isinstance(found, logging.Logger)
