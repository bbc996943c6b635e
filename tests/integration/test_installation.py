"""The wheel, installed as a program's dependency: beside folders of the usual names, with few packages, and small."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.light_install import client_distributions
from tests.project import VERSION

ROOT = Path(__file__).resolve().parents[2]
MOST_PACKAGES = 24
MOST_MB = 65
APPLICATION = """
import schemas, streams, workers
from turnlog import Client, TurnlogError
from turnlog.runner import Runner
from turnlog_schemas.registry import packaged
from turnlog_workers.base.config import Settings

assert schemas.OURS and streams.OURS and workers.OURS
assert len(packaged().all_current()) > 40
client = Client(Settings(bootstrap_server="kafka:9092"))
print(client.settings.bootstrap_server)
"""


def run(*command: str | Path, folder: Path) -> str:
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder, folder=ROOT)
    return folder


@pytest.fixture(scope="module")
def interpreter(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the packages that it asks for: copied from here, so no network."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name, package in client_distributions().items():
        for file in package.files or () if name != "turnlog" else ():
            if ".." not in file.parts:  # a command: not of the library
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    python = folder / "bin" / "python"
    (wheel,) = archives.glob("*.whl")
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel)
    run(sys.executable, *install, folder=folder)
    return python


def test_an_application_keeps_its_own_folders(interpreter: Path, tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("OURS = True\n")
    for name in ("streams", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OURS = True\n")
    (tmp_path / "app.py").write_text(APPLICATION)
    assert run(interpreter, "app.py", folder=tmp_path) == "kafka:9092\n"
    command = interpreter.with_name("turnlog")
    assert run(command, "--version", folder=tmp_path) == f"turnlog {VERSION}\n"
    assert "Usage: " in run(command, "chat", "--help", folder=tmp_path)


def test_it_is_small(interpreter: Path) -> None:
    """With what Python compiles at the first import. Each compiled file has its path: one of usual length."""
    (site,) = (interpreter.parents[1] / "lib").glob("python*/site-packages")
    usual = Path("/opt/venv").joinpath(*site.parts[-3:])
    run(interpreter, "-m", "compileall", "-q", "-f", "-s", site, "-p", usual, site, folder=site)
    packages = list(site.glob("*.dist-info"))
    size_mb = sum(os.lstat(file).st_size for file in site.rglob("*") if file.is_file()) / 1e6
    assert len(packages) <= MOST_PACKAGES, [package.name for package in packages]
    assert size_mb <= MOST_MB
    assert not list(site.glob("*duckdb*"))


def test_both_archives_hold_the_schemas_once(archives: Path) -> None:
    committed = {path.name for path in (ROOT / "schemas/turnlog_schemas/avro").glob("*.avsc")}
    (wheel,), (source,) = archives.glob("*.whl"), archives.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = [Path(name) for name in archive.namelist() if name.endswith(".avsc")]
    with tarfile.open(source) as archive_of_source:
        in_source = [Path(name) for name in archive_of_source.getnames() if name.endswith(".avsc")]
    for names, folder in (
        (in_wheel, "turnlog_schemas/avro"),
        (in_source, f"turnlog-{VERSION}/schemas/turnlog_schemas/avro"),
    ):
        assert sorted(path.name for path in names) == sorted(committed)
        assert {str(path.parent) for path in names} == {folder}
