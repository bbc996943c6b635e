"""How long is collected before something is sent."""

import pytest

from turnlog_workers.base.linger import linger_s


@pytest.mark.parametrize(
    ("least_s", "came", "seconds"),
    [
        (0.003, 0, 0.003),
        (0.003, 2, 0.003),
        (0.003, 8, 0.012),
        (0.003, 1000, 0.03),
        (0.0, 1000, 0.0),
        (0.1, 1000, 0.1),
    ],
)
def test_it_grows_with_what_came_within_its_bounds(least_s: float, came: int, seconds: float) -> None:
    assert linger_s(least_s, came, many=2) == pytest.approx(seconds)
