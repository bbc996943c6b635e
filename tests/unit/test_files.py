"""References to files: what is one, what is below an allowed prefix, what a decision says of it."""

from dataclasses import replace
from typing import Any

import pytest

from tests.files import ALLOWED, FILE, TAKES_FILES
from tests.given import chat, given
from turnlog_schemas import events as ev
from turnlog_schemas.files import file_name, reference_text, shown_text, wrong_content, wrong_part
from turnlog_schemas.parts import ContentPart
from turnlog_streams.policy import Policy


def at(uri: str, **fields: Any) -> ContentPart:
    return replace(FILE, uri=uri, **fields)


@pytest.mark.parametrize(
    "uri",
    [
        "https://files.example/a.png",
        "https://files.example:8443/a/b.png?X-Signature=abc%2Fdef&n=1",
        "https://[::1]/a.png",
        "http://files.example/a.png",
        "file:///srv/in/a.png",
        "file://localhost/srv/in/a%20b.png",
        "https://files.example/a..b/...png",
    ],
)
def test_a_reference(uri: str) -> None:
    assert wrong_part(at(uri)) is None


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (at(""), "says its uri"),
        (replace(FILE, uri=None), "says its uri"),
        (at("data:image/png;base64,AAAA"), "only references are stored"),
        (at("DATA:text/plain,x"), "only references are stored"),
        (at("ftp://files.example/a.png"), "begins with none of"),
        (at("a.png"), "begins with none of"),
        (at("/srv/in/a.png"), "begins with none of"),
        (at("file:/srv/in/a.png"), "on another host"),
        (at("file://other/srv/a.png"), "on another host"),
        (at("file:///srv/a.png?x=1"), "has a query"),
        (at("https:///a.png"), "names no host"),
        (at("https://u:p@files.example/a.png"), "name or a password"),
        (at("https://files.example/a.png#x"), "fragment"),
        (at("https://files.example:99999999/a.png"), "no address"),
        (at("https://files.example/a b.png"), "percent-encoded"),
        (at("https://files.example/a\\..\\b.png"), "percent-encoded"),
        (at("https://files.example/\u00e9.png"), "percent-encoded"),
        (at("https://files.example/a\n.png"), "percent-encoded"),
        (at("file:///srv/in/../../etc/a.png"), "with . or .."),
        (at("file:///srv/in/%2e%2e/a.png"), "with . or .."),
        (at("file:///srv/in/.%2E/a.png"), "with . or .."),
        (at("file:///srv/in/%252e%252e/a.png"), "with . or .."),
        (at("https://files.example/in/./a.png"), "with . or .."),
        (at("https://files.example/in%2f..%2fa.png"), "encoded slash"),
        (at("file:///srv/in/a%00.png"), "encoded slash"),
        (at("file:///srv/in/..%5c..%5ca.png"), "encoded slash"),
        (replace(FILE, media_type=None), "says its media_type"),
        (replace(FILE, media_type="png"), "two names with a slash"),
        (replace(FILE, media_type="Image/PNG"), "small letters"),
        (replace(FILE, media_type="text/plain; charset=utf-8"), "without parameters"),
        (replace(FILE, sha256="abc"), "sha256"),
        (replace(FILE, sha256="A" * 64), "sha256"),
        (replace(FILE, bytes=-1), "negative"),
        (replace(FILE, text="x"), "a part of its own"),
        (replace(FILE, kind="image"), "no part of kind"),
        (ContentPart(text="x", uri="https://files.example/a.png"), "nothing else"),
        (ContentPart(text="x", media_type="image/png"), "nothing else"),
    ],
)
def test_what_is_none(part: ContentPart, reason: str) -> None:
    wrong = wrong_part(part)
    assert wrong is not None
    assert reason in wrong
    assert wrong_content((ContentPart(text="Look"), part)) == ("invalid_command", f"content.1: {wrong}")


