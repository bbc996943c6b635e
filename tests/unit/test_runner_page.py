"""docs/runners.md: its example is a runner that works, with nothing but what `turnlog.runner` names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import turnlog.runner
from turnlog.runner import AssistantMessage, TextDelta, TurnInput, text_content
from turnlog_streams.policy import Policy
from turnlog_workers.base.allow_list import read_allow_list
from turnlog_workers.runners import base
from turnlog_workers.runners.registry import RunnerRegistry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/runners.md").read_text(encoding="utf-8")
TEMPLATE = ROOT / "examples/runner-plugin"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def example() -> dict[str, Any]:
    code, _ = blocks()
    assert set(re.findall(r"^from (\S+) import", code, flags=re.MULTILINE)) == {"collections.abc", "turnlog.runner"}
    names: dict[str, Any] = {}
    exec(code, names)
    return names


async def test_the_example_answers() -> None:
    registry = RunnerRegistry({"shout": example()["factory"]})
    turn = TurnInput(
        session_id="s",
        turn_id="t",
        attempt=1,
        turn_number=1,
        fencing_token=1,
        model="shout:",
        instructions=None,
        user_content=text_content("hello"),
    )
    outputs = [output async for output in registry.make("shout:").run(turn)]
    assert [type(output) for output in outputs] == [TextDelta, AssistantMessage]
    assert outputs[0].text == "HELLO"  # type: ignore[union-attr]


def test_the_example_passes_the_suite_of_the_page() -> None:
    names: dict[str, Any] = {}
    exec(blocks()[1], names)
    suite = names["TestShouting"]()
    suite.make_runner = example()["factory"]
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert len(tests) > 8
    for name in tests:
        getattr(suite, name)()


def test_the_allow_list_of_the_page_allows_it() -> None:
    (patterns,) = re.findall(r"TURNLOG_ALLOW_MODELS='(\S+?)'", PAGE)
    allowed = Policy(allow_models=read_allow_list(patterns, ("echo:*",)))
    assert allowed.allows("shout:")
    assert allowed.allows("echo:")


def test_the_page_shows_the_template() -> None:
    module, test = blocks()
    (pyproject,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert module == (TEMPLATE / "src/turnlog_shout/__init__.py").read_text(encoding="utf-8")
    assert test == (TEMPLATE / "tests/test_shout.py").read_text(encoding="utf-8")
    assert pyproject == (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in module.partition("class ")[2].splitlines()) <= 20


def test_the_template_is_installed_found_and_passes_its_test(tmp_path: Path) -> None:
    """As the page has it, but into a folder of its own, from nothing that is not here."""
    package, site = tmp_path / "turnlog-shout", tmp_path / "site"
    shutil.copytree(TEMPLATE, package, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    run([*pip, "--no-deps", "--no-build-isolation", "--target", str(site), str(package)], package)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    assert re.search(r"\b1[0-9] passed", run(tests, package, environment))


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_that_the_protocol_names_is_public() -> None:
    """A plug-in that must import from a worker's rooms breaks with them."""
    mine = {name for name, thing in vars(base).items() if getattr(thing, "__module__", "") == base.__name__}
    given = {
        "NoTools",
        "NoFiles",
        "NO_FILES",
        "NO_PARAMS",
        "NO_TOOLS",
        "NO_USAGE",
        "no_such_tool",
    }  # a turn has them; nobody need name them
    assert (mine | {name for name in vars(base) if name.isupper()}) - given <= set(turnlog.runner.__all__)
    assert all(hasattr(turnlog.runner, name) for name in turnlog.runner.__all__)
