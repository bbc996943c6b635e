"""Options that many commands share, and where a command finds its stack."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.errors import UsageError
from turnlog.terminal import output

if TYPE_CHECKING:
    from turnlog_schemas.generation import GenerationParams
    from turnlog_schemas.parts import ContentPart
    from turnlog_workers.base.config import Settings

VERBOSE = "turnlog.verbose"
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")  #: what may follow a path; ``//host`` may not
_OF_THE_WORKERS = ("allow_models", "default_model", "fast_model")


def _remember_verbose(context: typer.Context, value: bool) -> None:
    if value:
        context.meta[VERBOSE] = True


Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server",
        "-b",
        metavar="HOST:PORT",
        help="Address of Kafka. Default: TURNLOG_BOOTSTRAP_SERVER, else that of `turnlog up`, else localhost:9092.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder with the stack's files. Default: TURNLOG_DATA_DIR, else ./turnlog-data.",
        show_default=False,
        file_okay=False,
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="PREFIX",
        help="Prefix of all topic names. Default: TURNLOG_PREFIX, else chat.",
        show_default=False,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Show the libraries' logs, and tracebacks of errors.",
        callback=_remember_verbose,
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print only JSON, on one line (streams: one document per line).", show_default=False),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", min=0, max=2, help="How varied the model writes, 0 to 2."),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=1, max=1_000_000, help="Of one answer of the model.")
]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="Where an answer ends; may be given several times.")
]
ModelSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--model-setting",
        metavar="NAME=VALUE",
        help="A setting of the model's provider, such as top_p=0.9; may be given several times.",
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="PATH_OR_URI",
        help="A file for the model, as PATH, PATH:TYPE/SUBTYPE or https://...; workers read it. May be repeated.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="For example echo: or recorded:FILE#ID. Default: the session's, else the worker's.",
        show_default=False,
    ),
]


def finite(value: float | None) -> float | None:
    """Of an option. Click's ranges let NaN and infinity pass, and no clock waits for them."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of seconds.")
    return value


TimeoutS = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        metavar="SECONDS",
        min=0.0,
        callback=finite,
        help="Give up after this many seconds (exit code 6).",
    ),
]

SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
ChannelName = Annotated[str, typer.Argument(metavar="CHANNEL", help="1 to 128 characters of A-Z a-z 0-9 . _ -")]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--meta", metavar="NAME=VALUE", help="Metadata of the session; may be repeated.", show_default=False),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="ID",
        help="The idempotency key: the same request sent again with this id gets the first answer. Default: a new id.",
        show_default=False,
    ),
]


def check_session_id(session_id: str) -> None:
    """Raises :class:`UsageError` for an id that no session can have: before anything is connected."""
    from turnlog_schemas.commands import ID_PATTERN

    if not re.fullmatch(ID_PATTERN, session_id):
        raise UsageError(f"{session_id[:80]!r} is no session id: 1 to 128 characters of A-Z a-z 0-9 . _ -")


def metadata_of(pairs: list[str] | None) -> dict[str, str] | None:
    """What ``--meta`` said. Raises :class:`UsageError`."""
    if not pairs:
        return None
    split = [pair.partition("=") for pair in pairs]
    for name, equals, _ in split:
        if not name or not equals:
            raise UsageError("--meta: write it as NAME=VALUE")
    return {name: value for name, _, value in split}


def resolve_settings(
    *,
    bootstrap_server: str | None = None,
    data_dir: Path | None = None,
    prefix: str | None = None,
    environ: Mapping[str, str] = os.environ,
    as_the_stack: bool = False,
) -> "Settings":
    """The settings of a command: flag, else ``TURNLOG_*``, else the ``stack.json`` that ``turnlog up`` leaves in the
    data directory, else the default. Raises :class:`SettingsError` for a value that cannot be used.

    The file counts only for the stack it describes: when another broker is named, its snapshot is not that broker's.
    ``as_the_stack``: its workers' models count, more than ``TURNLOG_ALLOW_MODELS`` and its like here.
    """
    from turnlog_workers.base.config import Settings
    from turnlog_workers.base.json_file import read_json

    named = {"bootstrap_server": bootstrap_server, "data_dir": data_dir, "prefix": prefix}
    values: dict[str, object] = {name: value for name, value in named.items() if value is not None}
    directory = data_dir or Path(environ.get("TURNLOG_DATA_DIR") or "turnlog-data")
    stack = read_json(directory / "stack.json") if directory.is_dir() else {}
    broker = bootstrap_server or environ.get("TURNLOG_BOOTSTRAP_SERVER")
    if broker is None or broker == stack.get("bootstrap_server"):
        for name in ("bootstrap_server", "snapshot_path"):
            if name not in values and not environ.get(f"TURNLOG_{name.upper()}") and stack.get(name):
                values[name] = stack[name]
        if as_the_stack:  # its workers have read theirs already, whatever is said here
            values.update({name: stack[name] for name in _OF_THE_WORKERS if stack.get(name)})
    return Settings(**values)


