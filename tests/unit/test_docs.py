"""The documents against the code: links, commands, modules, settings, the wire."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import turnlog
from turnlog.cli.app import app
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import CHANNEL_COMMANDS, SESSION_COMMANDS, is_for_channel
from turnlog_schemas.frames import TERMINAL_FRAMES
from turnlog_schemas.registry import FRAMES
from turnlog_schemas.type_names import snake
from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.models.faults import KINDS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from long_run_table import filled, read_result, table  # noqa: E402 - a script, not a module of the application

PACKAGES = ("schemas", "streams", "workers", "turnlog")
#: Variables that are no settings: read where no settings are at hand.
OTHER_VARIABLES = {"TURNLOG_CACHE_DIR", "TURNLOG_SCRIPT_JOURNAL", "TURNLOG_CRASH_AT", "TURNLOG_START_FILE"}


def tracked(*patterns: str) -> list[str]:
    """Paths of files that git has: what somebody is just writing counts once it is committed."""
    listing = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PAGES = sorted({*tracked("*.md"), "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/guarantees.md"})


# ---- links


def prose(text: str) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", prose(read(path)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def broken_links(page: str, text: str) -> list[str]:
    broken = []
    for link in links(text):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(str(file.resolve().relative_to(ROOT)))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(page, read(page)) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](README.md) [b](nowhere.md) [c](README.md#commands) [d](README.md#nonsense) [e](#nonsense)"
    assert broken_links("README.md", text) == ["nowhere.md", "README.md#nonsense", "#nonsense"]


# ---- commands


def command_lines(text: str) -> Iterator[str]:
    """Whatever a page says to run: in code spans, and after the prompt in console blocks."""
    yield from re.findall(r"^\$ (.+)$", text, flags=re.MULTILINE)
    yield from re.findall(r"`((?:turnlog|make|python -m) [^`\n]+)`", prose(text))


def wrong_command(line: str) -> str | None:
    """What is wrong with a ``turnlog`` command line."""
    words = re.findall(r'"[^"]*"|\S+', line)[1:]
    command: Any = get_command(app)
    while words and (child := getattr(command, "commands", {}).get(words[0])) is not None:
        command, words = child, words[1:]
    if getattr(command, "commands", None) and words and not words[0].startswith("-"):
        return f"{line}: there is no command {words[0]!r}"
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--") and word not in known:
            return f"{line}: there is no option {word}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))
    for line in command_lines(read(page)):
        name, *words = line.split()
        if name == "turnlog":
            assert wrong_command(line) is None
        elif name == "make":
            assert words[0] in targets, line
        elif name == "python":
            assert importlib.util.find_spec(words[1]), line


def test_a_wrong_command_is_found() -> None:
    assert wrong_command('turnlog sql "SELECT 1" --csv') is None
    assert wrong_command("turnlog sql --nonsense") == "turnlog sql --nonsense: there is no option --nonsense"
    assert wrong_command("turnlog nonsense") == "turnlog nonsense: there is no command 'nonsense'"


def test_examples_in_python_use_names_that_exist() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", read("README.md"), flags=re.MULTILINE | re.DOTALL)
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.ImportFrom) and node.module == "turnlog":
            assert {alias.name for alias in node.names} <= set(turnlog.__all__)


# ---- modules


def test_the_map_has_every_room_and_no_other() -> None:
    """A folder with modules is a room; each says in its ``__init__`` what it is for."""
    rows = set(re.findall(r"^\| `((?:schemas|streams|workers|turnlog)/[^`]*)` \|", read("ARCHITECTURE.md"), re.M))
    modules = tracked(*(f"{name}/*.py" for name in PACKAGES))
    rooms = {f"{path.rpartition('/')[0]}/" for path in modules if path.count("/") > 0}
    assert rows == rooms
    for room in rooms:
        assert ast.get_docstring(ast.parse(read(f"{room}__init__.py"))), f"{room}__init__.py says nothing of the room"


def test_modules_and_folders_in_pages_exist() -> None:
    for page in PAGES:
        for path in re.findall(
            r"`((?:schemas|streams|workers|turnlog|tests|scripts|benchmarks)/[\w/.-]*)`", read(page)
        ):
            assert (ROOT / path).exists(), f"{page}: {path}"


# ---- settings


def settings_rows() -> dict[str, str]:
    """Documented defaults by variable, as the environment would say them; empty for none."""
    rows = re.findall(
        r"^\| `(TURNLOG_[A-Z_]+)` \| (?:`([^`]+)`|empty) \|", read("docs/settings.md"), flags=re.MULTILINE
    )
    return dict(rows)


def test_every_setting_has_its_line_and_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = settings_rows()
    assert set(rows) == {f"TURNLOG_{name.upper()}" for name in Settings.model_fields}
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TURNLOG_{name.upper()}", raising=False)
    default = Settings()
    for variable, value in rows.items():
        monkeypatch.setenv(variable, value)
    documented = Settings()
    different = [name for name in Settings.model_fields if getattr(documented, name) != getattr(default, name)]
    assert not different, "docs/settings.md has other defaults for these"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"TURNLOG_{name.upper()}", "")
    assert {name for name in Settings.model_fields if getattr(Settings(), name) == ""} == {
        *("fast_model", "group", "worker_name", "sasl_username", "reply_topic_prefix", "http_chat_id_header"),
        *("sasl_token_url", "sasl_token_scope"),
    }
    assert Settings().partitions == 12
    assert Settings().snapshot_path is None


def test_every_variable_that_is_named_anywhere_exists_and_is_documented() -> None:
    existing = {f"TURNLOG_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    documented = set(re.findall(r"^\| `(TURNLOG_[A-Z_]+)` \|", read("docs/settings.md"), flags=re.MULTILINE))
    assert documented == existing
    sources = tracked("*.md", "docker-compose.yml", "Dockerfile", "Makefile", *(f"{name}/*.py" for name in PACKAGES))
    for path in {*sources, *PAGES}:
        for variable in re.findall(r"\bTURNLOG_[A-Z]+(?:_[A-Z]+)*\b", read(path)):
            assert variable in existing, f"{path}: {variable}"


# ---- the wire


def json_examples() -> list[dict[str, Any]]:
    """Every JSON document of the wire's page: a block is one, or one a line."""
    blocks = re.findall(r"^```json\n(.*?)^```$", read("docs/wire.md"), flags=re.MULTILINE | re.DOTALL)
    found: list[dict[str, Any]] = []
    for block in blocks:
        try:
            found.append(json.loads(block))
        except json.JSONDecodeError:
            found += [json.loads(line) for line in block.splitlines()]
    return found


