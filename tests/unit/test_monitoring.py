"""The alerts, the dashboard and the runbook: parsed as Prometheus does, in step with the metrics and each other."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import promql_parser
import pytest
from ruamel.yaml import YAML

from tests.metric_families import ROOT, gateway_families, materializer_families, worker_families
from tests.prometheus import ALERTS_FILE, hastened
from turnlog_workers.materializer.analysts_tables import create_analysts_tables
from turnlog_workers.observe.turn_times import OUTCOMES

PARSER = YAML(typ="safe")
CASES_FILE = ROOT / "deploy/prometheus/alerts_test.yml"
RULES = [rule for group in PARSER.load(ALERTS_FILE)["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]
DASHBOARD = json.loads((ROOT / "deploy/grafana/turnlog.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPES = PARSER.load(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
JOBS = {job["job_name"]: job for job in SCRAPES}
#: What the code measures; the event loop's delay is of two processes.
FAMILIES = {**worker_families(), **materializer_families(), **gateway_families()}
#: What Prometheus says of each scrape.
TARGET = {"job", "instance"}
SHARD = ROOT / "workers/turnlog_workers/shard/partition.py"
#: Where a label has few values, all of them.
VALUES = {
    "outcome": set(OUTCOMES.values()),
    "reason": set(re.findall(r"\.released\(\"(\w+)\"\)", SHARD.read_text())),
    "end": {"whole", "gone", "cut"},
    "job": set(JOBS),
}


def labels_of(metric: str) -> set[str]:
    """The labels of a series. ``AssertionError`` for one that nobody has."""
    if metric == "up":
        return TARGET
    for suffix, more in (("_bucket", {"le"}), ("_count", set()), ("_sum", set())):
        family = metric.removesuffix(suffix)
        if family != metric and FAMILIES.get(family, ("", None))[0] == "histogram":
            return {*FAMILIES[family][1], *TARGET, *more}
    assert metric in FAMILIES, f"nobody has {metric}"
    kind, labels = FAMILIES[metric]
    assert kind != "histogram", f"{metric} has no series of its own name"
    return {*labels, *TARGET}


def children(node: Any) -> Iterator[Any]:
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield child
    yield from getattr(node, "args", ())


def check(node: Any) -> set[str]:
    """The labels that an expression's series may have. ``AssertionError`` for a name that is wrong in it."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        labels = labels_of(node.name)
        for matcher in node.matchers.matchers:
            assert matcher.name in labels, f"{node.name} has no {matcher.name}"
            regex = "=~" in str(matcher.op) or "Re" in str(matcher.op)
            known = VALUES.get(matcher.name)
            if known:
                wanted = matcher.value.split("|") if not regex or "." not in matcher.value else []
                assert set(wanted) <= known, f"{matcher.name} is never {matcher.value}"
                assert wanted or any(re.fullmatch(matcher.value, value) for value in known)
        return labels
    labels = set[str]().union(*(check(child) for child in children(node)))
    if kind == "AggregateExpr" and node.modifier is not None:
        assert set(node.modifier.labels) <= labels, f"not in {sorted(labels)}: {node.modifier.labels}"
        return set(node.modifier.labels)
    if kind == "AggregateExpr":
        return set()
    if kind == "Call" and node.func.name == "histogram_quantile":
        assert "le" in labels, "the buckets are summed up"
        return labels - {"le"}
    if kind == "BinaryExpr" and node.modifier is not None and node.modifier.matching is not None:
        assert set(node.modifier.matching.labels) <= labels
    return labels


def metrics(node: Any) -> set[str]:
    if type(node).__name__ == "VectorSelector":
        return {re.sub("_(bucket|count|sum)$", "", node.name)}
    return set[str]().union(*(metrics(child) for child in children(node)))


def counters_of(node: Any, *, rated: bool = False) -> Iterator[tuple[str, bool]]:
    """Counters, and whether something makes a rate or a difference of them."""
    if type(node).__name__ == "VectorSelector" and node.name.endswith(("_total", "_bucket", "_count")):
        yield node.name, rated
    function = getattr(getattr(node, "func", None), "name", "")
    for child in children(node):
        yield from counters_of(child, rated=rated or function in {"rate", "increase"} or str(node).count("offset") > 0)


