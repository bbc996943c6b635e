"""The named points where a worker is killed, and how often each is passed before that."""

import random
import re
from pathlib import Path

#: Point -> the highest hit at which a kill is tried: as often as a loaded worker passes it in about a second.
WORKER_POINTS = {
    "epoch.after_claim": 1,
    "shard.after_consume": 8,
    "shard.after_accept": 40,
    "shard.before_ack": 40,
    "shard.after_terminal": 8,
    "actor.mid_stream": 300,
    "actor.before_tool": 8,
    "actor.after_tool_call_stored": 8,
    "script.after_tool_start": 8,
    "script.after_tool_end": 8,
    "actor.before_tool_result": 8,
    "actor.after_tool_result": 8,
    "actor.before_terminal": 8,
    "compaction.before_summary": 2,
    "compaction.before_record": 2,
    "compaction.after_record": 2,
    "outbox.after_dead_letter": 1,
    "outbox.after_forward": 2,
    "resident.after_evict": 2,
    "store.mid_commit": 5,
}
MOST_HITS = 20  #: of a point that only a test's own worker has
#: Points that other processes pass, and one that only an erasure does: `tests/unit/test_renewal.py` begins behind it.
OTHER_POINTS = {"materializer.mid_commit", "rebuild.after_batch", "rebuild.in_swap", "store.in_renewal"}


def hit_of(point: str, chance: random.Random) -> int:
    """At which hit to die."""
    return chance.randint(1, WORKER_POINTS.get(point, MOST_HITS))


def points_in_the_code() -> set[str]:
    """Every name that ``crash_point`` is called with."""
    root = Path(__file__).resolve().parents[2] / "workers"
    found: set[str] = set()
    for path in root.rglob("*.py"):
        for name in re.findall(r"crash_point\(f?\"([^\"]+)\"\)", path.read_text()):
            # A name that is put together: by the worker's store and by the materializer.
            found |= {name.replace("{self._name}", who) for who in ("store", "materializer")}
    return found