def requests_in(text: str) -> list[bytes]:
    """The requests in shell examples."""
    return [found.encode() for found in re.findall(r"^echo '(\{.*\})' \|$", text, flags=re.MULTILINE)]


def test_requests_are_taken() -> None:
    examples = [json.dumps(example).encode() for example in json_examples() if "frame" not in example]
    examples += requests_in(read("docs/wire.md")) + requests_in(read("README.md"))
    assert len(examples) >= 4
    for example in examples:
        header, _, framing = RequestCodec().decode_request(example)
        assert header.session_id or header.channel
        assert framing == "json"


def test_frames_are_as_they_are_sent_and_none_is_missing() -> None:
    codec = Codec(FRAMES)
    frames = [example for example in json_examples() if "frame" in example]
    for frame in frames:
        assert codec.to_json(*codec.from_json(json.dumps(frame))) == frame
    types = {snake(payload.__name__) for payload in FRAMES.payloads}
    assert {frame["frame"]["type"] for frame in frames} == types
    rows = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| .* \| (yes)? ?\|$", read("docs/wire.md"), flags=re.MULTILINE)
    documented = {name: ends == "yes" for names, ends in rows for name in re.findall(r"`([a-z_]+)`", names)}
    terminal = {snake(frame.__name__) for frame in TERMINAL_FRAMES}
    assert documented == {name: name in terminal for name in types}


#: How a code is written where it is raised or returned; the last two are bases that nobody sees.
CODE = re.compile(
    r"(?:InvalidCommandError|RunnerError|OutputError|_too_long|fault|"
    r'UnreadableRecording|UnusableSummaryError)\(\s*"(\w+)"|(?<!-)\bcode ?= ?"(\w+)"'
    r'|return "(\w+)", f?"|\.failure\(\s*"(\w+)"|_park\(record, "(\w+)"|refusal\(\w+, "(\w+)"'
)
NOT_SEEN = {"malformed", "cancelled"}


