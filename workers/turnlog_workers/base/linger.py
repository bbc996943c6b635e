"""How long to collect before sending: where much comes, more comes, and a request costs what it costs."""

_MOST_S = 0.03


def linger_s(least_s: float, came: int, *, many: int) -> float:
    """Seconds to collect, when so much came the last time: ``least_s`` for each ``many`` of it, up to 30 ms.

    0 stays 0, and what is longer already does not grow.
    """
    return max(least_s, min(_MOST_S, least_s * came / many))
