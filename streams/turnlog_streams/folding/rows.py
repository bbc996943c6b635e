"""The rows in which a store keeps folded streams. They are a function of the log's prefix alone.

``stream_offset`` is the log offset of the stream's first event: a number for it that is shorter than its id. ``slot``
is a digest of that number and a name: an index on it finds one row of a stream in as much time as one of any other.
"""

import hashlib
from typing import NamedTuple

from turnlog_streams.channel.state import Channel
from turnlog_streams.folding.canonical import shape_of
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.lookups import ChannelSession
from turnlog_streams.session.state import Session
from turnlog_streams.table_types import PARTITIONS, Table

#: Raised whenever the same log leads to other rows although the records of the state look as before.
_FOLD_VERSION = 2


class StreamRow(NamedTuple):
    """A session or channel with any event, as of its newest one."""

    kind: str
    stream_id: str
    stream_offset: int
    last_offset: int  #: of its newest event
    unknown_events: int  #: written by a newer version: nothing may be decided for it here
    waits_since: int | None  #: the event since which it has open turns, owed work or pending forwards
    state: str  #: canonical text (``folding.canonical``)


class AnswerRow(NamedTuple):
    """An answer that has left its stream's state."""

    slot: int
    stream_offset: int
    key: str
    answer: str  #: canonical text


class MarkRow(NamedTuple):
    """How far a stream has heard a source that has left its state."""

    slot: int
    stream_offset: int
    source: str
    seq: int


class ChannelSessionRow(NamedTuple):
    """A session of a channel."""

    slot: int
    stream_offset: int
    session_id: str
    rank: int
    archived: bool
    session: str  #: canonical text, as it was opened


class StoredMessage(NamedTuple):
    """A message of a session."""

    stream_offset: int
    message_seq: int
    log_offset: int
    turn_id: str
    role: str
    text: str | None  #: where that is all of its content
    more: str | None  #: canonical text of whatever else there is


class Unanswered(NamedTuple):
    """A decided request whose terminal frame may not have been sent yet, as far as the log says."""

    log_offset: int  #: of the event that its answer follows from
    place: int  #: among those of one event
    kind: str
    stream_id: str
    request_id: str
    command_hash: str


def slot_of(stream_offset: int, name: str) -> int:
    """Where a named row of a stream is found."""
    digest = hashlib.blake2b(f"{stream_offset} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


STREAMS = Table(
    name="streams",
    row=StreamRow,
    key=("kind", "stream_id"),
    updated=("last_offset", "unknown_events", "waits_since", "state"),
)
ANSWERS = Table(name="answers", row=AnswerRow, key=("stream_offset", "key"))
MARKS = Table(name="marks", row=MarkRow, key=("stream_offset", "source"))
CHANNEL_SESSIONS = Table(name="channel_sessions", row=ChannelSessionRow, key=("stream_offset", "session_id"))
MESSAGES = Table(name="messages", row=StoredMessage, key=("stream_offset", "message_seq"))
UNANSWERED = Table(name="unanswered", row=Unanswered, key=("log_offset", "place"))
STORE_TABLES = (STREAMS, ANSWERS, MARKS, CHANNEL_SESSIONS, MESSAGES, UNANSWERED, PARTITIONS)

#: Which rows a log leads to. A store of another encoding is another file: two builds may share a folder.
ENCODING = f"{_FOLD_VERSION}-{shape_of(Session, Channel, ChannelSession, HistoryMessage)}"