def parsed(expression: str) -> Any:
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_asks_for_what_there_is_and_leads_to_its_section(rule: dict[str, Any]) -> None:
    labels = check(parsed(rule["expr"]))
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= labels
    assert all(rated for _, rated in counters_of(parsed(rule["expr"])))


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    assert re.findall(r"^### (Turnlog\w+)$", page, re.M) == NAMES
    for section in re.findall(r"^### Turnlog\w+$(.*?)(?=^##)", page, re.M | re.S):
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert section.count(part) == 1, section


def test_what_the_runbook_asks_the_snapshot_can_be_asked() -> None:
    questions = re.findall(r'`turnlog sql "([^"]+)"`', (ROOT / "docs/runbook.md").read_text())
    assert len(questions) >= 4
    with duckdb.connect() as connection:
        create_analysts_tables(connection)
        for question in questions:
            connection.execute(question).fetchall()


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_asks_for_what_there_is(panel: dict[str, Any]) -> None:
    assert panel["description"]
    for target in panel["targets"]:
        labels = check(parsed(target["expr"]))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels
        assert all(rated for _, rated in counters_of(parsed(target["expr"])))


def test_the_dashboard_shows_every_metric_and_its_panels_lie_side_by_side() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in metrics(parsed(target["expr"]))}
    assert shown == {*FAMILIES, "up"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("turnlog_turns_runing", "nobody has"),
        ('turnlog_turns_running{session="s"}', "has no session"),
        ('rate(turnlog_releases_total{reason="fencd"}[5m])', "never"),
        ("sum by (model) (turnlog_turns_running)", "not in"),
        ("histogram_quantile(0.9, sum by (model) (rate(turnlog_turn_queue_seconds_bucket[5m])))", "summed up"),
        ("turnlog_turn_queue_seconds", "no series"),
        ('up{job="worker"}', "never"),
    ],
)
def test_a_wrong_expression_is_found(expression: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check(parsed(expression))


def test_a_counter_as_it_is_is_found() -> None:
    assert list(counters_of(parsed("sum(turnlog_appends_total)"))) == [("turnlog_appends_total", False)]


@pytest.mark.parametrize(
    "asked",
    [
        ("check", "rules", str(ALERTS_FILE)),
        ("check", "config", "--syntax-only", str(ROOT / "deploy/prometheus/prometheus.yml")),
        ("test", "rules", str(CASES_FILE)),
    ],
    ids=["the rules", "the scrapes", "when each alert fires, and when not"],
)
def test_promtool_finds_nothing_wrong(promtool: str, asked: tuple[str, ...]) -> None:
    outcome = subprocess.run([promtool, *asked], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_rules_of_a_game_day_wait_so_many_times_shorter(tmp_path: Path, promtool: str) -> None:
    into = hastened(ALERTS_FILE, 20, tmp_path / "alerts.yml")
    rules = {rule["alert"]: rule for group in PARSER.load(into)["groups"] for rule in group["rules"]}
    assert list(rules) == NAMES
    assert rules["TurnlogDown"]["for"] == "6s"
    assert rules["TurnlogStoreOld"]["expr"].endswith("> 15")
    assert "[1080s:3s]" in rules["TurnlogPartitionNotServed"]["expr"]
    assert "offset 45s" in rules["TurnlogDeadLetters"]["expr"]
    assert not re.search(r"\d[mh]\b", "".join(rule["expr"] for rule in rules.values()))
    outcome = subprocess.run([promtool, "check", "rules", str(into)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_is_quiet_in_normal_life() -> None:
    normal, *cases = PARSER.load(CASES_FILE)["tests"]
    assert normal["name"] == "normal life"
    quiet: dict[str, int] = {}
    for look in normal["alert_rule_test"]:
        assert look["exp_alerts"] == []
        quiet[look["alertname"]] = quiet.get(look["alertname"], 0) + 1
    assert set(quiet) == set(NAMES)
    assert min(quiet.values()) >= 3
    looks = [look for case in cases for look in case["alert_rule_test"]]
    assert {look["alertname"] for look in looks if look["exp_alerts"]} == set(NAMES)
    assert all(not case["alert_rule_test"][0]["exp_alerts"] for case in cases), "it waits until something is wrong"
