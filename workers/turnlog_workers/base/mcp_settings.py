"""Servers of tools (Model Context Protocol) that the settings name. A key is never a setting's value."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from turnlog_workers.base.model_servers import KeySource
from turnlog_workers.base.named_servers import Rules, read_named_servers

MAX_SERVERS = 30
_RULES = Rules(
    example='{"files": {"command": ["files-server"]}}',
    most=MAX_SERVERS,
    # No underscore: the server's part of a tool's name ends at two.
    name=re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}"),
    name_in_words="letters, digits and '-', at most 32",
)
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
    return read_named_servers(text, McpServer, _RULES)
