"""The house rules that a machine can check, over every file that git tracks or would track.

Each rule is a function from a file to findings, and a row in ``RULES`` with a text that must be found and one that must
not: a rule that cannot fail is no rule.
"""

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    path: str  #: relative to the repository, with forward slashes
    text: str

    @property
    def is_test(self) -> bool:
        return self.path.startswith("tests/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    line: int
    what: str


Check = Callable[[File], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    name: str
    suffixes: tuple[str, ...]  #: empty: every text file
    check: Check
    bad: tuple[File, ...]
    good: tuple[File, ...]

    def applies_to(self, path: str) -> bool:
        return not self.suffixes or path.endswith(self.suffixes)


def repository_files() -> list[str]:
    """Paths of all files that are tracked, or new and not ignored, so that a finding comes before the commit."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(path for path in set(listing.split("\0")) if path and (ROOT / path).is_file())


def read_text(path: str) -> str | None:
    """The file's text; None if it is binary."""
    raw = (ROOT / path).read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8", errors="replace")


def lines_matching(pattern: re.Pattern[str], what: str) -> Check:
    def check(file: File) -> Iterator[Finding]:
        for number, line in enumerate(file.text.splitlines(), start=1):
            if match := pattern.search(line):
                yield Finding(line=number, what=f"{what}: {match.group(0)!r}")

    return check


def long_modules(file: File) -> Iterator[Finding]:
    """Tests may be longer: a table of cases has no walls to move."""
    count = len(file.text.splitlines())
    if count > MAX_MODULE_LINES and not file.is_test:
        yield Finding(line=count, what=f"{count} lines, and a module has at most {MAX_MODULE_LINES}")


def long_functions(file: File) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            count = node.end_lineno - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                what = f"{node.name} has {count} lines, and a function has at most {MAX_FUNCTION_LINES}"
                yield Finding(line=node.lineno, what=what)


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.arg():
                yield node.lineno, node.arg


def bare_compaction_in_python(file: File) -> Iterator[Finding]:
    for line, name in defined_names(ast.parse(file.text)):
        if name.strip("_").lower() == "compaction":
            yield Finding(line=line, what=f"{name!r}: say history compaction in full, Kafka has another one")


def schema_names(node: object) -> Iterator[str]:
    """Names of records, fields and enum symbols, wherever they stand in an Avro schema."""
    if isinstance(node, dict):
        if isinstance(node.get("name"), str):
            yield node["name"]
        yield from (symbol for symbol in node.get("symbols", ()) if isinstance(symbol, str))
        for value in node.values():
            yield from schema_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from schema_names(value)


def bare_compaction_on_the_wire(file: File) -> Iterator[Finding]:
    for name in schema_names(json.loads(file.text)):
        if "compact" in name.lower() and "history" not in name.lower() and name != "needs_compaction":
            yield Finding(line=1, what=f"{name!r}: a name on the wire says history compaction in full")


def sleeps_in_tests(file: File) -> Iterator[Finding]:
    """A constant above 0 is a guess about time. Asking again after a pause, until a deadline, is fine."""
    if not file.is_test:
        return
    for node in ast.walk(ast.parse(file.text)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"), args=[ast.Constant(value=int() | float() as s)]
            ) if s > 0:
                yield Finding(line=node.lineno, what=f"sleep({s}): wait on a signal or poll with a deadline")


def swallowed_errors(file: File) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(file.text)):
        match node:
            case ast.ExceptHandler(type=None | ast.Name(id="Exception" | "BaseException"), body=[ast.Pass()]):
                yield Finding(line=node.lineno, what="an error of any kind is swallowed")


def words(*halves: tuple[str, str]) -> str:
    """An alternation of words that do not stand in this file, which is checked like any other."""
    return "|".join(re.escape(first + second) for first, second in halves)


UNFINISHED = re.compile(rf"\b({words(('TO', 'DO'), ('FIX', 'ME'), ('XX', 'X'), ('NotImplemented', 'Error'))})\b")
TWO_NAMES = re.compile(r"\b(schemas\.turnlog_schemas|streams\.turnlog_streams|workers\.turnlog_workers)\b")
MUTED = re.compile(
    rf"({words(('pytest.mark.', 'skip'), ('pytest.', 'skip('), ('pytest.mark.', 'xfail'), ('assert ', 'True'))})"
    r"|# type: " + r"ignore\s*$"
)
# Registry hosts, addresses of files on them, and options that point a client at one.
HOSTS = words(
    *[("py", "pi.org"), ("python", "hosted.org"), ("npm", "js.org"), ("crates", ".io"), ("proxy.", "golang")],
    *[("repo1.", "maven"), ("repo.", "maven"), ("search.", "maven"), ("maven", "central."), ("deb.", "debian")],
)
REGISTRY = re.compile(
    rf"{HOSTS}|https?://\S+(\.whl|\.jar|\.tgz|\.tar\.gz|\.crate|\.deb|/simple/?|/maven2?/?)(?=[\s\"'`)]|$)"
    r"|(extra-)?index" + r"-url|registry *[:=] *\"?https?:",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(
    rf"(?<![\w.:/-])/({words(('wo', 'rk'), ('ro', 'ot'))})(?![\w-])"
    rf"|(?<![\w.:-])/({words(('tm', 'p'), ('ho', 'me'), ('Us', 'ers'))})/\w"
    rf"|\.\./{words(('sha', 'red'))}"
)


def python(text: str, path: str = "workers/example.py") -> File:
    return File(path=path, text=text)


def function_of(lines: int) -> str:
    return "def example() -> None:\n" + "    print()\n" * (lines - 1)


def planted(template: str, *halves: str) -> File:
    return File(path="docs/example.md", text=template.replace("@", "".join(halves)))


RULES = [
    Rule(
        name="module length",
        suffixes=(".py",),
        check=long_modules,
        bad=(python("x = 1\n" * 401),),
        good=(python("x = 1\n" * 400), python("x = 1\n" * 401, "tests/unit/test_example.py")),
    ),
    Rule(
        name="function length",
        suffixes=(".py",),
        check=long_functions,
        bad=(python(function_of(61)), python("async " + function_of(61), "tests/unit/test_example.py")),
        good=(python(function_of(60)),),
    ),
    Rule(
        name="history compaction, in Python",
        suffixes=(".py",),
        check=bare_compaction_in_python,
        bad=(
            python("class Compaction: ..."),
            python("compaction = 1"),
            python("self._compaction = 1"),
            python("def run(compaction): ..."),
        ),
        good=(python("class HistoryCompacted: ...\nhistory_compaction = 1\nlog_compaction = 2"),),
    ),
    Rule(
        name="history compaction, on the wire",
        suffixes=(".avsc",),
        check=bare_compaction_on_the_wire,
        bad=(
            File(path="a.avsc", text='{"type": "record", "name": "Compacted", "fields": []}'),
            File(path="a.avsc", text='{"name": "X", "fields": [{"name": "compaction_id", "type": "long"}]}'),
            File(path="a.avsc", text='{"name": "X", "fields": [{"name": "k", "type": {"symbols": ["COMPACT"]}}]}'),
        ),
        good=(File(path="a.avsc", text='{"name": "HistoryCompacted", "fields": [{"name": "n", "type": "long"}]}'),),
    ),
    Rule(
        name="no sleeps in tests",
        suffixes=(".py",),
        check=sleeps_in_tests,
        bad=(
            python("time.sleep(1)", "tests/a.py"),
            python("async def a():\n    await asyncio.sleep(0.05)", "tests/a.py"),
            python("sleep(2)", "tests/a.py"),
        ),
        good=(
            python("async def a():\n    await asyncio.sleep(0)\n    await asyncio.sleep(interval_s)", "tests/a.py"),
            python("time.sleep(1)"),
        ),
    ),
    Rule(
        name="no swallowed errors",
        suffixes=(".py",),
        check=swallowed_errors,
        bad=(
            python("try:\n    a()\nexcept:\n    pass"),
            python("try:\n    a()\nexcept Exception:\n    pass"),
        ),
        good=(python("try:\n    a()\nexcept FileNotFoundError:\n    pass"),),
    ),
    Rule(
        name="nothing unfinished",
        suffixes=(".py", ".md", ".sh", ".toml", ".yml", "Makefile", "Dockerfile", ".ci/run"),
        check=lines_matching(UNFINISHED, "unfinished"),
        bad=(planted("# @: later", "TO", "DO"), planted("raise @", "NotImplemented", "Error")),
        good=(planted("# mastodon, XXL, prefix me"),),
    ),
    Rule(
        name="one spelling of imports",  # else a module is there twice, and its classes are two
        suffixes=(".py", ".md", ".sh", ".toml", ".yml", "Makefile", "Dockerfile"),
        check=lines_matching(TWO_NAMES, "a package by way of its folder"),
        bad=(planted("from @.turnlog_workers.base import logs", "work", "ers"),),
        good=(planted("from turnlog_workers.base import logs  # workers/turnlog_workers/base/logs.py"),),
    ),
    Rule(
        name="nothing muted",
        suffixes=(".py",),
        check=lines_matching(MUTED, "muted"),
        bad=(
            planted("@", "pytest.mark.", "skip"),
            planted("@", "assert ", "True"),
            planted("x = 1  @", "# type: ", "ignore"),
        ),
        good=(planted("x = 1  # type: ignore[import-untyped]"),),
    ),
    Rule(
        name="no registry addresses",
        suffixes=(),
        check=lines_matching(REGISTRY, "address of a package registry"),
        bad=(
            planted("see https://@/project/x", "py", "pi.org"),
            planted("https://example.org/files/@", "a-1.0-py3-none-any", ".whl"),
            planted("https://example.org/@", "simple", "/"),
            planted("pip install --@ x", "index", "-url"),
        ),
        good=(planted("from PyPI; https://kafka.apache.org/documentation; org.apache.kafka:kafka_2.13:4.4.0"),),
    ),
    Rule(
        name="no paths of a machine",
        suffixes=(),
        check=lines_matching(MACHINE_PATH, "path of one machine"),
        bad=(
            planted("cd @/main", "/wo", "rk"),
            planted("cd @/x", "/tm", "p"),
            planted("cd @/jo/x", "/ho", "me"),
            planted("see @/data", "../sha", "red"),
        ),
        good=(planted("/var/lib/turnlog /opt/turnlog/bin a/work ./work-list https://a.org/home/x"),),
    ),
]

BY_NAME = [pytest.param(rule, id=rule.name) for rule in RULES]


@pytest.mark.parametrize("rule", BY_NAME)
def test_rule_holds_everywhere(rule: Rule) -> None:
    checked = 0
    findings = []
    for path in repository_files():
        if rule.applies_to(path) and (text := read_text(path)) is not None:
            checked += 1
            findings += [f"{path}:{found.line}: {found.what}" for found in rule.check(File(path=path, text=text))]
    assert checked, f"the rule {rule.name!r} looked at no file"
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize("rule", BY_NAME)
def test_rule_finds_what_is_planted_and_nothing_else(rule: Rule) -> None:
    for file in rule.bad:
        assert list(rule.check(file)), f"{rule.name!r} does not see {file.text[:80]!r}"
    for file in rule.good:
        assert not list(rule.check(file)), f"{rule.name!r} sees a fault in {file.text[:80]!r}"
