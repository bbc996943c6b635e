"""Which turn may use which tools: the rules of the setting ``TURNLOG_ALLOW_TOOLS``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

SCOPES = ("session", "channel", "model")
_CLAUSE = re.compile(rf"@(?=(?:{'|'.join(SCOPES)}):)")
_WILDCARD = re.compile(r"[*?\[]")
_TOOL = re.compile(r"[A-Za-z0-9_*?\[\]!-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRule:
    """Tools whose names fit a pattern, for turns that fit all of its conditions."""

    tools: str
    conditions: tuple[tuple[str, str], ...] = ()  #: (one of :data:`SCOPES`, pattern)

    def allows(self, tool: str, *, session: str, channel: str, model: str) -> bool:
        """May such a turn use the tool?"""
        return fnmatchcase(tool, self.tools) and self.allows_turn(session=session, channel=channel, model=model)

    def allows_turn(self, *, session: str, channel: str, model: str) -> bool:
        """Does the turn fit the conditions?"""
        subject = {"session": session, "channel": channel, "model": model}
        return all(fnmatchcase(subject[scope], pattern) for scope, pattern in self.conditions)

    def may_allow_some(self, prefix: str, *, session: str, channel: str, model: str) -> bool:
        """May such a turn use any tool whose name begins so? Asked before anybody knows which tools there are."""
        literal = _WILDCARD.split(self.tools, maxsplit=1)[0]
        begins = literal.startswith(prefix) or (literal != self.tools and prefix.startswith(literal))
        return begins and self.allows_turn(session=session, channel=channel, model=model)


def read_rules(texts: Sequence[str]) -> tuple[ToolRule, ...]:
    """Rules such as ``clock``, ``sql@channel:ops`` or ``crm__*@channel:support-*@model:openai:*``.

    Raises ``ValueError`` with a sentence.
    """
    return tuple(map(_rule, texts))


def _rule(text: str) -> ToolRule:
    tools, *clauses = _CLAUSE.split(text)
    if not _TOOL.fullmatch(tools):
        raise ValueError(
            f"{text[:100]!r} is no rule: TOOL, or TOOL@channel:PATTERN, @session:PATTERN, @model:PATTERN after it"
        )
    conditions = []
    for clause in clauses:
        scope, _, pattern = clause.partition(":")
        if not pattern:
            raise ValueError(f"{text[:100]!r}: @{scope}: is followed by a pattern")
        conditions.append((scope, pattern))
    return ToolRule(tools=tools, conditions=tuple(conditions))
