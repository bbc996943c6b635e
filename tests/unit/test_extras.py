"""Which part of Turnlog is installed, and what is said of one that is not."""

import sys

import pytest

from turnlog_workers.base.errors import MissingExtraError
from turnlog_workers.base.extras import MODULES, Extra, installed, require


@pytest.mark.parametrize("extra", MODULES)
def test_here_everything_is_installed(extra: Extra) -> None:
    import faust  # its module has no __spec__ once it is imported

    assert faust.App
    assert installed(extra)
    require(extra, "a test")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"a query needs more than the client: pip install 'turnlog\[sql\]'$"):
        require("sql", "a query")
