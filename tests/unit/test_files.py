"""References to files: what is one, what is below an allowed prefix, what a decision says of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.files import ALLOWED, FILE, TAKES_FILES
from tests.given import chat, given
from turnlog.feed.comparison import compare
from turnlog.feed.conversations import read_conversations
from turnlog.terminal.transcript import in_words
from turnlog_schemas import events as ev
from turnlog_schemas.files import file_name, reference_text, shown_text, wrong_content, wrong_part
from turnlog_schemas.json_values import record_reader
from turnlog_schemas.parts import ContentPart
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages
from turnlog_streams.history.summary_prompt import transcript
from turnlog_streams.history.summary_truncation import truncation_summary
from turnlog_streams.history.tokens import message_tokens
from turnlog_streams.policy import Policy
from turnlog_streams.projection.values import content_columns
from turnlog_workers.runners.recordings import Recordings


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


# ---- where only text is, and where nothing may be lost


def asked(*content: ContentPart) -> HistoryMessage:
    return HistoryMessage(message_seq=1, turn_id="t", role="user", content=content)


def test_a_summary_knows_of_the_file() -> None:
    message = asked(ContentPart(text="Look"), FILE)
    (entry,) = transcript([message], 100)
    assert entry == "[1] user: Look\n[file a photo.png: image/png, 1200 bytes]"
    assert "a photo.png" in truncation_summary([message], None, max_tokens=200)


def test_a_file_counts_in_the_prompt() -> None:
    words, picture = (message_tokens(asked(*content)) for content in ((ContentPart(text="Look"),), (FILE,)))
    assert picture - words > 1000
    text = replace(FILE, media_type="text/plain", bytes=4000)
    document = replace(FILE, media_type="application/pdf", bytes=1_000_000)
    assert message_tokens(asked(text)) < message_tokens(asked(FILE)) < message_tokens(asked(document))


def test_the_openai_format_shows_a_line_or_keeps_the_parts() -> None:
    history = [asked(ContentPart(text="Look"), FILE), replace(asked(ContentPart(text="And?")), message_seq=2)]
    (line,) = openai_messages(None, history)
    assert line["content"] == "Look\n[file a photo.png: image/png, 1200 bytes]\n\nAnd?"
    (kept,) = openai_messages(None, history, files=True)
    assert kept["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "file_ref", "part": FILE, "turn_id": "t"},
        {"type": "text", "text": "And?"},
    ]


def test_the_rows_of_a_message_hold_all_of_it() -> None:
    content = (ContentPart(text="Look"), FILE)
    text, parts = content_columns(content)
    assert text == "Look"
    assert parts is not None
    assert tuple(map(record_reader(ContentPart), json.loads(parts))) == content
    assert content_columns((ContentPart(text="Look"),)) == ("Look", None)
    assert in_words(text, parts) == "Look\n[file a photo.png: image/png, 1200 bytes]"


def test_a_recorded_conversation_with_a_file_is_fed_and_compared(tmp_path: Path) -> None:
    part = {"type": "file_ref", "uri": FILE.uri, "media_type": "image/png", "bytes": 1200}
    user = {"role": "user", "content": [{"type": "text", "text": "Look"}, part]}
    line = {"id": "a", "messages": [user, {"role": "assistant", "content": "A cat."}]}
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (conversation,) = read_conversations(path).conversations
    assert conversation.messages[0].content == (ContentPart(text="Look"), FILE)
    assert Recordings().messages(str(path), "a") == conversation.messages
    assert compare(conversation, None, conversation.messages) == []
    other = replace(conversation.messages[0], content=(ContentPart(text="Look"), replace(FILE, bytes=1)))
    assert len(compare(conversation, None, [other, conversation.messages[1]])) == 1
