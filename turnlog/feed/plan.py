"""What a feed is to do, how far it is, and what came of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnlog.errors import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, UsageError
from turnlog.feed.comparison import Mismatch
from turnlog.feed.conversations import Conversation, ConversationFile, read_conversations
from turnlog_workers.base.counted import counted

_RECORDED = "recorded:"
CONFLICT = "conflict"  #: code of a refusal: this request was made before, in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """How a file is fed."""

    model: str | None = (
        None  #: ``recorded:FILE`` (each session gets its own ``#ID``) or any other; absent: the fed file
    )
    delta_ms: int | None = None  #: pace of a ``recorded:`` model, milliseconds a word
    verify: bool = False  #: compare the materialized histories with the file
    skip: bool = False  #: leave out conversations that cannot be fed
    concurrency: int = 16  #: sessions side by side
    resend_after_s: float = 10.0
    stall_timeout_s: float = 120.0  #: without any progress
    verify_timeout_s: float = 30.0  #: without the snapshot getting nearer to the last terminal event


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPlan:
    """What will be sent: a file that is in order, and a model for each of its conversations."""

    file: ConversationFile
    options: FeedOptions

    @property
    def is_recorded(self) -> bool:
        """Does a recording answer? If not, only the user's messages can be compared."""
        return self.options.model is None or self.options.model.startswith(_RECORDED)

    def model(self, conversation: Conversation) -> str:
        """The model of the conversation's session."""
        if not self.is_recorded:
            return self.options.model or ""
        named = (self.options.model or "").removeprefix(_RECORDED)
        pace = "" if self.options.delta_ms is None else f"?delta_ms={self.options.delta_ms}"
        file = os.path.abspath(named) if named else str(self.file.path)
        return f"{_RECORDED}{file}#{conversation.conversation_id}{pace}"

    def request_id(self, conversation: Conversation, number: int) -> str:
        """The id of the request with the conversation's user message ``number`` (from 1)."""
        return f"feed-{self.file.digest[:32]}-{conversation.conversation_id}-{number}"

    def summary_id(self, conversation: Conversation, to_seq: int) -> str:
        """The id of the request with the conversation's summary up to a message."""
        return f"feed-{self.file.digest[:32]}-{conversation.conversation_id}-summary-{to_seq}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedProgress:
    """How far a feed is. ``stage`` is ``feeding`` or ``verifying``."""

    stage: str
    conversations: int
    conversations_done: int
    turns: int
    turns_ended: int


OnProgress = Callable[[FeedProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTurn:
    """A fed turn that did not complete, or a request that was refused."""

    session_id: str
    turn_number: int
    status: str  #: ``failed``, ``cancelled`` or ``refused``
    code: str
    reason: str

    def __str__(self) -> str:
        return f"session {self.session_id}, turn {self.turn_number}: {self.status} ({self.code}): {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedReport:
    """What came of it."""

    conversations: int
    turns: int  #: user messages in the file
    messages: int  #: in the file, system messages apart; with ``verify`` all of them were compared
    verified: bool
    completed: int = 0  #: turns that were seen to complete
    users_only: bool = False  #: only the user's messages were compared: the model was no recording
    mismatches: tuple[Mismatch, ...] = ()
    failed_turns: tuple[EndedTurn, ...] = ()  #: failed or cancelled
    refused: tuple[EndedTurn, ...] = ()  #: the rest of such a conversation was not sent
    fed_before: tuple[str, ...] = ()  #: sessions fed earlier with another model or pace, now found equal to the file
    turns_fed_before: int = 0  #: theirs that this run did not see end
    not_stored: tuple[str, ...] = ()  #: keys of the file that no history keeps
    not_stored_lines: tuple[str, ...] = ()  #: the same by line
    left_out: tuple[str, ...] = ()  #: lines that cannot be fed, and why

    @property
    def not_fed(self) -> int:
        """Turns of the file that were not seen to end: refused ones, those behind them, and any other."""
        return self.turns - self.completed - len(self.failed_turns) - self.turns_fed_before

    @property
    def exit_code(self) -> int:
        """0, 5 if a request was refused, else 1 if a turn failed or was not fed, or if a history differs."""
        if self.refused:
            return EXIT_REFUSED
        return EXIT_FAILED if self.mismatches or self.failed_turns or self.not_fed else EXIT_OK

    @property
    def details(self) -> list[str]:
        """Each thing that is not as it should be, in a line."""
        return [str(each) for each in (*self.refused, *self.failed_turns, *self.mismatches)]

    @property
    def turns_in_words(self) -> str:
        """What became of the file's turns: the figures add up to their number."""
        counts = [
            (self.completed, "completed"),
            (len(self.failed_turns), "failed or cancelled"),
            (self.turns_fed_before, "fed before"),
            (self.not_fed, "not fed"),
        ]
        said = ", ".join(f"{count} {what}" for count, what in counts if count and count != self.turns)
        whole = next((f" {what}" for count, what in counts if count == self.turns), "")
        return counted(self.turns, "turn") + (f" ({said})" if said else whole if whole != " completed" else "")

    def as_json(self) -> dict[str, Any]:
        """For ``--json``: ``mismatches`` is their number, ``details`` says each."""
        return {
            "conversations": self.conversations,
            "turns": self.turns,
            "completed": self.completed,
            "not_fed": self.not_fed,
            "messages": self.messages,
            "mismatches": len(self.mismatches) if self.verified else None,
            "failed_turns": len(self.failed_turns),
            "refused": len(self.refused),
            "verified": self.verified,
            "users_only": self.users_only,
            "details": self.details,
            "fed_before": list(self.fed_before),
            "not_stored": list(self.not_stored),
            "not_stored_lines": list(self.not_stored_lines),
            "left_out": list(self.left_out),
        }


def plan_feed(path: Path, options: FeedOptions) -> FeedPlan:
    """Read and check the file; nothing is sent. Blocks. Raises :class:`NotFoundError` or :class:`UsageError`."""
    model = options.model
    if model is not None and model.startswith(_RECORDED):
        if "#" in model:
            raise UsageError("--model recorded:FILE has no #ID here: each conversation's own is added")
        if not model.removeprefix(_RECORDED):
            raise UsageError("--model recorded: lacks the file; without --model the fed file itself is used")
    elif model is not None and options.delta_ms is not None:
        raise UsageError(f"--delta-ms is the pace of a recording: model {model!r} has none")
    if options.delta_ms is not None and options.delta_ms < 0:
        raise UsageError("--delta-ms: milliseconds, 0 or more")
    if options.concurrency < 1:
        raise UsageError("at least one session must be fed at a time")
    recorded = model is None or model.startswith(_RECORDED)  # else a summary would be of what another model said
    return FeedPlan(file=read_conversations(path, skip=options.skip, summaries=recorded), options=options)
