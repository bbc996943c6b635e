"""Model servers that the settings name, and where keys come from. A key itself is never a setting's value."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from turnlog_workers.base.file_settings import read_media_types
from turnlog_workers.base.named_servers import Rules, read_named_servers

MAX_SERVERS = 100
MAX_KEY_BYTES = 16 * 1024  #: some keys are signed tokens
#: The variable that holds the key of each provider; with ``_FILE`` behind it, one that names a file with the key.
KEY_VARIABLES = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY", "google": "GOOGLE_API_KEY"}
_RULES = Rules(
    example='{"local": {"url": "http://localhost:8080/v1"}}',
    most=MAX_SERVERS,
    name=re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    name_in_words="letters, digits, '.', '_' and '-', at most 64",
)

#: Settings whose names end as if they held a key.
NO_SECRETS = frozenset(("TURNLOG_USER_METADATA_KEY", "TURNLOG_HTTP_MAX_STREAMS_PER_KEY"))
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_ID)?$", re.IGNORECASE)


class KeyUnavailableError(Exception):
    """There is no usable key where one should be. The sentence names the place, never a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where a key is: read again for each turn, so that a new one needs no restart.

    A place too many is no place: of a variable and a file, one may be an old key that was forgotten.
    """

    variable: str = ""
    file: Path | None = None

    def read(self) -> str:
        """The key. Raises :class:`KeyUnavailableError`."""
        if self.file is not None and self.variable:
            raise KeyUnavailableError(_both(self.variable))
        if self.file is not None:
            where = f"the file {str(self.file)!r}"
            try:
                with self.file.open("rb") as opened:
                    raw = opened.read(MAX_KEY_BYTES + 1)
            except OSError as error:
                raise KeyUnavailableError(f"{where} with the key cannot be read: {error.strerror}") from error
            if len(raw) > MAX_KEY_BYTES:
                raise KeyUnavailableError(f"{where} is too large for a key")
            key = raw.decode(errors="replace").strip()
        else:
            where = f"the environment variable {self.variable}"
            key = os.environ.get(self.variable, "").strip()
        if not key:
            raise KeyUnavailableError(f"{where} holds no key")
        if not key.isascii() or not key.isprintable():
            raise KeyUnavailableError(f"{where} holds characters that no key has")
        return key


def key_of(variable: str) -> KeySource | None:
    """Where a provider's key is: the file that ``VARIABLE_FILE`` names, or ``VARIABLE`` itself; ``None``: nowhere."""
    file = os.environ.get(f"{variable}_FILE", "").strip()
    value = os.environ.get(variable, "").strip()
    if not file and not value:
        return None
    return KeySource(variable=variable if value else "", file=Path(file) if file else None)


def keys_in_two_places() -> list[str]:
    """A sentence for each provider's key that is given in a variable and in a file, too."""
    given = (key_of(variable) for variable in KEY_VARIABLES.values())
    return [_both(source.variable) for source in given if source and source.variable and source.file is not None]


def _both(variable: str) -> str:
    return f"{variable} and {variable}_FILE: set one of them"


def secrets_in_environment() -> list[str]:
    """The values of all variables whose names say that they hold a key or the like."""
    return [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and name not in NO_SECRETS]


class HttpServer(BaseModel):
    """A server that speaks the OpenAI chat format, as the settings describe it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(max_length=2000)  #: up to what comes before ``/chat/completions``
    key_env: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,255})?$")  #: the variable that holds the key
    key_file: Path | None = None  #: the file that holds the key
    control_tokens: Literal["escape", "keep"] = "escape"  #: of chat templates, in what users and tools say
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  #: what the server calls the bound

    media_types: tuple[str, ...] = ()  #: of files that its models are shown, as patterns: ``image/*``

    @field_validator("media_types")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return read_media_types(",".join(value))

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("it may hold neither a name and password nor ? or #; a key has key_env or key_file")
        _ = parts.port  # raises for what is no port
        return value.rstrip("/")

    @model_validator(mode="after")
    def _one_key(self) -> "HttpServer":
        if self.key_env and self.key_file is not None:
            raise ValueError("key_env and key_file: one of them")
        return self

    @property
    def key(self) -> KeySource | None:
        """Where its key is; ``None``: it takes none."""
        if not self.key_env and self.key_file is None:
            return None
        return KeySource(variable=self.key_env, file=self.key_file)

    def has_key(self) -> bool:
        """Is its key where it should be, now?"""
        try:
            return self.key is None or bool(self.key.read())
        except KeyUnavailableError:
            return False


def read_servers(text: str) -> dict[str, HttpServer]:
    """The servers by name, from the JSON of the setting. Raises ``ValueError`` with a sentence, without any value."""
    return read_named_servers(text, HttpServer, _RULES)
