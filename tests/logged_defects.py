"""What a process of ours logs as a defect: an error that says where it was raised, or what an operator is woken for."""

import re

#: As ``tasks.describe`` tells it; ``<frozen codecs>`` and compiled modules, too.
PLACE = re.compile(r" \w+ at (<[^>\n]+>|\S+\.pyx?):\d+")
_ERROR = re.compile(r"^\S+ (ERROR|CRITICAL) +turnlog\S*: ")


def logged_defects(log: str) -> list[str]:
    """The lines with one, of a process that logs for people."""
    found = ((line, _ERROR.match(line)) for line in log.splitlines())
    return [line for line, error in found if error and (error[1] == "CRITICAL" or PLACE.search(line))]
