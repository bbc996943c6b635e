"""The cases: with every rule nothing may be found, without one of them something must."""

from tests.model.protocol import Faults, Rules, Setup

#: Seen to the end in seconds.
SOUND = {
    "a rebalance": Setup(),
    "a name taken": Setup(names=(0, 0), faults=Faults(rebalances=0, name_taken=1)),
}

#: Seen to the end in minutes, or as far as the time goes.
SOUND_AND_LARGE = {
    "a name taken, a crash": Setup(names=(0, 0), faults=Faults(rebalances=0, name_taken=1, crashes=1)),
    "a name taken, an answer too late": Setup(names=(0, 0), faults=Faults(rebalances=0, name_taken=1, timeouts=1)),
    "a name taken, a rebalance": Setup(names=(0, 0, 1), faults=Faults(rebalances=1, name_taken=1)),
    "a name taken and taken back": Setup(names=(0, 0), faults=Faults(rebalances=0, name_taken=2)),
    "a rebalance, a lost batch": Setup(faults=Faults(drops=1)),
    "a rebalance, an answer too late": Setup(faults=Faults(timeouts=1)),
    "two rebalances": Setup(faults=Faults(rebalances=2)),
    "a request that is sent again, a crash": Setup(requests=("a", "a"), faults=Faults(crashes=1)),
}

#: Too large: only random ways through it are seen.
WIDE = Setup(
    names=(0, 0, 1, 1),
    requests=(None, "a", "a", None),
    faults=Faults(rebalances=3, name_taken=2, crashes=1, timeouts=2, drops=1),
    most_records=90,
)

_MUCH = Setup(requests=(None, "a"), faults=Faults(timeouts=1, drops=1))
_NAMESAKES = SOUND["a name taken"]
_RIVALS = Setup(requests=(None, "a"))

WEAKENED = {
    "readers take everything": _MUCH._replace(rules=Rules(fencing=False)),
    "acknowledged is confirmed": _MUCH._replace(rules=Rules(confirm=False)),
    "the group's position is the list of work": _MUCH._replace(rules=Rules(position_of_log=False)),
    "every record of a decision accepts": _MUCH._replace(rules=Rules(last_record_accepts=False)),
    "a duplicate is acknowledged at once": _MUCH._replace(rules=Rules(ordered_skips=False)),
    "serve before catch-up": _MUCH._replace(rules=Rules(catch_up=False)),
    "claim again at once, whatever the generation": _RIVALS._replace(rules=Rules(generations=False)),
    "claim again at once, whoever has the name": _NAMESAKES._replace(rules=Rules(ask_the_group=False)),
}
#: What these do goes on for ever: a search in depth sees it.
ENDLESS = ("claim again at once, whatever the generation", "claim again at once, whoever has the name")