def test_every_code_is_documented() -> None:
    text = "\n".join(read(path) for path in tracked(*(f"{name}/*.py" for name in ("schemas", "streams", "workers"))))
    codes = {code for groups in CODE.findall(text) for code in groups if code} - NOT_SEEN
    section = read("docs/wire.md").partition("\n## Codes\n")[2].partition("\n## ")[0]
    of_models = read("docs/models.md").partition("\n## What goes wrong\n")[2].partition("\n## ")[0]
    codes |= set(KINDS)
    rows = re.findall(r"^\| (`.+?`) \|", section + of_models, flags=re.MULTILINE)
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert codes == documented


def test_topics_and_the_partition_of_the_example() -> None:
    page = read("docs/wire.md")
    assert set(re.findall(r"^\| `(chat\.[a-z-]+)` \|", page, flags=re.MULTILINE)) == set(Topics().all)
    ((key, partition, count),) = re.findall(r"`(\S+)` is in partition (\d+) of (\d+)", page)
    assert partition_of(key.encode(), int(count)) == int(partition)


def test_every_command_is_documented_with_its_key() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (session|channel|session or channel) \|", read("docs/wire.md"), flags=re.MULTILINE
    )
    keys = {(True, True): "channel", (True, False): "session or channel", (False, False): "session"}
    told = {
        snake(command.__name__): keys[is_for_channel(command(), "c"), is_for_channel(command(), None)]
        for command in CHANNEL_COMMANDS
    } | {snake(command.__name__): "session" for command in SESSION_COMMANDS}
    assert sorted(rows) == sorted(told.items())


# ---- figures


def test_the_long_run_s_table_is_that_of_the_last_result() -> None:
    page = read("docs/guarantees.md")
    assert filled(page, read_result()) == page


def test_a_result_becomes_a_table() -> None:
    run = {"what": "kills", "count": 1000, "anomalies": 0, "seeds": "1-10", "seconds": 1700.4}
    made = table({"date": "2026-11-23", "version": "0.1.0", "machine": "2 cores", "runs": [run]})
    assert made.startswith("2026-11-23, version 0.1.0, 2 cores.\n")
    assert made.endswith("| kills | 2026-11-23 | 1,000 | 0 | 1-10 | 1,700 |\n")
    made = table(
        {"date": "2026-11-23", "version": "0.1.0", "machine": "2 cores", "runs": [{"date": "2026-11-20"} | run]}
    )
    assert "| kills | 2026-11-20 |" in made
    assert "takeovers" not in made
    faults = {"session_timeout_s": 2.0, "takeover_s": {"count": 300, "p50": 3.1, "p95": 6.2, "max": 9.3}}
    million = {
        "records": 1_000_001,
        "never_owned": {"assigned_to_serving_s": 40.5},
        "owned_before": {"assigned_to_serving_s": 1.5},
        "events_per_s": 24_691,
        "bound_s": 120.0,
    }
    head = {"date": "2026-11-23", "version": "0.1.0", "machine": "2 cores", "runs": [run]}
    made = table({**head, "faults": faults, "million": million})
    assert "timeout of 2 s: median 3.1 s, 95 % within 6.2 s, the longest 9.3 s (300 takeovers" in made
    assert "1,000,001 events that this host never had is served 40.5 s after" in made
    assert "second time" not in made
    late = {"late_frames": {"rounds": 10, "frames": 6, "copies": 5}}
    assert "6 in 10 rounds on three nodes (5 of them for the second time)" in table({**head, "leaders": late})
    with pytest.raises(ValueError, match="no marks"):
        filled("no page", None)


def test_readme_and_changelog_agree_on_what_is_released() -> None:
    newest = next(line for line in read("CHANGELOG.md").splitlines() if line.startswith("## "))
    version, _, when = newest.removeprefix("## [").partition("] ")
    assert re.fullmatch(r"\(unreleased\)|- \d{4}-\d\d-\d\d", when), newest
    assert (f"Version {version}, not released yet." in read("README.md")) == (when == "(unreleased)")
