"""``TURNLOG_ALLOW_MODELS``: a list, or additions to the default one, and the sentence of a refusal."""

import pytest

from turnlog_streams.policy import Policy, shortened
from turnlog_workers.base.allow_list import may_match, read_allow_list
from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError

DEFAULT = ("echo:*",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("script:*", ("script:*",)),
        (" a:* , b:x ", ("a:*", "b:x")),
        ("+mine:*", ("echo:*", "mine:*")),
        ("+mine:*,+yours:*", ("echo:*", "mine:*", "yours:*")),
        ("+mine:*, yours:*", ("echo:*", "mine:*", "yours:*")),
        ("yours:*,+ mine:*", ("echo:*", "yours:*", "mine:*")),
        ("+echo:*", ("echo:*",)),
    ],
)
def test_a_plus_adds_to_the_default(text: str, expected: tuple[str, ...]) -> None:
    assert read_allow_list(text, DEFAULT) == expected
    assert Settings(allow_models=text).allow_models == expected  # type: ignore[arg-type]


def test_the_variable_is_read_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_ALLOW_MODELS", "+mine:*")
    policy = Settings().policy()
    assert policy.allows("mine:a")
    assert policy.allows("echo:")
    assert not policy.allows("script:1")


@pytest.mark.parametrize("text", ["+", "echo:*,+", "+ ,a:*"])
def test_a_plus_alone_is_a_mistake(text: str) -> None:
    with pytest.raises(SettingsError, match="a pattern must follow"):
        Settings(allow_models=text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("echo:*", True),
        ("echo:?deltas=3", True),
        ("*", True),
        ("e*", True),
        ("[de]cho:*", True),
        ("echo*", True),
        ("echo", False),
        ("echoes:*", False),
        ("script:*", False),
        ("echo:x", True),
    ],
)
def test_which_patterns_concern_a_provider(pattern: str, matches: bool) -> None:
    assert may_match(pattern, "echo") is matches


def test_a_refusal_names_what_is_allowed_in_a_line_of_bounded_length() -> None:
    assert Policy(allow_models=("echo:*", "a:b")).not_allowed("gpt:4") == (
        "model 'gpt:4' is not allowed here; allowed: echo:*, a:b (setting TURNLOG_ALLOW_MODELS)"
    )
    many = tuple(f"model-{number}:" + "x" * 200 for number in range(100))
    assert shortened(many).endswith(" and 88 more")
    assert len(shortened(many)) < 1000
