"""Checks between the requests and the log: nothing lost, nothing twice, nothing claimed to be done before it is."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from tests.checker.history import Anomaly, SentRequest
from tests.checker.log_view import ACCEPTED, LogView
from turnlog_schemas import events as ev
from turnlog_schemas.parts import content_text
from turnlog_streams.topics import partition_of

FOR_EVER = 1 << 62


def check_requests(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly between what was sent and what was decided."""
    book = _Book(view)
    yield from _decided_twice(view)
    if view.history.drained:
        yield from _lost(view, book)
    yield from _wrongly_lost(view, book)
    yield from _invented(view, book)
    yield from _order(view, book)
    yield from _told_too_early(view, book)
    yield from _committed_too_early(view, book)


@cache
def home_of(session_id: str, partition_count: int) -> int:
    """The partition of a session."""
    return partition_of(session_id.encode(), partition_count)


class _Book:
    """Which requests there are, and when each was decided."""

    def __init__(self, view: LogView) -> None:
        self._view = view
        self._partitions = len(view.history.log)
        self.by_partition: dict[int, list[SentRequest]] = defaultdict(list)
        self.by_identity: dict[tuple[str, str], list[SentRequest]] = defaultdict(list)
        self._erasing: dict[str, list[int]] = defaultdict(list)  #: offsets of requests to erase a session, in its home
        for request in sorted(view.history.requests, key=lambda request: (request.partition, request.offset)):
            self.by_partition[request.partition].append(request)
            if request.session_id is not None:
                self.by_identity[request.session_id, view.identity(request)].append(request)
                if '"erase_session"' in request.command and request.partition == self.home(request):
                    self._erasing[request.session_id].append(request.offset)

    def home(self, request: SentRequest) -> int:
        """The partition whose owner decides it."""
        if request.session_id is None:
            return request.partition
        return home_of(request.session_id, self._partitions)

    def given_up(self, request: SentRequest) -> bool:
        """Was it declared lost or dead (in its own partition)?"""
        lost = any(r.from_offset <= request.offset <= r.to_offset for r in self._view.lost[request.partition])
        deleted = request.offset < self._view.history.deleted_below.get(request.partition, 0)
        if deleted and request.offset <= self._first_accepted(request.partition):
            return True  # the log begins behind it: nobody could know that it had been there
        return lost or (request.partition, request.offset) in self._view.dead_letters

    def _first_accepted(self, partition: int) -> int:
        """Where the first owner began."""
        for event in self._view.accepted[partition]:
            if not isinstance(event.payload, ev.PartitionClaimed):
                return event.header.accepted
        return -1

    def decided(self, request: SentRequest, log_end: int = FOR_EVER) -> bool:
        """Does the log below ``log_end`` of its home decide it? Each command under one id needs its own decision."""
        if request.asks_only:
            return True  # nothing of it is in the log; whether it was answered is for whoever asked to say
        if request.session_id is None:
            return any(at < log_end for at in self._view.dead_letters.get((request.partition, request.offset), ()))
        if self._refused_as_erased(request, log_end):
            return True
        key = request.session_id, self._view.identity(request)
        rivals = [other for other in self.by_identity[key] if not (other.asks_only or self.given_up(other))]
        commands = list(dict.fromkeys(other.command for other in rivals))
        here = all(other.partition == request.partition for other in rivals)
        rank = commands.index(request.command) + 1 if here and request.command in commands else 1
        hashes = {decision.command_hash for decision in self._view.decisions[key] if decision.offset < log_end}
        return len(hashes) >= rank

    def _refused_as_erased(self, request: SentRequest, log_end: int) -> bool:
        """Does it come behind the erasure of its session? Then it is answered, and no event says so."""
        if self._view.erased.get(request.session_id or "", FOR_EVER) >= log_end:
            return False
        erasing = self._erasing.get(request.session_id or "", [])
        return request.partition != self.home(request) or request.offset > min(erasing, default=FOR_EVER)


def _where(request: SentRequest) -> str:
    return f"requests[{request.partition}]@{request.offset}, session {request.session_id}, id {request.request_id}"


def _decided_twice(view: LogView) -> Iterator[Anomaly]:
    for (session_id, request_id), decisions in view.decisions.items():
        where = f"session {session_id}, request {request_id}"
        seen: set[str] = set()
        for decision in decisions:
            if decision.command_hash in seen:
                offsets = [other.offset for other in decisions]
                yield Anomaly(kind="request decided twice", where=where, text=f"at {offsets}")
                break
            seen.add(decision.command_hash)
        if sum(isinstance(decision.event, ACCEPTED) for decision in decisions) > 1:
            yield Anomaly(kind="request decided twice", where=where, text="two turns for one request id")
    for (partition, offset), at in view.dead_letters.items():
        if len(at) > 1:
            where = f"requests[{partition}]@{offset}"
            yield Anomaly(kind="request decided twice", where=where, text=f"dead letters at {at}")


