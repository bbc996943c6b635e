"""Passes of the garbage collector: what is young is looked at, what survives not again, until it is time."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.waiting import eventually
from turnlog_workers.base import garbage as garbage_module
from turnlog_workers.base.garbage import GarbagePasses


class _Node:
    """Its own garbage: it is in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was before."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class _Clock:
    now = 0.0


def test_young_garbage_goes_at_a_pass_and_what_lives_is_put_away(collector: None) -> None:
    passes = GarbagePasses(is_quiet=lambda: False, now=lambda: 0.0)
    gc.freeze()
    garbage, alive = weakref.ref(_Node()), _Node()
    passes.pass_once()
    assert garbage() is None
    assert not any(held is alive for held in gc.get_objects())  # of all that a pass looks at


@pytest.mark.parametrize(
    ("seconds", "quiet", "looks_at_everything"),
    [(599.0, True, False), (600.0, True, True), (3599.0, False, False), (3600.0, False, True)],
)
def test_garbage_that_was_put_away_is_found_when_it_is_time(
    collector: None, seconds: float, quiet: bool, looks_at_everything: bool
) -> None:
    clock = _Clock()
    passes = GarbagePasses(is_quiet=lambda: quiet, now=lambda: clock.now)
    node = _Node()
    passes.pass_once()
    gone = weakref.ref(node)
    del node
    passes.pass_once()
    assert gone() is not None
    clock.now = seconds
    passes.pass_once()
    assert (gone() is None) is looks_at_everything
    assert gc.get_freeze_count() > 0


async def test_what_is_too_much_is_put_away_unseen_while_looks_find_next_to_nothing(collector: None) -> None:
    clock = _Clock()
    passes = GarbagePasses(is_quiet=lambda: False, now=lambda: clock.now)
    passes.start()
    gc.disable()  # no pass but theirs
    try:
        clean = [[n] for n in range(25_000)]
        for _ in range(50):
            _Node()
        passes.pass_once()
        assert passes._missed == 0
        clean += [[n] for n in range(25_000)]
        garbage = weakref.ref(_Node())
        await eventually(lambda: gc.get_count()[0] < 20_000, "it is put away")
        assert garbage() is not None
        assert 45 < passes._missed < 55

        later = weakref.ref(_Node())
        clock.now += 5.0
        await eventually(lambda: later() is None, "a look every few seconds")

        for _ in range(25_000):
            _Node()
        later = weakref.ref(_Node())
        clock.now += 5.0
        await eventually(lambda: later() is None, "the look that finds much")
        for _ in range(25_000):
            _Node()
        later = weakref.ref(_Node())
        await eventually(lambda: later() is None, "from then on all is looked at")
    finally:
        gc.enable()
        passes.stop()
        await asyncio.sleep(0)


def test_much_garbage_that_was_put_away_unseen_does_not_wait(collector: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_module, "_MANY_MISSED", 150)
    passes = GarbagePasses(is_quiet=lambda: False, now=lambda: 0.0)
    gc.disable()  # no pass but theirs
    try:
        gc.freeze()
        alive = [[n] for n in range(20_000)]
        for _ in range(100):
            _Node()
        passes.pass_once()  # finds a half per cent
        alive += [[n] for n in range(500)]
        passes.pass_once()  # too few to tell
        gone = weakref.ref(_Node())
        for waits in (True, False):
            alive += [[n] for n in range(20_000)]
            passes.put_away()
            passes.pass_once()
            assert (gone() is not None) is waits
        assert passes._missed == 0
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()


async def test_they_come_by_themselves_until_they_are_stopped(collector: None) -> None:
    passes = GarbagePasses(is_quiet=lambda: False)
    passes.start()
    garbage = weakref.ref(_Node())
    await eventually(lambda: garbage() is None, "the garbage is gone")
    passes.stop()
    await asyncio.sleep(0)
