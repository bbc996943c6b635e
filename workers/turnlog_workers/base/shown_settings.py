"""What each setting of a process is, and where that comes from, for people to see: never a secret."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import SecretFilter, secrets_of
from turnlog_workers.base.model_servers import secrets_in_environment

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSetting:
    """A setting as it is shown: never a secret."""

    name: str  #: of its variable
    value: str  #: as the variable would say it, or as JSON; empty: none
    source: str  #: ``option``, ``environment``, ``file`` or ``default``
    default: str
    where: str = ""  #: of a file


def is_of(name: str, process: str) -> bool:
    """Does such a process (``worker``, ``materializer``, ``gateway``; ``all``) read the setting?"""
    gateways = name.startswith(_ONLY_OF_THE_GATEWAY) and name not in _NOT_OF_THE_GATEWAY
    shared = name in _SHARED or name.startswith(_SHARED_PREFIXES)
    match process:
        case "gateway":
            return gateways or shared or name in _OF_THE_GATEWAY
        case "materializer":
            return shared or name in _OF_THE_MATERIALIZER
        case "worker":
            return not gateways and name not in _OF_INIT and name not in _ONLY_OF_THE_MATERIALIZER
        case _:
            return True


def shown_settings(
    settings: Settings, options: frozenset[str], environ: Mapping[str, str]
) -> Iterator[tuple[str, ShownSetting]]:
    """Every setting by its field's name, in the order of docs/settings.md; ``options``: what the command line named."""
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
    return json.dumps(_plain(value), ensure_ascii=False)


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
