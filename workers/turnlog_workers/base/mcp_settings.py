"""Servers of tools (Model Context Protocol) that the settings name. A key is never a setting's value."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from turnlog_workers.base.model_servers import KeySource

MAX_SERVERS = 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")  #: no underscore: the server's part of a tool's name ends at two
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,255}$"


class McpServer(BaseModel):
    """A server of tools: a command that speaks over its standard streams, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = Field(default=(), max_length=100)  #: the program and its arguments
    env_from: tuple[str, ...] = Field(default=(), max_length=100)  #: variables of the worker that it is given
    url: str = Field(default="", max_length=2000)  #: of a server over HTTP
    key_env: str = Field(default="", pattern=rf"{_VARIABLE}|^$")  #: the variable that holds its key
    key_file: Path | None = None  #: the file that holds its key

    @field_validator("env_from")
    @classmethod
    def _variables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(_VARIABLE.strip("^$"), name):
                raise ValueError("it holds names of variables, not values")
        return value

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("it must begin with http:// or https:// and name a host")
        if parts.username or parts.password:
            raise ValueError("it may hold no name and password; a key has key_env or key_file")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "McpServer":
        if bool(self.command) == bool(self.url):
            raise ValueError("command or url: one of them")
        if self.key_env and self.key_file is not None:
            raise ValueError("key_env and key_file: one of them")
        if self.command and self.key is not None:
            raise ValueError("a command gets its key by env_from")
        return self

    @property
    def key(self) -> KeySource | None:
        """Where its key is; ``None``: it takes none."""
        if not self.key_env and self.key_file is None:
            return None
        return KeySource(variable=self.key_env, file=self.key_file)


def read_mcp_servers(text: str) -> dict[str, McpServer]:
    """The servers by name, from the JSON of the setting. Raises ``ValueError`` with a sentence, without any value."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise ValueError('this is no JSON object of servers, such as {"files": {"command": ["files-server"]}}')
    if len(raw) > MAX_SERVERS:
        raise ValueError(f"{len(raw)} servers; at most {MAX_SERVERS} may be named")
    return {name: _server(name, described) for name, described in raw.items()}


def _server(name: str, described: object) -> McpServer:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:70]!r} is no name of a server: letters, digits and '-', at most 32")
    if not isinstance(described, Mapping):
        raise ValueError(f"server {name!r} is no JSON object")
    try:
        return McpServer.model_validate(described)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part)[:70] for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"there is no such field; known are {', '.join(McpServer.model_fields)}"
        raise ValueError(f"server {name!r}{f', {field}' if field else ''}: {what}") from None
