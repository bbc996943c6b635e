"""What can be wrong with bytes or values at the edge of the wire."""


class WireError(ValueError):
    """Base of every error about the form of a record. ``code`` is stable and machine-readable."""

    code = "malformed"


class UndecodableError(WireError):
    """The bytes cannot be read as any record: such a record becomes a dead letter."""

    code = "undecodable"


class UnknownFingerprintError(UndecodableError):
    """The bytes are framed correctly, but no schema with this fingerprint is known (yet)."""

    code = "unknown_fingerprint"

    def __init__(self, fingerprint: bytes) -> None:
        super().__init__(
            f"no schema with fingerprint {fingerprint.hex()} is known: the writer must publish its schemas to the "
            "schemas topic before first use"
        )
        self.fingerprint = fingerprint


class InvalidCommandError(WireError):
    """Session id (or channel) can be read, the command cannot be carried out as it stands: it is refused.

    ``header`` is what could be read of the request, so that the refusal finds its way back.
    """

    def __init__(self, code: str, reason: str, header: object | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.header = header
