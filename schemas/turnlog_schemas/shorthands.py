"""What JSON requests may say in a shorter way: a text for its one part, a schema as the object that it is."""

import contextlib
import json
from typing import Any

_to_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def spell_out(body: dict[str, Any]) -> None:
    """Write the shorter forms of a command out, in place. What is wrong in any other way stays, for its reader."""
    _text_to_content(body)
    new_session = body.get("new_session")
    if isinstance(new_session, dict):
        for message in _objects(new_session.get("messages")):
            _text_to_content(message)
    for tool in _objects(body.get("tools")):
        parameters = tool.get("parameters")
        if isinstance(parameters, dict):
            with contextlib.suppress(RecursionError):
                tool["parameters"] = _to_text(parameters)


def _text_to_content(owner: dict[str, Any]) -> None:
    if "text" in owner and "content" not in owner:
        owner["content"] = [{"kind": "text", "text": owner.pop("text")}]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
