"""Processes that make a part of something: they end without a word when whoever started them is gone."""

import subprocess

import pytest

from turnlog_workers.base.config import Settings
from turnlog_workers.base.part_process import command_line, environment
from turnlog_workers.process.store_part_process import MODULE


@pytest.mark.parametrize("module", [MODULE, "turnlog_workers.materializer.parallel_rebuild"])
@pytest.mark.parametrize("said", ["", '{"partition": '], ids=["nothing", "half an order"])
def test_nobody_is_there_to_give_an_order(module: str, said: str) -> None:
    ended = subprocess.run(
        command_line(module),
        input=said,
        env=environment(Settings()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")
