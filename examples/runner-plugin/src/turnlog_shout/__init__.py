"""``shout:`` repeats what it is told, in capitals: the smallest runner that keeps every rule."""

from collections.abc import AsyncIterator

from turnlog.runner import (
    AssistantMessage,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    TurnInput,
    content_text,
    text_content,
)


class Shouting:
    """Takes the turns of one session."""

    alive = True

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.turn_messages:
            return  # an earlier attempt has stored the answer: nothing is left to do
        answer = (content_text(turn.user_content) or "").upper()
        yield TextDelta(text=answer)
        yield AssistantMessage(content=text_content(answer))

    async def aclose(self) -> None:
        pass


def factory(model: str) -> Runner:
    if model != "shout:":
        raise RunnerError("bad_model_name", f"{model}: nothing may follow shout:", retryable=False)
    return Shouting()
