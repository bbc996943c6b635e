"""The recorder of fault runs writes down every request that somebody has to answer, under whose name it will be."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.checker import SentRequest
from tests.faults.record import sent_request
from turnlog_schemas import commands as cmd
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.parts import text_content


def recorded(key: str | None, value: bytes) -> SentRequest | None:
    record: Any = SimpleNamespace(partition=1, offset=7, key=key.encode() if key is not None else None, value=value)
    return sent_request(record)


def sent(key: str | None, command: cmd.Command, **header: Any) -> SentRequest | None:
    return recorded(key, RequestCodec().encode(cmd.RequestHeader(request_id="r1", **header), command))


def named(key: str | None, **body: Any) -> tuple[str | None, str | None]:
    """Whom a JSON request is for, and its id."""
    request = recorded(key, json.dumps(body).encode())
    assert request is not None
    return request.session_id, request.request_id


CHAT = cmd.Chat(content=text_content("hi"))


@pytest.mark.parametrize("command", [kind() for kind in cmd.CHANNEL_COMMANDS])
def test_a_request_to_a_channel_is_the_channel_s(command: cmd.ChannelRequest) -> None:
    request = sent("web", command, channel="web", session_id="web-1")
    assert request is not None
    assert (request.session_id, request.request_id, request.text) == ("web", "r1", None)
    assert request.asks_only == isinstance(command, cmd.ActiveSession)


def test_a_request_to_a_session_is_the_session_s() -> None:
    chat, look = sent("s", CHAT, session_id="s"), sent("s", cmd.GetSession(), session_id="s")
    assert chat is not None
    assert (chat.session_id, chat.text, chat.asks_only) == ("s", "hi", False)
    assert look is not None
    assert look.asks_only
    compact = sent("s", cmd.CompactHistory(instructions="briefly"), session_id="s")
    assert compact is not None
    assert (compact.session_id, compact.text, compact.asks_only) == ("s", None, False)
    assert compact.command != sent("s", cmd.CompactHistory(), session_id="s").command  # type: ignore[union-attr]


def test_another_session_in_a_lifecycle_request_is_another_command() -> None:
    commands = {sent("web", cmd.ArchiveSession(), channel="web", session_id=name).command for name in ("a", "b", "a")}  # type: ignore[union-attr]
    assert len(commands) == 2


def test_what_streams_tell_each_other_is_nobody_s_request() -> None:
    told = cmd.Forwarded(source_kind="channel", source_id="web", target_kind="session", seq=1, what="created")
    heard = cmd.ForwardReceipt(source_kind="channel", source_id="web", target_kind="session", target_id="s", seq=1)
    assert sent("s", told, session_id="s") is None
    assert sent("web", heard, channel="web") is None


def test_a_command_that_cannot_be_read_is_theirs_whom_the_key_names() -> None:
    command = {"type": "dance"}
    assert named("s", session_id="s", request_id="n1", command=command) == ("s", "n1")
    assert named("web", channel="web", request_id="n1", command=command) == ("web", "n1")
    assert named("web", channel="web", session_id="s", request_id="n1", command=command) == ("web", "n1")
    assert named("s", channel="web", session_id="s", request_id="n1", command=command) == ("s", "n1")


def test_what_nobody_can_answer_has_no_name() -> None:
    command = {"type": "rotate_session"}
    assert named("other", channel="web", command=command) == (None, None)
    assert named("web", command=command) == (None, None)
    garbage = recorded("s", b"\xc3\x01garbage")
    assert garbage is not None
    assert garbage.session_id is None
