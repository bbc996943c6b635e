"""Foreign packages that have our names are found and named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from turnlog.cli import intruders

ROOT = Path(__file__).resolve().parents[2]


def home_with_all(tmp_path: Path) -> Path:
    home = tmp_path / "site-packages"
    for name, mark in {
        "schemas": "registry.py",
        "streams": "reader_rule.py",
        "workers": "runners",
        "turnlog": "cli",
    }.items():
        (home / name).mkdir(parents=True)
        (home / name / mark).touch()
    return home


def test_this_installation_is_in_order() -> None:
    assert intruders.check() is None


def test_all_four_in_one_folder_are_ours(tmp_path: Path) -> None:
    home = home_with_all(tmp_path)
    assert intruders.find_intruder(home, lambda name: home / name) is None


def test_a_package_in_another_folder_is_named(tmp_path: Path) -> None:
    home = home_with_all(tmp_path)
    elsewhere = tmp_path / "elsewhere" / "workers"
    sentence = intruders.find_intruder(home, lambda name: elsewhere if name == "workers" else home / name)
    assert sentence is not None
    assert "'workers'" in sentence
    assert str(elsewhere) in sentence


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    home = home_with_all(tmp_path)
    sentence = intruders.find_intruder(home, lambda name: None if name == "schemas" else home / name)
    assert sentence is not None
    assert "'schemas' is missing" in sentence


def test_a_package_installed_over_ours_is_named(tmp_path: Path) -> None:
    home = home_with_all(tmp_path)
    (home / "schemas" / "registry.py").unlink()
    sentence = intruders.find_intruder(home, lambda name: home / name)
    assert sentence is not None
    assert "installed over" in sentence


def test_a_foreign_distribution_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "workers":
            return "1.2.3"
        raise intruders.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(intruders.importlib.metadata, "version", version)
    sentence = intruders.find_foreign_distribution()
    assert sentence is not None
    assert "'workers' 1.2.3" in sentence


def run_with_intruder(tmp_path: Path, package: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    # The intruder comes first on the path, as a folder of that name does for `python -m`.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", "from turnlog.cli import main; main()", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("package", ["schemas", "workers"])
def test_the_command_line_refuses_to_run_with_one(tmp_path: Path, package: str) -> None:
    done = run_with_intruder(tmp_path, package, "sessions", "list")
    assert done.returncode == 2
    assert f"'{package}'" in done.stderr
    assert str(tmp_path / package) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_finds_it_too(tmp_path: Path) -> None:
    done = run_with_intruder(tmp_path, "schemas", "doctor")
    assert done.returncode == 2
    assert done.stdout.startswith("FAILED   installation: Python finds another package 'schemas'")
    assert done.stderr == ""