def _lost(view: LogView, book: _Book) -> Iterator[Anomaly]:
    for requests in book.by_partition.values():
        for request in requests:
            if book.decided(request) or book.given_up(request):
                continue
            home = book.home(request)
            if home != request.partition and view.lost[home]:
                continue  # it was sent on, and its copy may be among those that the broker deleted
            yield Anomaly(kind="request lost", where=_where(request), text="neither accepted, refused, parked nor lost")
    for partition, offset in view.history.unreadable:
        said = any(lost.from_offset <= offset <= lost.to_offset for lost in view.lost[partition])
        if not said and offset >= view.history.deleted_below.get(partition, 0):
            where = f"requests[{partition}]@{offset}"
            yield Anomaly(kind="request lost", where=where, text="unreadable, and no event says so")


def _wrongly_lost(view: LogView, book: _Book) -> Iterator[Anomaly]:
    """Declared lost although the broker has it; dead although it can be read; parked without its bytes."""
    unreadable = set(view.history.unreadable)
    for partition, ranges in view.lost.items():
        start = view.history.deleted_below.get(partition, 0)
        for lost in ranges:
            there = range(max(start, lost.from_offset), lost.to_offset + 1)
            if any((partition, offset) not in unreadable for offset in there):
                text = f"{lost.from_offset} to {lost.to_offset} declared lost, nothing from {start} on was deleted"
                yield Anomaly(kind="request given up", where=f"requests[{partition}]", text=text)
    for request in view.history.requests:
        place = request.partition, request.offset
        if place not in view.dead_letters:
            continue
        if request.session_id is not None:
            yield Anomaly(kind="request given up", where=_where(request), text="readable, and a dead letter")
        if view.history.parked is not None and place not in view.history.parked:
            yield Anomaly(kind="dead letter lost", where=_where(request), text="its bytes are not in the topic")


def _invented(view: LogView, book: _Book) -> Iterator[Anomaly]:
    for (session_id, request_id), decisions in view.decisions.items():
        where = f"session {session_id}, request {request_id}"
        sent = book.by_identity.get((session_id, request_id))
        if sent is None:
            yield Anomaly(kind="request invented", where=where, text=f"decided at {decisions[0].offset}, never sent")
            continue
        if all(request.asks_only for request in sent):
            text = f"decided at {decisions[0].offset}, only asked for what is"
            yield Anomaly(kind="request invented", where=where, text=text)
            continue
        texts = {request.text for request in sent}
        for decision in decisions:
            event = decision.event
            if isinstance(event, ACCEPTED) and texts.isdisjoint((None, content_text(event.content))):
                yield Anomaly(kind="message altered", where=where, text="the accepted text was never sent")


def _order(view: LogView, book: _Book) -> Iterator[Anomaly]:
    """Turns of a session are accepted in the order of the requests."""
    for (partition, session_id), events in view.sessions.items():
        last = -1
        for event in events:
            if not isinstance(event.payload, ACCEPTED):
                continue
            sent = book.by_identity.get((session_id, event.payload.request_id), ())
            offsets = [request.offset for request in sent if request.partition == partition]
            if not offsets or len(offsets) < len(sent):
                continue  # sent on from elsewhere: its place among the others is that of its copy
            if max(offsets) < last:
                where = f"partition {partition}, session {session_id}"
                text = f"@{event.offset} accepts request {max(offsets)} after request {last}"
                yield Anomaly(kind="messages reordered", where=where, text=text)
            last = max(last, min(offsets))


def _told_too_early(view: LogView, book: _Book) -> Iterator[Anomaly]:
    """An event says that requests are decided which are not, up to and with it."""
    for partition, events in view.accepted.items():
        requests = book.by_partition[partition]
        index = 0
        for event in events:
            while index < len(requests) and requests[index].offset <= event.header.accepted:
                request = requests[index]
                index += 1
                if book.home(request) != partition or book.given_up(request):
                    continue
                if not book.decided(request, event.offset + 1):
                    text = f"events[{partition}]@{event.offset} says accepted {event.header.accepted}"
                    yield Anomaly(kind="accepted too early", where=_where(request), text=text)


def _committed_too_early(view: LogView, book: _Book) -> Iterator[Anomaly]:
    done: dict[int, int] = defaultdict(int)
    for commit in view.history.commits:
        partition = commit.partition
        requests = book.by_partition[partition]
        while done[partition] < len(requests) and requests[done[partition]].offset < commit.offset:
            request = requests[done[partition]]
            done[partition] += 1
            if book.home(request) != partition or book.given_up(request):
                continue
            if not book.decided(request, FOR_EVER if commit.log_end is None else commit.log_end):
                text = f"the group's offset {commit.offset} was committed before"
                yield Anomaly(kind="commit past an open request", where=_where(request), text=text)
