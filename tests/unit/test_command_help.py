"""Every command shows how it is used, in lines that its own parser takes, and is in the docs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from turnlog.cli.app import app
from turnlog.cli.examples import EXAMPLES

ROOT = Path(__file__).parents[2]
ROOT_COMMAND: Any = typer.main.get_command(app)
DOCS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The commands below one, by their path."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
    else:
        for name, each in below.items():
            yield from leaves(each, (*path, name))


COMMANDS = dict(leaves(ROOT_COMMAND))


def examples(command: Any) -> list[str]:
    """The lines that the help of a command shows behind ``Examples:``."""
    told = f"{command.help or ''}\n{command.epilog or ''}"
    return re.findall(r"`(turnlog [^`]+)`", told.partition("Examples:")[2])


@pytest.mark.parametrize("path", COMMANDS)
def test_its_help_has_examples_that_its_parser_takes(path: str) -> None:
    shown = [" ".join(each.split()) for each in examples(COMMANDS[path])]
    assert shown, f"`turnlog {path} --help` shows no example: give it one in turnlog/cli/examples.py"
    for line in shown:
        words = shlex.split(line)[1:]
        name = path.split()
        assert words[: len(name)] == name, line
        COMMANDS[path].make_context(path, words[len(name) :])  # parses it, and runs nothing


@pytest.mark.parametrize("path", COMMANDS)
def test_no_word_of_its_help_is_taken_for_markup(path: str) -> None:
    """The help is printed by rich, which shows nothing of what stands in brackets."""
    command = COMMANDS[path]
    told = [command.help or "", command.epilog or "", *(getattr(each, "help", None) or "" for each in command.params)]
    assert [text for text in told if re.search(r"(?<!\\)\[[a-z@#/]", text)] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_a_paragraph_of_its_help_is_as_wide_as_the_terminal(path: str) -> None:
    """Typer keeps the line ends of the source, and breaks the lines of a narrow terminal once more."""
    assert [part for part in (COMMANDS[path].help or "").split("\n\n") if "\n" in part] == []


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert not set(EXAMPLES) - set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_it_is_in_the_docs(path: str) -> None:
    assert re.search(rf"turnlog {path}\b", DOCS), f"neither the README nor docs/ names `turnlog {path}`"


def test_the_shells_completion_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="turnlog")
    assert done.exit_code == 0
    assert "_TURNLOG_COMPLETE" in done.output