def client_settings(
    bootstrap_server: str | None, data_dir: Path | None, prefix: str | None, *, verbose: bool
) -> "Settings":
    """:func:`resolve_settings` for a command that talks to a stack, with the libraries' logs kept off its output."""
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix, as_the_stack=True)
    silence_libraries(settings, verbose=verbose)
    say_unknown_variables(settings)
    return settings


def refuse_unservable(settings: "Settings", model: str | None) -> None:
    """Say before anything is sent that no worker would serve this model, where that is known.

    Raises :class:`turnlog.errors.RequestRefusedError`.
    """
    if model is not None:
        from turnlog.models import refuse_unservable as refuse

        refuse(settings, model)


def say_unknown_variables(settings: "Settings") -> None:
    """Name the ``TURNLOG_...`` variables that nobody reads, on standard error."""
    from turnlog_workers.base.settings_check import unknown_variables

    for sentence in unknown_variables(settings):
        output.say(sentence)


def silence_libraries(settings: "Settings", *, verbose: bool) -> None:
    """Log nothing, or with ``verbose`` what a worker would log."""
    from turnlog_workers.base import logs

    if verbose:
        logs.set_up(settings)
    else:
        # What goes wrong ends the command with a sentence; a client library's own account of it helps nobody.
        logging.basicConfig(level=logging.CRITICAL + 1, force=True)


def snapshot_or_fail(settings: "Settings") -> Path:
    """The published snapshot. Raises ``NotFoundError`` with what to run when there is none."""
    from turnlog.snapshot.listing import snapshot_file

    return snapshot_file(settings.snapshot)


def params_of(
    temperature: float | None, max_tokens: int | None, stop: list[str] | None, settings: list[str] | None
) -> "GenerationParams | None":
    """The parameters that the options name; ``None``: none. Raises :class:`UsageError`.

    ``settings``: ``NAME=VALUE``, where VALUE is JSON, else a text.
    """
    from turnlog_schemas.generation import NO_PARAMS, GenerationParams, wrong_params

    params = GenerationParams(
        temperature=temperature, max_tokens=max_tokens, stop=tuple(stop or ()), settings=_model_settings(settings or [])
    )
    if (wrong := wrong_params(params)) is not None:
        raise UsageError(f"{wrong[0].upper()}{wrong[1:]}.")
    return None if params == NO_PARAMS else params


def _model_settings(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError("--model-setting: write it as NAME=VALUE")
        try:
            json.loads(value)
        except ValueError:
            value = json.dumps(value)
        found[name] = value
    return found


def files_of(said: list[str] | None) -> "tuple[ContentPart, ...]":
    """The files that ``--file`` names. Raises :class:`UsageError`, :class:`turnlog.errors.NotFoundError`."""
    from turnlog.client.files import file_part

    return tuple(_file(each, file_part) for each in said or ())


def _file(said: str, file_part: "Callable[..., ContentPart]") -> "ContentPart":
    path, colon, media_type = said.rpartition(":")
    if colon and _MEDIA_TYPE.fullmatch(media_type) and not Path(said).exists():
        return file_part(path, media_type=media_type)
    return file_part(said)


def content_of(text: str, files: "tuple[ContentPart, ...]") -> "str | tuple[ContentPart, ...]":
    """What is sent: the text, then the files."""
    from turnlog_schemas.parts import text_content

    return (*(text_content(text) if text else ()), *files) if files else text
