"""The tables of docs/reference.md as data."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the page says of an operation."""

    operation: str
    command: str
    session_events: frozenset[str]
    channel_events: frozenset[str]
    frame: str
    client: str
    command_line: str


def section(heading: str) -> str:
    """The text under a heading of the page."""
    return PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def cells(heading: str) -> list[list[str]]:
    """The rows of the section's table, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> frozenset[str]:
    """What stands in code marks."""
    return frozenset(re.findall(r"`([^`]+)`", cell))


def operations() -> list[Row]:
    """The rows of the first table."""
    return [
        Row(
            operation=operation,
            command=command.strip("`"),
            session_events=names(session_events),
            channel_events=names(channel_events),
            frame=frame.strip("`"),
            client=client.strip("`"),
            command_line=command_line.strip("`"),
        )
        for operation, command, session_events, channel_events, frame, client, command_line in cells("Operations")
    ]


def refusals() -> list[tuple[str, str]]:
    """Command and code of the second table."""
    return [(command.strip("`"), code.strip("`")) for command, code, _ in cells("Refusals")]
