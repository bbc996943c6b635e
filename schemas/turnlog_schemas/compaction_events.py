"""Events of history compaction. Part of ``events``: the same rules, and named from there."""

from dataclasses import dataclass

from turnlog_schemas.parts import DEFAULT_ADDRESS, ReplyAddress, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionRequested:
    """Somebody wants the history summarised: a run is owed, and ends in one of the three events below."""

    request_id: str
    command_hash: str
    instructions: str | None = None  #: what the summary must take care of
    reply: ReplyAddress = DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompacted:
    """A summary stands for a range of messages in what models see. The messages stay as they are."""

    history_compaction_id: str  #: the same for the same range under the same settings
    from_seq: int
    to_seq: int  #: both ends inclusive
    summary: str
    history_seq: int  #: the session's highest message_seq when the run read it
    method: str  #: ``model``, ``truncation`` (no model read the messages) or ``given`` (the request brought it)
    trigger: str  #: ``automatic`` or ``manual``
    model: str | None = None  #: that wrote it
    tokens_before: int = 0  #: of the prompt that the history makes (estimated)
    tokens_after: int = 0
    usage: Usage  #: of the summary's model calls
    duration_ms: int = 0
    request_id: str | None = None  #: of the request that is answered by it


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionFailed:
    """No summary could be had of a model. The turn that wanted it goes on."""

    history_seq: int  #: the session's highest message_seq when the run read it
    trigger: str
    code: str
    reason: str
    model: str | None = None
    usage: Usage  #: of the summary's model calls
    duration_ms: int = 0
    request_id: str | None = None  #: of the request that is answered by it


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionSkipped:
    """There was nothing to summarise that the newest summary does not stand for."""

    request_id: str
