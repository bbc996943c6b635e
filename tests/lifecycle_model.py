"""What sessions and channels do, told a second time and in other words: plain dicts, a network that is perfect."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tests.lifecycle_world import Stream
from turnlog_schemas import commands as cmd
from turnlog_streams.channel.commands import ChangeChannel

Row = dict[str, Any]


def _channel() -> Row:
    return {"opened": [], "archived": set(), "answers": {}}


def _session() -> Row:
    return {"exists": False, "channel": None, "archived": False, "active": True, "turns": [], "ended": {}, "owed": []}


@dataclass
class Model:
    """Sessions and channels as dicts; what one tells the other is heard once and in order."""

    max_queued_turns: int
    channels: dict[str, Row] = field(default_factory=dict)
    sessions: dict[str, Row] = field(default_factory=dict)
    said: Counter[Stream] = field(default_factory=Counter)  #: by source
    news: dict[tuple[Stream, Stream], list[tuple[int, str]]] = field(default_factory=dict)  #: said, not heard yet
    last: dict[tuple[Stream, Stream], int] = field(default_factory=dict)  #: said
    heard: dict[tuple[Stream, Stream], int] = field(default_factory=dict)
    strangers: dict[tuple[Stream, int], str] = field(default_factory=dict)  #: refused to a channel, without a receipt

    def channel(self, name: str) -> Row:
        """A channel: sessions in the order in which they were opened, which are archived, how requests were decided."""
        return self.channels.setdefault(name, _channel())

    def session(self, name: str) -> Row:
        """A session: its channel, what it heard, its open turns (the first one runs), how others ended."""
        return self.sessions.setdefault(name, _session())

    def active(self, name: str) -> str | None:
        """The session that was opened last and is not archived."""
        channel = self.channel(name)
        return next((s for s in reversed(channel["opened"]) if s not in channel["archived"]), None)

    def say(self, source: Stream, target: Stream, what: str) -> None:
        """Tell another stream, some time."""
        self.said[source] += 1
        self.last[source, target] = self.said[source]
        self.news.setdefault((source, target), []).append((self.said[source], what))

    def hear(self, source: Stream, target: Stream, seq: int) -> bool:
        """A forward arrives; ``False``: it was heard before."""
        if not self.news.get((source, target)) or self.news[source, target][0][0] != seq:
            assert seq <= self.heard.get((source, target), 0), "a forward overtook another one"
            return False
        _, what = self.news[source, target].pop(0)
        self.heard[source, target] = seq
        if target[0] == "channel":
            self._channel_hears(target[1], source[1], what)
        else:
            session = self.session(target[1])
            if what == "created" and session["exists"] and session["channel"] != source[1]:
                self.strangers[source, seq] = target[1]
            self._session_hears(target[1], source[1], what)
        return True

    def receipt(self, source: Stream, seq: int, waiting: Collection[str]) -> None:
        """A receipt arrives that is new, while these requests wait for forwards."""
        stranger = self.strangers.pop((source, seq), None)
        if stranger is not None:
            channel = self.channel(source[1])
            self._archive(source[1], stranger)
            for request_id in waiting:
                if channel["answers"][request_id][0] == stranger:
                    channel["answers"][request_id] = "exists"

    # ---- channels

    def _tell(self, name: str, session_id: str, what: str) -> None:
        self.say(("channel", name), ("session", session_id), what)

    def _open(self, name: str, session_id: str, before: str | None, *, tell_it: bool) -> None:
        self.channel(name)["opened"].append(session_id)
        if tell_it:
            self._tell(name, session_id, "created")
        if before is not None:
            self._tell(name, before, "deactivated")

    def lifecycle(self, name: str, command: ChangeChannel) -> None:
        """A lifecycle request that is new."""
        channel, active, wanted = self.channel(name), self.active(name), command.session_id
        kind, answer = type(command.command), None
        known = wanted in channel["opened"]
        if (kind is cmd.CreateSession and known) or (kind is cmd.ArchiveSession and not known):
            answer = "exists" if known else "not_found"
        elif kind is cmd.ArchiveSession:
            if wanted not in channel["archived"]:
                self._archive(name, wanted or "", tell_it=True)
            answer = (wanted, False)
        elif kind is cmd.ResolveSession and active is not None:
            answer = (active, False)
        else:
            opened = wanted or next(new for new in command.new_ids if new not in channel["opened"])
            if kind is cmd.RotateSession and active is not None:
                channel["archived"].add(active)
                self._tell(name, active, "archived")
                active = None
            self._open(name, opened, active, tell_it=True)
            answer = (opened, True)
        channel["answers"][command.request_id] = answer

    def _archive(self, name: str, session_id: str, *, tell_it: bool = False) -> None:
        channel, active = self.channel(name), self.active(name)
        if session_id in channel["archived"]:
            return
        channel["archived"].add(session_id)
        if tell_it:
            self._tell(name, session_id, "archived")
        if session_id == active and (following := self.active(name)) is not None:
            self._tell(name, following, "activated")

    def _channel_hears(self, name: str, session_id: str, what: str) -> None:
        known = session_id in self.channel(name)["opened"]
        if what == "opened" and not known:
            self._open(name, session_id, self.active(name), tell_it=False)
        elif what == "archived" and known:
            self._archive(name, session_id)

    # ---- sessions

    def chat(self, name: str, turn: str, on_busy: str, channel: str | None) -> str:
        """A chat that is new: why it is refused, or ``open``."""
        session, this = self.session(name), ("session", name)
        if session["archived"]:
            return "archived"
        if on_busy == "reject" and session["turns"]:
            return "busy"
        if on_busy == "enqueue" and len(session["turns"]) > self.max_queued_turns:
            return "busy"
        if not session["exists"]:
            session["exists"], session["channel"] = True, channel
            if channel is not None:
                self.say(this, ("channel", channel), "opened")
        if on_busy == "interrupt":
            self._end(session, 0, "cancelled")
        session["turns"].append(turn)
        return "open"

    def compact(self, name: str, request_id: str) -> str:
        """Somebody wants the history compacted: why not, or ``compacting``. Archiving ends no run that is owed."""
        session = self.session(name)
        if not session["exists"] or session["archived"]:
            return "archived" if session["archived"] else "not_found"
        session["owed"].append(request_id)
        return "compacting"

    def archive(self, name: str) -> str:
        """Somebody archives a session by its id: why not, or ``decided``."""
        session = self.session(name)
        if not session["exists"]:
            return "not_found"
        if not session["archived"]:
            self._archived(session)
            if session["channel"] is not None:
                self.say(("session", name), ("channel", session["channel"]), "archived")
        return "decided"

    def _archived(self, session: Row) -> None:
        session["archived"] = True
        self._end(session, 1, "cancelled")

    def cancel(self, name: str, turn: str | None) -> str:
        """A turn (``None``: the running one) ends on purpose; or why not."""
        if not self.session(name)["exists"]:
            return "not_found"
        turns = self.session(name)["turns"]
        turn = turn or next(iter(turns), None)
        if turn not in turns:
            return "not_running"
        turns.remove(turn)
        self.session(name)["ended"][turn] = "cancelled"
        return "cancelled"

    def complete(self, name: str) -> None:
        """The running turn ends well."""
        session = self.session(name)
        session["ended"][session["turns"].pop(0)] = "completed"

    def _end(self, session: Row, kept: int, how: str) -> None:
        session["ended"] |= dict.fromkeys(session["turns"][kept:], how)
        session["turns"] = session["turns"][:kept]

    def _session_hears(self, name: str, channel: str, what: str) -> None:
        session = self.session(name)
        if not session["exists"]:
            assert what == "created"
            session["exists"], session["channel"] = True, channel
        elif session["channel"] == channel and what == "archived":
            self._archived(session)
        elif session["channel"] == channel and what in ("activated", "deactivated"):
            session["active"] = what == "activated"
