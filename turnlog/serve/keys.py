"""Who may: keys with scopes and a namespace of sessions. Only hashes are kept, and compared in constant time."""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from turnlog.errors import UsageError
from turnlog_schemas.commands import ID_PATTERN
from turnlog_workers.base.config import Settings

#: ``chat``: send, cancel, and read what one's own responses became; ``read``: sessions and histories; ``admin``:
#: create, archive, compact, hide, settings; ``sql``: statements on the snapshot, which has every session.
SCOPES = ("chat", "read", "admin", "sql")
_HASH = re.compile(r"[0-9a-f]{64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_FIELDS = {"name", "sha256", "scopes", "namespace"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what is theirs."""

    name: str  #: of the key; for limits and logs
    scopes: frozenset[str]
    namespace: str = ""  #: what the ids of its sessions and channels begin with; empty: all of them are its own

    def may(self, scopes: Sequence[str]) -> bool:
        """Has it one of these scopes? Where none is named, everybody may who has a key."""
        return not scopes or any(scope in self.scopes for scope in scopes)

    def own(self, name: str) -> str:
        """The full id of a session or a channel that the caller names: in its namespace, whatever it names."""
        return name if name.startswith(self.namespace) else f"{self.namespace}{name}"

    def owns(self, full_id: str | None) -> bool:
        """Is the session or channel of this full id the caller's?"""
        return full_id is not None and full_id.startswith(self.namespace)


#: Without keys, on loopback: whoever reaches it may do everything.
EVERYBODY = Caller(name="local", scopes=frozenset(SCOPES))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    digest: bytes
    caller: Caller


class KeyRing:
    """The keys of a gateway."""

    def __init__(self, keys: Sequence[_Key] = ()) -> None:
        self._keys = tuple(keys)

    @property
    def open(self) -> bool:
        """Are there none, so that nobody is asked for one?"""
        return not self._keys

    @property
    def callers(self) -> tuple[Caller, ...]:
        """Whose keys these are."""
        return tuple(key.caller for key in self._keys)

    def digest_of(self, caller: Caller) -> bytes | None:
        """The hash of the caller's key; ``None``: it has none."""
        return next((key.digest for key in self._keys if key.caller == caller), None)

    def caller(self, given: str) -> Caller | None:
        """Whose key it is. All hashes are compared, whichever fits: the time that it takes tells nothing."""
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found


def read_keys(settings: Settings) -> KeyRing:
    """The keys of ``TURNLOG_HTTP_KEYS`` and of the file that ``TURNLOG_HTTP_KEYS_FILE`` names. Raises UsageError."""
    keys = _parsed(settings.http_keys.get_secret_value(), "TURNLOG_HTTP_KEYS")
    if settings.http_keys_file is not None:
        try:
            text = settings.http_keys_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"TURNLOG_HTTP_KEYS_FILE: {settings.http_keys_file} cannot be read: {error}") from error
        if not (from_file := _parsed(text, "TURNLOG_HTTP_KEYS_FILE")):
            # An empty file opens nothing: whoever names one wants to be asked for keys.
            raise UsageError(f"TURNLOG_HTTP_KEYS_FILE: {settings.http_keys_file} has no key")
        keys += from_file
    _check_together(keys)
    return KeyRing(keys)


def _parsed(text: str, where: str) -> list[_Key]:
    if not text.strip():
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # what it holds is not repeated: it may be a key
        raise UsageError(f'{where}: no JSON; it is a list of {{"name", "sha256", "scopes", "namespace"}}') from None
    if not isinstance(found, list):
        raise UsageError(f"{where}: a list of keys is wanted")
    return [_key(entry, f"{where}: entry {number}") for number, entry in enumerate(found, start=1)]


def _key(entry: Any, where: str) -> _Key:
    if not isinstance(entry, dict) or not entry.keys() <= _FIELDS:
        raise UsageError(f"{where}: an object with {', '.join(sorted(_FIELDS))} is wanted, and nothing else")
    name, digest = entry.get("name"), entry.get("sha256")
    scopes, namespace = entry.get("scopes"), entry.get("namespace", "")
    if not isinstance(name, str) or not re.fullmatch(ID_PATTERN, name):
        raise UsageError(f"{where}: name is 1 to 128 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise UsageError(f"{where}: sha256 is the key's SHA-256 in 64 hex digits, not the key itself")
    if not isinstance(scopes, list) or not scopes or any(scope not in SCOPES for scope in scopes):
        raise UsageError(f"{where}: scopes is a list of {', '.join(SCOPES)}")
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise UsageError(f"{where}: namespace is at most 64 characters of A-Z a-z 0-9 . _ -")
    if namespace and "sql" in scopes:
        raise UsageError(f"{where}: SQL reads every session, so a key with the scope sql can have no namespace")
    caller = Caller(name=name, scopes=frozenset(scopes), namespace=namespace)
    return _Key(digest=bytes.fromhex(digest), caller=caller)


def _check_together(keys: Sequence[_Key]) -> None:
    names = [key.caller.name for key in keys]
    if len(set(names)) < len(names) or len({key.digest for key in keys}) < len(keys):
        raise UsageError("TURNLOG_HTTP_KEYS: two keys have one name, or one key has two entries")
    spaces = {key.caller.namespace for key in keys if key.caller.namespace}
    for one in spaces:
        for other in spaces - {one}:
            if other.startswith(one):
                raise UsageError(
                    f"TURNLOG_HTTP_KEYS: namespace {other!r} lies in {one!r}, whose keys would reach it; end each "
                    "with a character that the others do not go on with, as in 'shop.'"
                )
