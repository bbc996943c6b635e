"""Files in what is sent to a model: read for one call of it, and forgotten with it.

What the user asks about in this turn must be readable, or the turn fails. A file of an earlier turn that cannot be read
any more, that this model does not take, or for which there is no room, is a line of text: else one lost picture would
end a conversation for ever.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

from turnlog_schemas.files import file_name, reference_text
from turnlog_schemas.parts import FILE_REF, ContentPart
from turnlog_streams.files import fits, not_taken
from turnlog_workers.runners.base import RunnerError, TurnInput

Shown = Callable[[ContentPart, bytes], Any]
"""A file as a part of what is sent."""


async def show_files(
    turn: TurnInput,
    messages: Sequence[dict[str, Any]],
    taken: Sequence[str],
    shown: Shown,
    as_text: Callable[[str], Any],
) -> None:
    """Put into the messages, made with ``files=True``, what stands for each file; the newest ones come first.

    Raises :class:`RunnerError` if one that this turn is about cannot be shown.
    """
    left = turn.files.max_turn_bytes
    for message in reversed(messages):
        content = message["content"]
        if not isinstance(content, list):
            continue
        for index in range(len(content) - 1, -1, -1):
            if content[index]["type"] != FILE_REF:
                continue
            part: ContentPart = content[index]["part"]
            asked = content[index]["turn_id"] == turn.turn_id
            data: bytes | str = await _read(turn, part, taken, left, asked=asked)
            if isinstance(data, str):
                content[index] = as_text(data)
            else:
                left -= len(data)
                content[index] = shown(part, data)


async def _read(turn: TurnInput, part: ContentPart, taken: Sequence[str], left: int, *, asked: bool) -> bytes | str:
    """The bytes, or the words that stand for them."""
    refused = not_taken(part, turn.model, taken)
    if refused is not None:
        if asked:
            raise RunnerError(*refused, retryable=False)
        return reference_text(part)
    if not asked and (part.bytes or 1) > left:
        return reference_text(part)
    try:
        data = await turn.files.read(part)
    except RunnerError as error:
        if asked or error.retryable:
            raise
        return f"{reference_text(part)[:-1]}, it cannot be read any more]"
    if len(data) > left:
        if asked:
            reason = f"the files of the turn have more than {turn.files.max_turn_bytes} bytes"
            raise RunnerError("file_too_large", f"{reason} (setting TURNLOG_MAX_TURN_FILE_BYTES)", retryable=False)
        return reference_text(part)
    return data


def openai_part(part: ContentPart, data: bytes) -> dict[str, Any]:
    """In the OpenAI chat format: a text as such, an image or another file as a data URI."""
    if fits(part.media_type, ("text/*",)):
        return {"type": "text", "text": f"{file_name(part)}:\n{data.decode(errors='replace')}"}
    uri = f"data:{part.media_type};base64,{base64.b64encode(data).decode()}"
    if fits(part.media_type, ("image/*",)):
        return {"type": "image_url", "image_url": {"url": uri}}
    return {"type": "file", "file": {"filename": file_name(part), "file_data": uri}}


def openai_text(text: str) -> dict[str, Any]:
    """A text as a part in the OpenAI chat format."""
    return {"type": "text", "text": text}
