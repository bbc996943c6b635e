"""Options in a model name: ``echo:?deltas=3&delta_ms=10``. They come from the wire: each is checked and bounded."""

from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError

from turnlog_workers.runners.base import RunnerError


class Options(BaseModel):
    """The options of one provider: each field is an option, with its bounds and its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyOptions = TypeVar("AnyOptions", bound=Options)


def bad_model_name(model: str, why: str) -> RunnerError:
    """The error for a model name that a runner cannot read."""
    return RunnerError("bad_model_name", f"model {model!r}: {why}", retryable=False)


def after_provider(model: str) -> str:
    """What follows the provider's name: ``SEED?tools=2`` of ``script:SEED?tools=2``."""
    return model.partition(":")[2]


def read_options(model: str, query: str, options: type[AnyOptions]) -> AnyOptions:
    """The options in ``query``, the part of the model name after the ``?``. Raises :class:`RunnerError`."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=50) if query else []
    except ValueError as error:
        raise bad_model_name(model, f"options are written name=value&name=value ({error})") from error
    values = dict(pairs)
    if len(values) < len(pairs):
        raise bad_model_name(model, "an option is given twice")
    try:
        return options.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        known = ", ".join(options.model_fields)
        raise bad_model_name(model, f"{name}: {first['msg']} (options: {known})") from error
