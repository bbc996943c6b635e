"""Text that comes piece by piece, broken between words where a line of the terminal is full."""

from collections.abc import Callable

from rich.cells import cell_len

_TAB = 8


class WordWrap:
    """Passes text on as soon as it is known on which line it belongs: a word when it ends.

    A word that is longer than a line (an address, say) stays whole, so that it can be copied: the terminal folds it.
    """

    def __init__(self, write: Callable[[str], None], width: Callable[[], int]) -> None:
        """``width``: columns of the terminal, asked for each piece."""
        self._write = write
        self._width = width
        self._column = 0
        self._blank = ""  # between what is written and the word
        self._word = ""
        self._word_width = 0
        self._in_long_word = False

    def feed(self, text: str) -> None:
        """A piece of text. What it leaves of a word is passed on with the piece that ends it, or by :meth:`flush`."""
        width = max(1, self._width())
        written: list[str] = []
        for character in text:
            if character == "\n":
                self._place(written, width)
                written.append(f"{self._blank}\n")
                self._column, self._blank, self._in_long_word = 0, "", False
            elif character in " \t":
                self._place(written, width)
                self._blank += character
                self._in_long_word = False
            else:
                self._take(character, written, width)
        if written:
            self._write("".join(written))

    def flush(self) -> None:
        """Pass on what waits."""
        written: list[str] = []
        self._place(written, max(1, self._width()))
        if written:
            self._write("".join(written))

    def _take(self, character: str, written: list[str], width: int) -> None:
        wide = cell_len(character)
        if wide == 2:  # scripts without blanks are broken anywhere
            self._place(written, width)
            self._in_long_word = False
        self._word += character
        self._word_width += wide
        if wide == 2:
            self._place(written, width)
        elif self._word_width >= width:
            self._place(written, width)
            self._in_long_word = True

    def _place(self, written: list[str], width: int) -> None:
        if not self._word:
            return
        blank = _blank_width(self._blank, self._column)
        if self._column and not self._in_long_word and self._column + blank + self._word_width > width:
            written.append("\n")
            self._column, self._blank, blank = 0, "", 0
        written.append(self._blank + self._word)
        self._column += blank + self._word_width
        while self._column > width:  # the terminal has folded it
            self._column -= width
        self._blank, self._word, self._word_width = "", "", 0


def _blank_width(blank: str, column: int) -> int:
    at = column
    for character in blank:
        at += _TAB - at % _TAB if character == "\t" else 1
    return at - column


def wrapped(text: str, width: int) -> str:
    """A whole text, broken between words."""
    pieces: list[str] = []
    wrap = WordWrap(pieces.append, lambda: width)
    wrap.feed(text)
    wrap.flush()
    return "".join(pieces)
