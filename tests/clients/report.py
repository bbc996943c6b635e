"""What the last run of the kit left, and docs/clients.md made of it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.clients.cases import BULK, CASES, CODECS
from tests.clients.catalog import CLIENTS, ROOT, Client

RESULT = ROOT / "docs" / "results" / "clients.json"
PAGE = ROOT / "docs" / "clients.md"
YES = "yes"
_MARKED = re.compile(r"(<!-- clients: [^\n]*-->\n).*?(<!-- /clients -->)", re.DOTALL)


def outcomes(client: Client) -> dict[str, str]:
    """By case: what must come of it with this client: :data:`YES`, or why the client cannot do it."""
    return {case.name: client.reason_not(case) or YES for case in CASES}


def read_result() -> dict[str, Any]:
    """By client: ``{"date": …, "version": …, "broker": …, "worker_deaths": …, "cases": {name: outcome}}``."""
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return result


def page_of(page: str, result: Mapping[str, Any]) -> str:
    """The page with the tables of this result. Raises ``ValueError`` when it has no place for them."""
    if not _MARKED.search(page):
        raise ValueError(f"{PAGE.name} has no marks for the tables")
    made = "\n".join([*_summary(result), *_clients(result), *_cases(result)])
    return _MARKED.sub(lambda marks: marks[1] + made + "\n" + marks[2], page)


def write_page(found: Mapping[str, Any]) -> bool:
    """What was found of some clients into the result, and the page; False: some client was never tried."""
    before = read_result() if RESULT.exists() else {}
    result = {client.name: {**before, **found}.get(client.name) for client in CLIENTS}
    known = {name: of_client for name, of_client in result.items() if of_client is not None}
    RESULT.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if len(known) < len(CLIENTS):
        return False
    PAGE.write_text(page_of(PAGE.read_text(encoding="utf-8"), known), encoding="utf-8")
    return True


def _summary(result: Mapping[str, Any]) -> list[str]:
    brokers = ", ".join(sorted({found["broker"] for found in result.values()}))
    deaths = sum(found["worker_deaths"] for found in result.values())
    return [
        f"On Kafka {brokers}, with 12 partitions and one worker, which died {deaths} times. "
        f"Each codec of each client was {BULK} requests to all partitions.",
        "",
    ]


def _clients(result: Mapping[str, Any]) -> list[str]:
    lines = ["| client | version | tried | partitioner | codecs | transactions |", "|---|---|---|---|---|---|"]
    for client in CLIENTS:
        found = result[client.name]
        codecs = [codec for codec in CODECS[1:] if found["cases"][f"codec {codec}"] == YES]
        transactions = found["cases"]["transaction committed"]
        cells = (
            client.name,
            found["version"],
            found["date"],
            client.partitioner,
            f"{', '.join(codecs)}: {client.codecs}",
            transactions,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _cases(result: Mapping[str, Any]) -> list[str]:
    """A dash stands for what a client cannot do; why is below the table."""
    names = " | ".join(client.name for client in CLIENTS)
    lines = [f"| case | what must come of it | {names} |", f"|---|---|{'---|' * len(CLIENTS)}"]
    reasons: dict[str, dict[str, list[str]]] = {}
    for case in CASES:
        cells = []
        for client in CLIENTS:
            outcome = result[client.name]["cases"][case.name]
            cells.append(outcome if outcome == YES else "–")
            if outcome != YES:
                reasons.setdefault(client.name, {}).setdefault(outcome, []).append(case.name)
        lines.append(f"| {case.name} | {case.what} | {' | '.join(cells)} |")
    lines += ["", "What a client cannot do, so that it was not tried:", ""]
    for name, found in reasons.items():
        said = "; ".join(f"{reason} ({', '.join(of)})" for reason, of in found.items())
        lines.append(f"- {name}: {said}.")
    return lines
