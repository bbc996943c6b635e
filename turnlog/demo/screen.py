"""What the demo shows: standard output, shared by its story, its stack's lines and the answers that stream in."""

import os
import sys

from turnlog.terminal import output


class Screen:
    """Standard output: whoever writes a line ends the one before it."""

    def __init__(self) -> None:
        self._styled = output.is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
        self._at_line_start = True

    def heading(self, text: str) -> None:
        """A new part of the story."""
        self._line(f"\n== {text}", "1")

    def line(self, text: str) -> None:
        """A line of the story."""
        self._line(output.printable(text), "")

    def stack_line(self, text: str) -> None:
        """What the stack says of itself."""
        self._line(f"   {output.printable(text)}", "2")

    def alarm(self, text: str) -> None:
        """What must not be overlooked."""
        self._line(f"** {output.printable(text)}", "1;31")

    def write(self, text: str, aside: bool) -> None:
        """A piece of an answer."""
        if text == "\n" and self._at_line_start:
            return
        self._put(text, "2" if aside else "")

    def _line(self, text: str, style: str) -> None:
        if not self._at_line_start:
            self._put("\n", "")
        self._put(f"{text}\n", style)

    def _put(self, text: str, style: str) -> None:
        sys.stdout.write(f"\x1b[{style}m{text}\x1b[0m" if style and self._styled else text)
        sys.stdout.flush()
        self._at_line_start = text.endswith("\n")
