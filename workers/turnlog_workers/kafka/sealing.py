"""Sealed records: the event without its texts in the clear, and all of it, encrypted, in a header beside it.

AES-256-GCM; the additional data are the record's own bytes, so what is sealed opens beside them only. The header:
8 bytes that name the key, 12 of nonce, the ciphertext.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from turnlog_workers.base.ports import Headers

SEALED = "turnlog-sealed"  #: name of the header
KEY_ID_BYTES = 8
_NONCE_BYTES = 12
_AES_BYTES = 32
SECRET_BYTES = _AES_BYTES + 32
_HASH_CHARACTERS = 32  #: as many as a command's hash has


class SealBrokenError(ValueError):
    """What is sealed does not open with its key, or not beside this record: somebody changed it."""


@dataclass(frozen=True)
class SessionKey:
    """What the texts of one subject are sealed with."""

    key_id: bytes
    secret: bytes = field(repr=False)  #: half of it for texts, half for hashes

    @classmethod
    def new(cls) -> "SessionKey":
        """Of chance alone."""
        return cls(secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(SECRET_BYTES))

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self.secret[:_AES_BYTES])

    def keyed(self, told: str) -> str:
        """A hash that tells nothing to who has no key."""
        return hmac.new(self.secret[_AES_BYTES:], told.encode(), hashlib.sha256).hexdigest()[:_HASH_CHARACTERS]

    def seal(self, whole: bytes, beside: bytes) -> bytes:
        """The header's content: ``whole`` sealed to the record ``beside`` which it stands."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self.key_id + nonce + self._cipher.encrypt(nonce, whole, beside)

    def open(self, sealed: bytes, beside: bytes) -> bytes:
        """The inverse. Raises :class:`SealBrokenError`."""
        nonce, text = sealed[KEY_ID_BYTES:][:_NONCE_BYTES], sealed[KEY_ID_BYTES + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, text, beside)
        except (InvalidTag, ValueError) as error:
            raise SealBrokenError("what is sealed does not open with its key") from error


def sealed_part(headers: Headers | None) -> bytes | None:
    """Of a record's headers; ``None``: nothing of it is sealed."""
    return next((content for name, content in headers or () if name == SEALED), None)


def key_id_of(sealed: bytes) -> bytes:
    """Which key opens it."""
    return sealed[:KEY_ID_BYTES]
