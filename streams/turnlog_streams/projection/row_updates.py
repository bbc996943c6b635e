"""What a batch changes in rows that earlier batches stored. Part of ``projection.rows``."""

from typing import NamedTuple

from turnlog_streams.table_types import Millis


class CallResultRow(NamedTuple):
    """The result of a call that was stored by an earlier batch: an update of its ``tool_calls`` row."""

    partition: int
    log_offset: int
    position: int
    result_message_seq: int
    outcome: str | None
    result_at: Millis


class HiddenTurnRow(NamedTuple):
    """A turn that is not to be shown any more: an update of its ``turns`` row."""

    partition: int
    session_offset: int
    turn_id: str
    hidden: bool


class DeliveryRow(NamedTuple):
    """The delivery of a forward that was stored by an earlier batch: an update of its ``forwards`` row."""

    partition: int
    source_kind: str
    source_id: str
    seq: int
    delivered_offset: int


class ErasedSession(NamedTuple):
    """A session of which no row keeps a text, up to the event that says so."""

    partition: int
    session_offset: int
    session_id: str
    log_offset: int


class ErasedInChannel(NamedTuple):
    """A session of which its channel's rows keep no text, up to the event that says so."""

    partition: int
    channel: str
    session_id: str
    log_offset: int
