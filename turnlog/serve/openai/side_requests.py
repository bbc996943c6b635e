"""What chat programs ask beside a chat: titles, tags, search queries. It must not enter the chat's session. Pure.

Open WebUI sends them to the same model with the same chat id, not streamed, as one message of the user that begins with
``### Task:`` (open-webui, routers/tasks.py and its default prompts); a custom header may name the task ({{TASK}}).
LibreChat's ask for a title in a message of their own, too.
"""

import re
from collections.abc import Mapping
from typing import Any

from turnlog.serve.openai.chat_body import ChatRequest

#: Of a client that says so itself.
TASK_HEADER = "x-turnlog-task"
_PROMPTS = re.compile(
    r"\s*(###\s*Task:"
    r"|(Please )?(generate|provide|write|create) (a|an) (very )?(concise|short|brief)[^\n]{0,80}\b(title|headline)\b)",
    re.IGNORECASE,
)


def is_named_task(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> bool:
    """Does the request say that it is a task? An empty or an unfilled header says nothing."""
    named = headers.get(TASK_HEADER, "").strip()
    if named and not named.startswith("{{"):
        return True
    return bool(metadata.get("task"))


def is_alone(asked: ChatRequest) -> bool:
    """Is it one message, not streamed, of which nothing was said before?"""
    return not asked.stream and not asked.said.history and not asked.said.outputs and len(asked.said.users) == 1


def looks_like_task(asked: ChatRequest) -> bool:
    """Is it, by its words, a task of a chat program?"""
    if not is_alone(asked):
        return False
    text = "".join(part.text or "" for part in asked.said.users[0].content or ())
    return _PROMPTS.match(text) is not None
