"""A typed Python function as a tool: its schema comes from its signature and docstring, its arguments are checked."""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from turnlog_workers.runners.base import ToolDefinition
from turnlog_workers.tools.base import NAME, ToolContext, ToolError, ToolLimits

F = TypeVar("F", bound=Callable[..., Any])
_SECTION = re.compile(r"^\s*(?:Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$|^\s*:\w+[^:]*:")
_ARGUMENTS = re.compile(r"^(\s*)(?:Args|Arguments|Parameters):\s*$")
_ARGUMENT = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_FIELD = re.compile(r"^\s*:param\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)$")
_MAX_PROBLEMS = 5
_SHOWN_CHARACTERS = 200


class FunctionTool:
    """A function and what models are told of it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        timeout_s: float | None = None,
        max_output_bytes: int | None = None,
        max_running: int | None = None,
    ) -> None:
        """As :func:`tool` says. Raises ``TypeError`` for a function that no model could call."""
        self.function = function
        self.name = name or function.__name__
        if not NAME.fullmatch(self.name):
            raise TypeError(f"{self.name!r} is no name of a tool: letters, digits, '_' and '-', at most 64")
        self.blocking = not inspect.iscoroutinefunction(function)
        self.limits = ToolLimits(timeout_s=timeout_s, max_output_bytes=max_output_bytes, max_running=max_running)
        self._context_name, self._model = _arguments_of(function)
        schema = self._model.model_json_schema()
        schema.pop("title", None)
        for described in schema.get("properties", {}).values():
            described.pop("title", None)
        self.definition = ToolDefinition(
            name=self.name,
            description=description if description is not None else _summary_of(inspect.getdoc(function) or ""),
            parameters=schema,
            idempotent=idempotent,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, as if it were no tool."""
        return self.function(*args, **kwargs)

    def bind(self, arguments: str, context: ToolContext) -> Callable[[], object] | Callable[[], Awaitable[object]]:
        """The call with checked arguments. Raises :class:`ToolError` that says what is wrong with them."""
        try:
            checked = self._model.model_validate_json(arguments if arguments.strip() else "{}")
        except ValidationError as error:
            raise ToolError(f"the arguments do not fit: {_problems(error)}") from error
        given = {name: getattr(checked, name) for name in type(checked).model_fields}
        if self._context_name is not None:
            given[self._context_name] = context
        return functools.partial(self.function, **given)


@overload
def tool(function: F, /) -> FunctionTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout_s: float | None = None,
    max_output_bytes: int | None = None,
    max_running: int | None = None,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(function: Any = None, /, **declared: Any) -> Any:
    """Make a typed function a tool, for an entry point of the group ``turnlog.tools``.

    Models see its name, its docstring and its parameters; one that is annotated as :class:`ToolContext` gets that. A
    function that is not ``async`` runs in a thread. It returns a text, or what JSON can say, and raises
    :class:`ToolError` with a sentence for the model.

    ``idempotent``: a call whose outcome nobody knows may be made again, with the same ``idempotency_key``.
    ``timeout_s``, ``max_output_bytes``, ``max_running`` (at a time, in one worker): absent, the worker's settings.
    """
    if function is not None:
        return FunctionTool(function)
    return lambda decorated: FunctionTool(decorated, **declared)


def _arguments_of(function: Callable[..., Any]) -> tuple[str | None, type[BaseModel]]:
    """The name of the parameter that takes the context, if there is one, and a model of all others."""
    hints = get_type_hints(function, include_extras=True)
    described = _described(inspect.getdoc(function) or "")
    context_name: str | None = None
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        if hint is ToolContext:
            context_name = name
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"parameter {name!r} of {function.__qualname__} cannot be given by its name")
        if hint is None:
            raise TypeError(f"parameter {name!r} of {function.__qualname__} has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        if name in described and get_origin(hint) is not Annotated:
            hint = Annotated[hint, Field(description=described[name])]
        fields[name] = (hint, default)
    model: type[BaseModel] = create_model(
        function.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )
    return context_name, model


def _summary_of(doc: str) -> str:
    """What a docstring says before it comes to arguments and results."""
    lines: list[str] = []
    for line in doc.splitlines():
        if _SECTION.match(line):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def _described(doc: str) -> dict[str, str]:
    """What a docstring says of each parameter: an ``Args:`` section, or ``:param name:``."""
    found: dict[str, str] = {}
    inside: int | None = None  # how far the section is indented
    last: str | None = None
    deepest = 0  # how far its arguments are
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        if section := _ARGUMENTS.match(line):
            inside, last = len(section.group(1)), None
        elif field := _FIELD.match(line):
            last, inside = field.group(1), None
            found[last] = field.group(2)
        elif inside is not None and line.strip():
            if indent <= inside:
                inside = last = None
            elif (argument := _ARGUMENT.match(line)) and (last is None or indent <= deepest):
                last, deepest = argument.group(1), indent
                found[last] = argument.group(2)
            elif last is not None:
                found[last] += f" {line.strip()}"
    return {name: text.strip() for name, text in found.items() if text.strip()}


def _problems(error: ValidationError) -> str:
    """What is wrong, without what was given."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = []
    for problem in problems[:_MAX_PROBLEMS]:
        where = ".".join(str(part) for part in problem["loc"])
        said.append(f"{where}: {problem['msg']}" if where else problem["msg"])
    more = f" (and {len(problems) - _MAX_PROBLEMS} more)" if len(problems) > _MAX_PROBLEMS else ""
    return "; ".join(each[:_SHOWN_CHARACTERS] for each in said) + more
