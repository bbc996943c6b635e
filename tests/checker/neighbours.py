"""Where neither workers nor the broker fail, no turn is disturbed by what runs beside it, whatever that does."""

from collections.abc import Iterator

from tests.checker.history import Anomaly
from tests.checker.log_view import LogView
from turnlog_schemas import events as ev


def check_neighbours(view: LogView) -> Iterator[Anomaly]:
    """Partitions that were given up, turns that were begun again or given up, without any reason from outside."""
    if not view.history.quiet:
        return
    groundless: set[int] = set()
    for partition, events in view.accepted.items():
        last: ev.PartitionClaimed | None = None
        for event in events:
            claim = event.payload
            if not isinstance(claim, ev.PartitionClaimed):
                continue
            if last is not None and _claimant(claim) == _claimant(last):
                groundless.add(event.offset)
                text = f"{claim.owner} claims it again in generation {claim.generation}, and nothing had failed"
                yield Anomaly(kind="partition released", where=f"events[{partition}]@{event.offset}", text=text)
            last = claim
    for turn in view.turns.values():
        for start in turn.starts:
            if start.payload.cause == "takeover" and start.header.epoch in groundless:
                text = f"attempt {start.header.attempt}: its partition was released, and nothing had failed"
                yield Anomaly(kind="neighbour disturbed", where=turn.where, text=text)
        for end in turn.ends:
            if isinstance(end.payload, ev.TurnFailed) and end.payload.code == "suspected_poison":
                text = "given up as suspected poison, and nobody had died"
                yield Anomaly(kind="neighbour disturbed", where=turn.where, text=text)


def _claimant(claim: ev.PartitionClaimed) -> tuple[str, str, int]:
    """Who claims: a worker that was killed and is back is another process of its name."""
    return claim.owner, claim.incarnation.rpartition(".")[0], claim.generation
