"""`pip install turnlog` is enough for a program that talks to sessions; what needs more says what to install.

Each test is a process in which every module is missing that such an installation does not have.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import turnlog
from tests.light_install import client_distributions, modules_of_others

MOST_PACKAGES = 24
_BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def preamble() -> str:
    blocked = modules_of_others()
    assert {"faust", "kafka", "duckdb", "nanoarrow", "jgo", "psutil", "avro"} <= blocked
    return _BLOCK.format(blocked=blocked)


def python(code: str, folder: Path) -> str:
    """What it prints."""
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


_RUN = """
import json
from typer.testing import CliRunner
from turnlog.cli.app import app
for arguments in {commands!r}:
    result = CliRunner().invoke(app, list(arguments))
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
"""


def outcomes(preamble: str, folder: Path, commands: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each, from one process."""
    (folder / "conversations.jsonl").write_text('{"id": "1", "messages": [{"role": "user", "content": "Hi"}]}\n')
    lines = python(preamble + _RUN.format(commands=commands), folder).splitlines()
    assert len(lines) == len(commands)
    return (tuple(json.loads(line)) for line in lines)


def test_a_client_needs_few_packages() -> None:
    names = client_distributions().keys()
    assert "turnlog" in names
    assert len(names) <= MOST_PACKAGES, sorted(names)


def test_every_public_name_can_be_imported(preamble: str, tmp_path: Path) -> None:
    python(f"{preamble}\nimport turnlog\nfor name in turnlog.__all__: getattr(turnlog, name)", tmp_path)
    assert "Client" in turnlog.__all__


def test_every_command_has_its_help(preamble: str, tmp_path: Path) -> None:
    words = (
        "|doctor|chat|send|tail|feed|sessions|sessions create|settings set|sql|up|demo|worker|materialize|topics init"
        "|models|models install|lag|dead-letters list|config|acls print"
    )
    commands = [(*command.split(), "--help") for command in words.split("|")]
    for command, (code, out, _) in zip(commands, outcomes(preamble, tmp_path, commands), strict=True):
        assert (code, "Usage: " in out) == (0, True), command


NEEDS: Mapping[tuple[str, ...], str] = {
    ("up",): "stack",
    ("demo",): "stack",
    ("worker",): "worker",
    ("materialize",): "worker",
    ("topics", "init"): "worker",
    ("dead-letters", "redrive", "0@1"): "worker",
    ("dead-letters", "discard", "0@1"): "worker",
    ("sql", "SELECT 1"): "sql",
    ("sessions", "list"): "sql",
    ("sessions", "show", "web-1"): "sql",
    ("feed", "conversations.jsonl", "--verify"): "sql",
}


def test_a_command_names_the_extra_that_it_needs(preamble: str, tmp_path: Path) -> None:
    for command, (code, out, err) in zip(NEEDS, outcomes(preamble, tmp_path, list(NEEDS)), strict=True):
        assert (code, out) == (2, ""), (command, err)
        assert err.endswith(f"pip install 'turnlog[{NEEDS[command]}]'\n"), command
        assert err.count("\n") == 1, command


def test_code_that_needs_more_gets_an_error_of_ours(preamble: str, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from turnlog import MissingExtraError, TurnlogError
from turnlog.snapshot.listing import SessionFilter, list_sessions
try:
    list_sessions(Path("snapshot.duckdb"), SessionFilter())
except MissingExtraError as error:
    assert isinstance(error, TurnlogError)
    print(error)
"""
    assert python(preamble + code, tmp_path).endswith("pip install 'turnlog[sql]'\n")


def test_what_a_client_can_do_gets_as_far_as_the_broker(preamble: str, tmp_path: Path) -> None:
    words = (
        "send web-1 Hi|chat web-1|tail --json|doctor|sessions history web-1|settings list|"
        "settings set fast-model echo:|feed conversations.jsonl|"
        "lag --json|dead-letters list|dead-letters show 0@1"
    )
    commands = [(*command.split(), "--bootstrap-server", "127.0.0.1:1") for command in words.split("|")]
    for command, (code, out, err) in zip(commands, outcomes(preamble, tmp_path, commands), strict=True):
        assert code == 3, (command, err)
        assert "127.0.0.1:1" in out + err, command