def test_how_many_and_how_long() -> None:
    assert wrong_content((FILE,) * 64) is None
    assert wrong_content((FILE,) * 65) == ("too_long", "65 files; at most 64 are accepted")
    assert wrong_content((at("https://files.example/" + "a" * 5000),)) is not None
    assert wrong_content((at("https://files.example/" + "a" * 5000),))[0] == "too_long"  # type: ignore[index]
    assert wrong_content(()) == ("empty_text", "the text is empty")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("https://files.example/in/a.png", True),
        ("https://files.example:443/in/deep/a.png", True),
        ("https://FILES.example/in/a.png", True),
        ("https://files.example/in/a.png?signature=x", True),
        ("https://files.example/%69n/a.png", True),
        ("https://files.example/in", False),
        ("https://files.example/inside/a.png", False),
        ("https://files.example/IN/a.png", False),
        ("https://files.example:8443/in/a.png", False),
        ("http://files.example/in/a.png", False),
        ("https://files.example.evil.example/in/a.png", False),
        ("https://evil.example/https://files.example/in/a.png", False),
        ("https://evil.example/?https://files.example/in/", False),
        ("https://files.example@evil.example/in/a.png", False),
        ("https://files.example/in/../out/a.png", False),
        ("file:///srv/in/a.png", True),
        ("file://localhost/srv/in/a.png", True),
        ("file:///srv/inside/a.png", False),
        ("file:///srv/in/%2e%2e/a.png", False),
        ("file:///etc/passwd", False),
    ],
)
def test_what_is_below_a_prefix(uri: str, allowed: bool) -> None:
    assert ALLOWED.allows(uri) is allowed


@pytest.mark.parametrize(
    ("policy", "parts", "code"),
    [
        (Policy(), (FILE,), "file_not_allowed"),
        (replace(TAKES_FILES, media_types_of=lambda model: ()), (FILE,), "media_type_not_supported"),
        (TAKES_FILES, (at("https://other.example/in/a.png"),), "file_not_allowed"),
        (TAKES_FILES, (FILE, at("file:///etc/a.png")), "file_not_allowed"),
        (TAKES_FILES, (replace(FILE, media_type="video/mp4"),), "media_type_not_allowed"),
        (TAKES_FILES, (replace(FILE, media_type="application/pdf"),), "media_type_not_supported"),
        (TAKES_FILES, (replace(FILE, bytes=5001),), "file_too_large"),
        (TAKES_FILES, (replace(FILE, bytes=4100), replace(FILE, bytes=4100)), "file_too_large"),
    ],
)
def test_a_request_is_refused_before_there_is_a_turn(policy: Policy, parts: tuple[ContentPart, ...], code: str) -> None:
    content = (ContentPart(text="Look"), *parts)
    scenario = given(policy=policy).when(chat(content=content)).then_refused(code)
    assert not scenario.session.exists
    (refused,) = [fact.event for fact in scenario.facts if isinstance(fact.event, ev.RequestRefused)]
    assert "/srv/in" not in refused.reason  # where the worker's folders are is nobody's business


def test_one_that_the_model_takes_is_stored_as_it_is() -> None:
    content = (ContentPart(text="Look"), FILE)
    scenario = given(policy=TAKES_FILES).when(chat(content=content))
    stored = [fact.event.content for fact in scenario.facts if isinstance(fact.event, ev.MessageStored)]
    assert stored == [content]


def test_a_file_in_words() -> None:
    assert file_name(FILE) == "a photo.png"
    assert file_name(at("https://files.example/")) == "file"
    assert file_name(at("https://files.example/a%0Ab.png")) == "a_b.png"
    assert reference_text(FILE) == "[file a photo.png: image/png, 1200 bytes]"
    assert shown_text((ContentPart(text="Look "), ContentPart(text="here:"), FILE, ContentPart(text="and"))) == (
        "Look here:\n[file a photo.png: image/png, 1200 bytes]\nand"
    )
    assert shown_text((FILE,)) == "[file a photo.png: image/png, 1200 bytes]"
    assert shown_text((ContentPart(text="a"), ContentPart(text="b"))) == "ab"
    assert shown_text(None) is None
