"""The answers of a stream: what became of each request, so that its producer's retry finds it.

A stream's state holds those of requests that are not done, and the newest of the others; older ones are rows, which a
decision looks up (:mod:`turnlog_streams.lookups`). Which ones have left depends on the log alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from immutables import Map

from turnlog_schemas.events import RequestRefused
from turnlog_streams.records import changed
from turnlog_streams.turn import Answer

Rows = Mapping[str, Answer | None]  #: that were looked up, by key; ``None``: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """By request id; by :func:`conflict_key` for the refusal of one that was used before."""

    known: Map[str, Answer] = Map()  # noqa: RUF009 - it never changes
    settled: tuple[str, ...] = ()  #: keys that may leave, the oldest first; others wait for something
    older: int = 0  #: answers that have left: rows have them

    def waiting(self, key: str, answer: Answer) -> "Answers":
        """With one that is not final, and stays until it is."""
        return changed(self, known=self.known.set(key, answer))

    def settle(self, key: str, answer: Answer) -> "Answers":
        """With a final one."""
        return changed(self, known=self.known.set(key, answer), settled=(*self.settled, key))

    def newest(self, keep: int) -> "Answers":
        """Of the final ones, the newest stay. Asked before an event is folded: what leaves was there before it."""
        over = len(self.settled) - keep
        if over <= 0:
            return self
        known = self.known
        for key in self.settled[:over]:
            known = known.delete(key)
        return changed(self, known=known, settled=self.settled[over:], older=self.older + over)

    def find(self, key: str, rows: Rows) -> Answer | None:
        """The answer of a key, here or among rows that were looked up."""
        answer = self.known.get(key)
        return answer if answer is not None else rows.get(key)

    def of_request(self, request_id: str, command_hash: str, rows: Rows) -> Answer | None:
        """What became of this very request before; ``None`` when it is new, or conflicts for the first time."""
        answer = self.find(request_id, rows)
        if answer is not None and answer.command_hash != command_hash:
            return self.find(conflict_key(request_id, command_hash), rows)
        return answer

    def unknown(self, request_id: str, command_hash: str, rows: Rows) -> frozenset[str]:
        """The keys of a request that have to be looked up before it is decided."""
        if not self.older:
            return frozenset()
        keys = (request_id, conflict_key(request_id, command_hash))
        return frozenset(key for key in keys if key not in self.known and key not in rows)


NO_ANSWERS = Answers()


def conflict_key(request_id: str, command_hash: str) -> str:
    """Where the refusal of a re-used request id is kept, beside the answer of its first use."""
    return f"{request_id}\0{command_hash}"


def refusal_key(refused: RequestRefused) -> str:
    """Where a refusal is kept."""
    return conflict_key(refused.request_id, refused.command_hash) if refused.reused else refused.request_id


def refusal_answer(refused: RequestRefused) -> Answer:
    """What a refusal answers."""
    return Answer(
        command_hash=refused.command_hash,
        kind="refused",
        code=refused.code,
        reason=refused.reason,
        reply=refused.reply,
    )
