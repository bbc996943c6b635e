"""The table of rights: the page has it, and the lines say it."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turnlog.cli.acls import Role
from turnlog.cli.app import app
from turnlog.errors import EXIT_USAGE
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.rights import ROLES, rights, rights_table

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def printed(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["acls", "print", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_the_page_has_the_table() -> None:
    assert rights_table(Settings(prefix="chat")) in PAGE.read_text(encoding="utf-8")


def test_the_command_knows_every_role() -> None:
    assert [role.value for role in Role] == list(ROLES)
    assert {right.role for right in rights(Settings())} == set(ROLES)


def test_names_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_GROUP", "our group")
    monkeypatch.setenv("TURNLOG_REPLY_TOPIC_PREFIX", "answers.")
    lines = printed("--role", "worker", "--prefix", "p2", "--command-config", "admin.properties")
    assert lines[0] == "# worker"
    words = [shlex.split(line) for line in lines[1:]]
    assert all(line[3:5] == ["--command-config", "admin.properties"] for line in words)
    topics = {line[line.index("--topic") + 1]: line for line in words if "--topic" in line}
    assert set(topics) == {*Settings(prefix="p2").topics.all, "answers."}
    assert topics["answers."][-2:] == ["--resource-pattern-type", "prefixed"]
    assert words[-1][words[-1].index("--group") + 1] == "our group"


def test_the_document_says_the_same() -> None:
    (line,) = printed("--json", "--role", "reader", "--principal", "reader=User:billing")
    assert json.loads(line) == [
        {
            "role": "reader",
            "principal": "User:billing",
            "operations": ["Read"],
            "resource": "topic",
            "name": name,
            "pattern": "literal",
        }
        for name in ("chat.replies", "chat.schemas")
    ]


@pytest.mark.parametrize("wrong", ["worker", "worker=turnlog", "nobody=User:x"])
def test_a_principal_that_cannot_be_is_refused(wrong: str) -> None:
    done = CliRunner().invoke(app, ["acls", "print", "--principal", wrong])
    assert done.exit_code == EXIT_USAGE
    assert "ROLE=TYPE:NAME" in done.output


def test_no_topic_is_forgotten() -> None:
    settings = Settings()
    used = {
        name
        for right in rights(settings)
        for name in settings.topics.all
        if right.role == "worker" and right.kind == "topic" and {"Read", "Write"} & set(right.operations)
        if right.name == name or (right.prefixed and name.startswith(right.name))
    }
    assert used == set(settings.topics.all)
