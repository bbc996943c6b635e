"""The short form of ``make fuzz``."""

from tests.fuzz.requests import fuzz_requests


def test_every_record_gets_a_verdict() -> None:
    verdicts = fuzz_requests(4_000, seed=7)
    assert not verdicts.problems
    assert verdicts.inputs == 4_000
    # Not by luck: every kind of verdict came about, often.
    seen = verdicts.kinds
    for kind in ("decided", "sent on", "refused invalid_command", "refused unknown_command", "refused too_long"):
        assert seen[kind] > 3, seen
    for kind in ("undecodable", "key_mismatch", "unknown_fingerprint", "too_long"):
        assert seen[f"parked {kind}"] > 3, seen
