"""The prompt of ``turnlog sql`` without a statement: lines to statements, with history and completion."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from turnlog.terminal import output
from turnlog.terminal.history_file import history_file

PROMPT, MORE = "turnlog> ", "    ...> "
MODES = ("table", "json", "csv")
_HISTORY_LINES = 1000
_KEYWORDS = re.findall(
    r"\w+",
    "SELECT FROM WHERE GROUP BY ORDER LIMIT JOIN LEFT USING ON AS AND OR NOT IN IS NULL LIKE ILIKE BETWEEN DISTINCT "
    "HAVING WITH UNION ALL CASE WHEN THEN ELSE END DESC COUNT SUM MIN MAX AVG CAST INTERVAL FILTER OVER PARTITION "
    "DESCRIBE SHOW TABLES SUMMARIZE EXPLAIN",
)
_HELP = """A statement ends with ; and may have several lines. Tab completes tables, columns and SQL.
.tables          the tables
.columns TABLE   its columns
.mode MODE       how answers are printed: table, json or csv (those two lose nothing)
.quit            or Ctrl-D"""


class Completer:
    """What a word may become, in the form that readline asks for."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        """``columns``: by table."""
        self._columns = columns
        self._found: list[str] = []

    def __call__(self, text: str, state: int) -> str | None:
        """The completion ``state`` (from 0); ``None``: there are no more."""
        if state == 0:
            self._found = self.completions(text)
        return self._found[state] if state < len(self._found) else None

    def completions(self, text: str) -> list[str]:
        """All of them: behind ``table.`` its columns, else tables, columns and SQL's own words."""
        table, dot, begun = text.rpartition(".")
        if dot:
            names = self._columns.get(table, [name for names in self._columns.values() for name in names])
            return sorted({f"{table}.{name}" for name in names if name.startswith(begun)})
        known = {*self._columns, *(name for names in self._columns.values() for name in names)}
        found = sorted(name for name in known if name.startswith(text.lower()))
        found += [self._like(word, text) for word in _KEYWORDS if text and word.startswith(text.upper())]
        return found

    @staticmethod
    def _like(word: str, text: str) -> str:
        return word.lower() if text.islower() else word


@contextlib.contextmanager
def line_editing(completer: Completer) -> Iterator[None]:
    """Completion, and a history that is kept for the next time, in a file of the user's own."""
    try:
        import readline
    except ImportError:  # not everywhere: lines come without editing then
        yield
        return
    path = history_file("sql_history")
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    readline.set_completer(completer)
    readline.set_completer_delims(" \t\n,;()=<>+-*/|'\"[]{}")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            readline.write_history_file(path)
        except OSError as error:
            output.say(f"The history is not kept: {error}")


class Prompt:
    """Asks for statements until there are no more."""

    def __init__(
        self, columns: Mapping[str, Sequence[str]], mode: str = "table", read: Callable[[str], str] = input
    ) -> None:
        self.mode = mode
        self._columns = columns
        self._read = read

    def statements(self) -> Iterator[str]:
        """Each statement, without its semicolon. Ctrl-C gives up the one that is being written."""
        begun: list[str] = []
        while True:
            try:
                line = self._read(MORE if begun else PROMPT)
            except EOFError:
                output.print_text("")
                return
            except KeyboardInterrupt:
                begun = []
                output.print_text("")
                continue
            if not begun and line.lstrip().startswith("."):
                if not self._command(line.split()):
                    return
                continue
            begun += [line] if begun or line.strip() else []
            statement = "\n".join(begun).rstrip()
            if statement.endswith(";") and statement.count("'") % 2 == 0:
                begun = []
                yield statement.rstrip("; \n")

    def _command(self, words: Sequence[str]) -> bool:
        """Is there more to come?"""
        match words:
            case [".quit" | ".exit"]:
                return False
            case [".tables"]:
                output.print_text("\n".join(sorted(self._columns)))
            case [".columns", table] if table in self._columns:
                output.print_text("\n".join(self._columns[table]))
            case [".mode", mode] if mode in MODES:
                self.mode = mode
            case [".help"]:
                output.print_text(_HELP)
            case _:
                output.say(f"{' '.join(words)[:80]} is not known here: .help lists what is.")
        return True


def columns_of(path: Path) -> dict[str, list[str]]:
    """The snapshot's tables and views, and their columns in order. Raises :class:`turnlog.errors.TurnlogError`."""
    from turnlog.snapshot.sql import open_snapshot, run

    with open_snapshot(path) as connection:
        rows = run(
            connection,
            "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
            "WHERE database_name = 'snapshot' AND schema_name = 'main' AND NOT internal "
            "GROUP BY table_name ORDER BY table_name",
        ).rows
    return {str(table): [str(column) for column in columns] for table, columns in rows}


def on_a_terminal() -> bool:
    """Is there somebody to ask?"""
    return output.is_terminal(sys.stdin) and output.is_terminal(sys.stdout)
