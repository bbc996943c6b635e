"""What commands print: data on standard output, everything else on standard error."""

import base64
import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TextIO

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MAX_CELL = 200
_NO_WIDTH_LIMIT = 100_000
_COLUMN_PADDING = 3  #: blank, border, blank
_MIN_ELASTIC = 10
_LEAST_COLUMN = 9


def printable(text: str) -> str:
    """The text with control characters (all but newline and tab) made visible: a model's words, or anybody's, must
    not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else _visible(c) for c in text)


def _visible(character: str) -> str:
    code = ord(character)
    # Joiners and direction marks are part of many languages' text; only the overrides can make text lie.
    if unicodedata.category(character) == "Cf" and not 0x202A <= code <= 0x202E and not 0x2066 <= code <= 0x2069:
        return character
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def is_terminal(stream: TextIO) -> bool:
    """Does a person read this stream?"""
    return stream.isatty()


def say(line: str) -> None:
    """A line for people: standard error, so that it never mixes with data."""
    print(printable(line), file=sys.stderr, flush=True)


def say_progress(line: str) -> None:
    """A line that only somebody who watches needs."""
    if is_terminal(sys.stderr):
        say(line)


def print_text(text: str) -> None:
    """Data for people, on standard output."""
    print(printable(text), flush=True)


def plain(value: object) -> Any:
    """A value as JSON can say it. Bytes become base64, times ISO 8601, what is not a number becomes null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return plain(float(value)) if value % 1 else int(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(bytes(value)).decode("ascii")
        case datetime() | date() | time():
            return value.isoformat()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return str(value)


def print_json(document: object) -> None:
    """Exactly one JSON document on one line of standard output, at once."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    # A lone surrogate has no UTF-8 form; escaped, it still is JSON.
    line = json.dumps(plain(document), ensure_ascii=not utf8, allow_nan=False)
    try:
        line.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        line = json.dumps(plain(document), allow_nan=False)
    print(line, flush=True)


def _cell(value: object, max_length: int) -> str:
    if value is None:
        return ""
    value = plain(value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    text = printable(" ".join(text.split("\n")).replace("\t", " "))
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever reads has enough: for the command to know, not the end of the process."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output: with colours and the window's width on a terminal, plain and as wide as needed elsewhere."""
    if is_terminal(sys.stdout):
        return _Console(file=sys.stdout, highlight=False)
    return _Console(file=sys.stdout, highlight=False, width=_NO_WIDTH_LIMIT, no_color=True, force_terminal=False)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = (), elastic: str | None = None
) -> None:
    """A table for people; long cells are cut. ``right``: columns aligned to the right; ``elastic``: the column that
    gives way, on one line, when the window is narrow (without one, cells are folded)."""
    to = console()
    table = Table(box=ROUNDED if is_terminal(sys.stdout) else SIMPLE_HEAD)
    cells = [[_cell(value, _MAX_CELL) for value in row] for row in rows]
    numbers = set(right)
    for index, column in enumerate(columns):
        table.add_column(
            Text(printable(column)),
            justify="right" if column in numbers else "left",
            overflow="ellipsis" if elastic else "fold",
            no_wrap=elastic is not None,
            max_width=_left_over(columns, cells, index, to.width) if column == elastic else None,
        )
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])
    to.print(table)


def print_records(columns: Sequence[str], rows: Iterable[Sequence[object]], *, first: int = 1) -> None:
    """Rows one below the other, a line for each column: for more columns than a window holds. ``first``: its number."""
    to = console()
    wide = max((cell_len(printable(column)) for column in columns), default=0)
    for number, row in enumerate(rows, start=first):
        to.print(Text(f"{'' if number == 1 else chr(10)}row {number}"))
        for column, value in zip(columns, row, strict=True):
            to.print(Text(f"  {printable(column):<{wide}}  {_cell(value, _MAX_CELL)}"))


def too_wide(columns: Sequence[str]) -> bool:
    """Do so many columns leave too little of the window for each?"""
    return len(columns) * _LEAST_COLUMN > console().width


def _left_over(columns: Sequence[str], cells: Sequence[Sequence[str]], elastic: int, width: int) -> int:
    """How wide a column may be, so that all others fit into the window as they are."""
    others = [index for index in range(len(columns)) if index != elastic]
    needed = sum(max(cell_len(row[index]) for row in (columns, *cells)) + _COLUMN_PADDING for index in others)
    return max(_MIN_ELASTIC, width - needed - _COLUMN_PADDING - 1)
