"""``turnlog config``: what each setting is here, and where that comes from."""

import json as json_module
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, resolve_settings, say_unknown_variables
from turnlog.terminal import output
from turnlog_workers.base.config import Settings
from turnlog_workers.base.counted import counted

_HIDDEN = "(hidden)"
_MIN_SECRET_CHARACTERS = 6  #: a shorter one would be found in every other word
#: What only some processes read; the worker reads all that is not here, and everybody what is in none of these.
_OF_INIT = frozenset({"partitions", "replication_factor"})
_OF_THE_MATERIALIZER = frozenset(
    {"prices", "user_metadata_key", "publish_interval_s", "store_batch_events", "store_commit_interval_s"}
)
_SHARED = frozenset(
    {
        *("bootstrap_server", "prefix", "data_dir", "snapshot_path", "security_protocol", "startup_timeout_s"),
        *("append_timeout_s", "log_level", "library_log_level", "log_format", "ready_file", "max_request_bytes"),
        *("watchdog_timeout_s", "metrics_host", "metrics_port"),
    }
)
_SHARED_PREFIXES = ("sasl_", "ssl_")
_OF_THE_GATEWAY = frozenset({"allow_models", "default_model"})  #: beside those whose names begin with ``http_``
_ONLY_OF_THE_GATEWAY = "http_"
_NOT_OF_THE_GATEWAY = frozenset({"http_servers"})  #: servers of models, which workers ask
_ONLY_OF_THE_MATERIALIZER = frozenset({"prices", "user_metadata_key", "publish_interval_s"})


class ProcessKind(StrEnum):
    """Whose settings are shown."""

    WORKER = "worker"
    MATERIALIZER = "materializer"
    GATEWAY = "gateway"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSetting:
    """A setting as it is shown: never a secret."""

    name: str  #: of its variable
    value: str  #: as the variable would say it, or as JSON; empty: none
    source: str  #: ``option``, ``environment``, ``file`` or ``default``
    default: str
    where: str = ""  #: of a file


def config(
    of: Annotated[
        ProcessKind,
        typer.Argument(metavar="[worker|materializer|gateway|all]", help="Whose settings."),
    ] = ProcessKind.ALL,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that are not left at their defaults.", show_default=False)
    ] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show each setting as a process started here would have it: its value, where that comes from, the default.

    Asks nobody: a process that runs has what was set when it was started. What is secret is hidden.
    """
    as_the_stack = of is ProcessKind.GATEWAY
    options = {"bootstrap_server": bootstrap_server, "data_dir": data_dir, "prefix": prefix}
    settings = resolve_settings(
        bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix, as_the_stack=as_the_stack
    )
    say_unknown_variables(settings)
    named = frozenset(name for name, value in options.items() if value is not None)
    shown = [
        each
        for name, each in shown_settings(settings, named, os.environ)
        if is_of(name, of) and not (changed and each.source == "default")
    ]
    if json:
        output.print_json({each.name: _document(each) for each in shown})
        return
    rows = [(each.name, each.value, f"{each.source} {each.where}".rstrip(), each.default) for each in shown]
    output.print_table(("setting", "value", "source", "default"), rows)
    output.say(f"{counted(len(rows), 'setting')}; docs/settings.md says what they mean")


def _document(shown: ShownSetting) -> dict[str, Any]:
    return {"value": shown.value, "source": shown.source, "where": shown.where or None, "default": shown.default}


def is_of(name: str, process: ProcessKind) -> bool:
    """Does such a process read the setting?"""
    gateways = name.startswith(_ONLY_OF_THE_GATEWAY) and name not in _NOT_OF_THE_GATEWAY
    shared = name in _SHARED or name.startswith(_SHARED_PREFIXES)
    match process:
        case ProcessKind.ALL:
            return True
        case ProcessKind.GATEWAY:
            return gateways or shared or name in _OF_THE_GATEWAY
        case ProcessKind.MATERIALIZER:
            return shared or name in _OF_THE_MATERIALIZER
        case ProcessKind.WORKER:
            return not gateways and name not in _OF_INIT and name not in _ONLY_OF_THE_MATERIALIZER


def shown_settings(
    settings: Settings, options: frozenset[str], environ: Mapping[str, str]
) -> Iterator[tuple[str, ShownSetting]]:
    """Every setting by its field's name, in the order of docs/settings.md; ``options``: what the command line named."""
    from turnlog_workers.base.logs import SecretFilter, secrets_of
    from turnlog_workers.base.model_servers import secrets_in_environment

    secrets = (*secrets_of(settings), *secrets_in_environment())
    known = SecretFilter([secret for secret in secrets if len(secret) >= _MIN_SECRET_CHARACTERS])
    variables = {variable.upper() for variable, value in environ.items() if value}
    for name, field in type(settings).model_fields.items():
        variable = f"TURNLOG_{name.upper()}"
        where = ""
        if name in options:
            source = "option"
        elif variable in variables:
            source = "environment"
        elif name in settings.model_fields_set:
            source, where = "file", str(settings.data_dir / "stack.json")
        else:
            source = "default"
        value = getattr(settings, name)
        text = said(value)
        if isinstance(value, SecretStr) and source == "default" and (file := _file_of(settings, name)) is not None:
            text, source, where = _HIDDEN, "file", str(file)
        default = field.get_default(call_default_factory=True)
        yield (
            name,
            ShownSetting(
                name=variable, value=known.redact(text), source=source, default=said(default), where=known.redact(where)
            ),
        )


def _file_of(settings: Settings, name: str) -> Path | None:
    """The file that has a secret instead of its variable."""
    found = getattr(settings, f"{name}_file", None)
    return found if isinstance(found, Path) else None


def said(value: object) -> str:
    """A value as its variable would say it, or as JSON. Of what may hold a secret only that it is there."""
    if isinstance(value, SecretStr):
        return _HIDDEN if value.get_secret_value() else ""
    if value is None or value == "" or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, str | int | Path):
        return str(value)
    return json_module.dumps(_plain(value), ensure_ascii=False)


def _field(name: str, value: Any) -> Any:
    """A program's arguments may hold a key."""
    return [value[0], _HIDDEN] if name == "command" and len(value) > 1 else _plain(value)


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return {name: _field(name, item) for name, item in value if item != type(value).model_fields[name].default}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in asdict(value).items() if item not in (None, "", (), {})}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
