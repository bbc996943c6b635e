"""What a response and its events must be by the schema of Open Responses (version 2026-04-24), as checks of our own.

Sources: github openresponses/openresponses, schema/responses.tsp, items.tsp, content.tsp and events.tsp. A key is
required, and null is forbidden, where they say so; other keys may be there.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class OutputText(_Strict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class Message(_Strict):
    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class FunctionCall(_Strict):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


class SummaryText(_Strict):
    type: Literal["summary_text"]
    text: str


class Reasoning(_Strict):
    type: Literal["reasoning"]
    id: str
    summary: list[SummaryText]


Item = Annotated[Message | FunctionCall | Reasoning, Field(discriminator="type")]


class FunctionTool(_Strict):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class InputDetails(_Strict):
    cached_tokens: int


class OutputDetails(_Strict):
    reasoning_tokens: int


class UsageObject(_Strict):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class IncompleteDetails(_Strict):
    reason: str


class ErrorObject(_Strict):
    code: str
    message: str


class ReasoningEcho(_Strict):
    effort: str | None
    summary: str | None


class ConversationEcho(_Strict):
    id: str


class TextEcho(_Strict):
    format: dict[str, Any]


class ResponseResource(_Strict):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
    incomplete_details: IncompleteDetails | None
    error: ErrorObject | None
    model: str
    output: list[Item]
    previous_response_id: str | None
    conversation: ConversationEcho
    instructions: str | None
    tools: list[FunctionTool]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_output_tokens: int | None
    max_tool_calls: int | None
    reasoning: ReasoningEcho | None
    text: TextEcho
    truncation: Literal["auto", "disabled"]
    usage: UsageObject | None
    metadata: dict[str, str]
    store: bool
    background: bool
    service_tier: str
    safety_identifier: str | None
    prompt_cache_key: str | None


class _Event(_Strict):
    sequence_number: int = Field(ge=0)


class Lifecycle(_Event):
    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.failed",
        "response.incomplete",
    ]
    response: ResponseResource


class ItemEvent(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: Item


class _Place(_Event):
    item_id: str
    output_index: int


class PartEvent(_Place):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText


class TextDeltaEvent(_Place):
    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[Any]


class TextDoneEvent(_Place):
    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[Any]


class ArgumentsDeltaEvent(_Place):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(_Place):
    type: Literal["response.function_call_arguments.done"]
    arguments: str


class SummaryPartEvent(_Place):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: int
    part: SummaryText


class SummaryDeltaEvent(_Place):
    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: int
    delta: str


class SummaryDoneEvent(_Place):
    type: Literal["response.reasoning_summary_text.done"]
    summary_index: int
    text: str


_EVENT: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        Lifecycle
        | ItemEvent
        | PartEvent
        | TextDeltaEvent
        | TextDoneEvent
        | ArgumentsDeltaEvent
        | ArgumentsDoneEvent
        | SummaryPartEvent
        | SummaryDeltaEvent
        | SummaryDoneEvent,
        Field(discriminator="type"),
    ]
)
_LAST = ("response.completed", "response.failed", "response.incomplete")


def check_response(found: Any) -> ResponseResource:
    """Raises for what is no response by the schema."""
    return ResponseResource.model_validate(found)


def check_events(events: list[dict[str, Any]]) -> ResponseResource:
    """Raises for what is no whole stream: each event by the schema, in an order that clients can build on."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in _LAST
    assert not set(kinds[:-1]) & set(_LAST)
    open_items: dict[str, list[str]] = {}
    items = 0
    for event in events:
        _EVENT.validate_python(event)
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == items
                items += 1
                open_items[event["item"]["id"]] = []
            case "response.output_item.done":
                said = "".join(open_items.pop(event["item"]["id"]))
                _check_item(event["item"], said)
            case kind if kind.endswith(".delta"):
                open_items[event["item_id"]].append(event["delta"])
            case kind if "item_id" in event:
                assert event["item_id"] in open_items, f"{kind} of an item that is not open"
    assert not open_items
    return check_response(events[-1]["response"])


def _check_item(item: dict[str, Any], said: str) -> None:
    match item["type"]:
        case "message":
            assert item["content"][0]["text"].strip() == said.strip()
        case "function_call":
            assert item["arguments"] == said
        case "reasoning":
            assert item["summary"][0]["text"] == said
