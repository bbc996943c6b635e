"""What somebody types or pipes into ``turnlog chat``: messages of one line or several, and commands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turnlog.errors import UsageError

FENCE = '"""'
_MAX_BLOCK_CHARACTERS = 1 << 20  #: more than any request may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line for the program itself, which no model sees."""

    name: str  #: with its slash
    argument: str = ""


def is_open(text: str) -> bool:
    """Does the text begin a block that no line of it ends?"""
    return text.lstrip().startswith(FENCE) and _fenced_lines(text) is None


def parsed(text: str) -> str | Command | None:
    """The message or the command that was entered; ``None``: nothing.

    One line that begins with ``/`` is a command, with ``//`` a message that begins with one slash. What stands between
    two lines' triple quotes is one message, and so are several lines that were pasted: to the letter, both.
    """
    count = _fenced_lines(text)
    block = text.strip()
    if count is not None and count == len(block.split("\n")):
        inside = block[len(FENCE) : -len(FENCE)]
        return inside.removeprefix("\n").removesuffix("\n") if inside.strip() else None
    if "\n" in block:
        # Only the empty lines around it: the first line's indentation belongs to the ones below.
        lines = text.rstrip().split("\n")
        while not lines[0].strip():
            del lines[0]
        return "\n".join(lines)
    if block.startswith("//"):
        return block[1:]
    if block.startswith("/"):
        name, _, argument = block.partition(" ")
        return Command(name=name, argument=argument.strip())
    return block or None


def entered(read_line: Callable[[], str]) -> Iterator[str | Command]:
    """What piped lines say, to their end (``EOFError``). Raises :class:`UsageError` for a block without an end."""
    while True:
        try:
            text = read_line()
        except EOFError:
            return
        found = parsed(_block(text, read_line) if is_open(text) else text)
        if found is not None:
            yield found


def _block(first: str, read_line: Callable[[], str]) -> str:
    lines, size = [first], len(first)
    while not lines[-1].rstrip().endswith(FENCE) or len(lines) == 1:
        if size > _MAX_BLOCK_CHARACTERS:
            raise UsageError(f"A block that {FENCE} began has no end within {size} characters: nothing of it was sent.")
        try:
            lines.append(read_line())
        except EOFError:
            raise UsageError(f"The input ended in a block that {FENCE} began: nothing of it was sent.") from None
        size += len(lines[-1])
    return "\n".join(lines)


def _fenced_lines(text: str) -> int | None:
    """How many lines the block has that the text begins with; ``None``: it begins with none, or that has no end."""
    text = text.strip()
    if not text.startswith(FENCE):
        return None
    for number, line in enumerate(text.split("\n"), start=1):
        rest = line[len(FENCE) :] if number == 1 else line
        if rest.rstrip().endswith(FENCE):
            return number
    return None
