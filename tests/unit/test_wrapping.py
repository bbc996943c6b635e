"""Answers on a terminal break between words, however they come in pieces."""

import random

import pytest

from turnlog.terminal.wrapping import WordWrap, wrapped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two three four", "one two\nthree four"),
        ("1234567890 next", "1234567890\nnext"),
        ("a 1234567890123 b", "a\n1234567890123 b"),  # whole: the terminal folds it
        ("   indent code", "   indent\ncode"),
        ("one\n\n  two\n", "one\n\n  two\n"),
        ("a\tb c d", "a\tb\nc d"),
        ("日本語の文章です。", "日本語の文\n章です。"),
        ("cafe\u0301 cafe\u0301s", "cafe\u0301 cafe\u0301s"),
        ("ends with blanks  \nx", "ends with\nblanks  \nx"),
    ],
)
def test_lines_break_between_words(text: str, shown: str) -> None:
    assert wrapped(text, 10) == shown


def test_pieces_make_the_same_lines() -> None:
    chance = random.Random(7)
    text = " ".join("x" * chance.randint(1, 14) + chance.choice(["", "", "\n", "語"]) for _ in range(300))
    for _ in range(20):
        pieces: list[str] = []
        wrap = WordWrap(pieces.append, lambda: 12)
        rest = text
        while rest:
            cut = chance.randint(1, 9)
            wrap.feed(rest[:cut])
            rest = rest[cut:]
        wrap.flush()
        assert "".join(pieces) == wrapped(text, 12)
        assert "".join("".join(pieces).split()) == "".join(text.split())  # 語 may begin a line
