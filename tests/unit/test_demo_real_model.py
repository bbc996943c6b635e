"""The demo where there is no real model: a sentence, and the recorded one was enough."""

from pathlib import Path

import pytest

from turnlog.cli import processes
from turnlog.demo.killer import Killer
from turnlog.demo.real_model import show_real_model
from turnlog.demo.screen import Screen
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.smollm2 import packages


async def test_without_a_model_it_says_why_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    why = "The package index does not answer."
    assert await show_real_model(why, Settings(), screen, Killer(tmp_path, screen)) is None
    assert f"No real model here: {why} What you saw was a recorded one." in capsys.readouterr().out


def test_what_cannot_be_installed_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(_: object) -> bool:
        raise packages.ModelInstallError("No network.")

    monkeypatch.setattr(packages, "install", install)
    assert processes._install_model() == "No network."
    monkeypatch.setattr(packages, "install", lambda _: False)
    assert processes._install_model() == ""
