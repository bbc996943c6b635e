"""What makes a retry the same request: a hash of the decoded command, in whatever framing it came."""

import hashlib
import json
from typing import Any

from turnlog_schemas.mapping import to_dict

_LATER_IN_PARTS = ("uri", "media_type", "sha256", "bytes")
_LATER_VALUES = ("params", "after_turn", "name", "summary", "to_seq")
_LATER_LISTS = ("tools", "tool_outputs", "messages")
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def command_hash(command: Any, session_id: str | None = None) -> str:
    """Hash of the decoded command, type and fields: what makes a retry the same request, in either framing.

    ``session_id``: of the header, where it is part of what a lifecycle command asks for.
    """
    plain = {"type": type(command).__name__} | to_dict(command.__class__)(command)
    _without_unsaid(plain)
    if session_id is not None:
        plain["session_id"] = session_id
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()[:32]


def _without_unsaid(plain: dict[str, Any]) -> None:
    """Fields that came later are hashed only where they say something: else an upgrade would make another request."""
    for where in (plain, plain.get("new_session")):
        if where is None:
            continue
        for name in _LATER_VALUES:
            if where.get(name, ...) is None:
                del where[name]
        for name in _LATER_LISTS:
            if where.get(name, ...) == []:
                del where[name]
    for part in plain.get("content", ()):
        for name in _LATER_IN_PARTS:
            if part[name] is None:
                del part[name]
        part["ref"] = None  # what every part had before there were files
