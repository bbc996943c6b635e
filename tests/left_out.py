"""Tests that need a program which is not there are left out, and a line at the end of the run says so."""

from collections.abc import Callable, Collection

import pytest


def leave_out(
    config: pytest.Config,
    items: list[pytest.Item],
    left_out: pytest.StashKey[int],
    fixtures: Collection[str],
    is_there: Callable[[str], bool],
) -> None:
    """Take out what needs one of these fixtures whose program is not there; how many those are is put into the stash.

    ``is_there`` is asked of a fixture only where a test needs it.
    """
    needed = {name for item in items for name in getattr(item, "fixturenames", ()) if name in fixtures}
    missing = {name for name in needed if not is_there(name)}
    needing = [item for item in items if not missing.isdisjoint(getattr(item, "fixturenames", ()))]
    if not needing:
        return
    config.stash[left_out] = len(needing)
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)
