"""Alarms, dashboards and alert rules ask for metrics there are, and each alarm has its page in the runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.architecture.test_template import PROJECT, Node, infra, references
from vecmeter.exposition import render
from vecmeter.ledger.model import Operation
from vecmeter.ledger.totals import Totals
from vecmeter.overview import Overview
from vecmeter.tasks import TASKS
from vecmeter.telemetry import Metric
from vecmeter.vectors.state import CollectionState, DatabaseState, DatabaseTotals, LastRun

FOLDER = PROJECT / "infra" / "observability"
KNOWN = {metric.label for metric in Metric}
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((FOLDER / "grafana" / "vecmeter.json").read_text())


def alarms() -> dict[str, Node]:
    resources = infra("observability")["Resources"]
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::CloudWatch::Alarm"}


def watched(alarm: Node) -> Iterator[tuple[Any, str, set[str]]]:
    """Namespace, name and dimensions of each metric of an alarm."""
    if "MetricName" in alarm:
        yield alarm["Namespace"], alarm["MetricName"], {one["Name"] for one in alarm["Dimensions"]}
    for query in alarm.get("Metrics", ()):
        if "MetricStat" in query:
            yield from watched(query["MetricStat"]["Metric"])
        elif isinstance(query["Expression"], dict):
            select = query["Expression"]["Fn::Sub"]
            found = re.fullmatch(r'SELECT (\w+)\((\w+)\) FROM SCHEMA\("([^"]+)", ([\w, ]+)\) WHERE (.+)', select)
            assert found, select
            namespace = {"Ref": "MetricsNamespace"} if found[3] == "${MetricsNamespace}" else found[3]
            yield namespace, found[2], set(found[4].split(", "))


@pytest.mark.parametrize("name", alarms())
def test_an_alarm_watches_a_metric_there_is(name: str) -> None:
    found = list(watched(alarms()[name]))
    assert found
    for namespace, metric, dimensions in found:
        if namespace == {"Ref": "MetricsNamespace"}:
            assert metric in KNOWN
            assert dimensions in ({"service"}, {"service", "operation"})
        else:
            assert namespace.startswith("AWS/")


@pytest.mark.parametrize("name", alarms())
def test_an_alarm_reaches_somebody_and_names_its_page_of_the_runbook(name: str) -> None:
    alarm = alarms()[name]
    assert alarm["AlarmActions"] == [{"Ref": "Topic"}]
    assert alarm["AlarmDescription"].endswith(f": docs/runbook.md#{name.lower()}")


def test_the_runbook_has_a_page_for_each_alarm_and_for_nothing_else() -> None:
    headings = re.findall(r"^### (\w+)$", (PROJECT / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)
    assert sorted(headings) == sorted(alarms())


def test_there_is_an_alarm_for_everything_an_operator_must_know() -> None:
    metrics = {metric for alarm in alarms().values() for _, metric, _ in watched(alarm)}
    ours = {"Errors", "Latency", "Refusals", "CostMicroUsd", "SystemLimitAlerts", "CircuitOpened", "RecallBelowTarget"}
    assert ours | {"UsageRecordFailures", "AlertFailures"} <= metrics
    theirs = {"ApproximateNumberOfMessagesVisible", "ThrottledRequests", "Throttles", "ConcurrentExecutions", "5xx"}
    assert theirs | {"CPUUtilization", "ACUUtilization", "DatabaseConnections", "FreeLocalStorage"} <= metrics


def test_alarms_about_what_may_be_missing_are_made_only_where_it_is_there() -> None:
    resources = infra("observability")["Resources"]
    optional = {"DatabaseCluster": "HasDatabase", "ApiId": "HasApi", "UndeliveredName": "HasUndelivered"}
    for name, alarm in alarms().items():
        for parameter, condition in optional.items():
            assert (parameter in references(alarm)) == (resources[name].get("Condition") == condition)


def test_an_alarm_of_a_queue_stays_while_something_lies_in_it() -> None:
    """Of a queue that nobody touches there are no data after six hours: what lies in it is still there."""
    queues = {name: one["TreatMissingData"] for name, one in alarms().items() if one.get("Namespace") == "AWS/SQS"}
    assert queues == {"DeadLetters": "ignore", "AlertsUndeliverable": "ignore"}


def test_the_dashboard_shows_metrics_there_are_and_every_function() -> None:
    body = infra("dashboard")["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(body)["widgets"]
    shown = [metric for widget in widgets for metric in widget["properties"]["metrics"]]
    ours = {metric[1] for metric in shown if metric[0] == "${MetricsNamespace}"}
    assert ours <= KNOWN
    assert KNOWN - ours <= {"UsageRecordFailures", "AlertFailures"}, "what has nothing but an alarm"
    assert set(re.findall(r"\$\{(\w+)\}", body)) - {"AWS"} == set(infra("dashboard")["Parameters"])
    places = [(widget["x"], widget["y"]) for widget in widgets]
    assert len(set(places)) == len(places)


def exposed() -> dict[str, set[str]]:
    """Every sample of the exposition, with its labels."""
    now = datetime.now(UTC)
    totals = Totals(requests=1)
    state = DatabaseState(
        totals=DatabaseTotals(
            bytes=1, connections=1, max_connections=1, dead_rows=1, collections=1, projects=1, vectors=1, stored_bytes=1
        ),
        collections=[
            CollectionState(project_id="p", collection="c", vectors=1, bytes=1, recall=0.9, target_recall=0.95)
        ],
        runs=[LastRun(task=next(iter(TASKS)), status="ok", started_at=now, finished_at=now)],
    )
    overview = Overview(
        operations=dict.fromkeys(Operation, totals),
        projects={"p": totals},
        keys={"k": totals},
        active_keys=1,
        in_flight=1,
        database=state,
    )
    text = render(overview, "")[0].decode()
    return {s.name: set(s.labels) for family in text_string_to_metric_families(text) for s in family.samples}


EXPOSED = exposed()


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a PromQL expression asks for, with the labels it chooses by. Raises where it is no PromQL."""
    promql_parser.parse(expression)
    for name, chosen in re.findall(r"\b(vecmeter_\w+|up)\b(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))


def grouped_by(expression: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")}


EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"].replace("$__rate_interval", "5m") for panel in DASHBOARD["panels"] for target in panel["targets"]
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_and_panels_ask_for_what_is_exposed(expression: str) -> None:
    found = list(selectors(expression))
    assert found
    for name, labels in found:
        if name != "up":  # which Prometheus makes itself
            assert labels | grouped_by(expression) <= EXPOSED[name]


def test_what_is_wrong_is_found() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        list(selectors("sum(rate(vecmeter_requests_total[5m])"))
    with pytest.raises(KeyError):
        test_rules_and_panels_ask_for_what_is_exposed("vecmeter_requests")


def test_every_panel_draws_from_the_chosen_source_in_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_says_what_and_where_to_read_on(rule: Node) -> None:
    assert rule["annotations"]["summary"]
    anchors = {f"docs/runbook.md#{name.lower()}" for name in alarms()}
    assert rule["annotations"]["runbook"] in anchors
    assert rule["labels"]["severity"] in ("page", "notice")


def test_nobody_is_woken_for_what_clients_do() -> None:
    """Failed requests are those answered 404 and 422 too, refused ones those of a tenant at its limit."""
    theirs = re.compile(r"succeeded|refused|cost_usd|cache_answers")
    assert [
        rule["alert"] for rule in RULES if theirs.search(rule["expr"]) and rule["labels"]["severity"] == "page"
    ] == []


def test_counters_and_states_are_named_as_prometheus_wants_them() -> None:
    for name in EXPOSED:
        assert re.fullmatch(r"vecmeter_[a-z_]+", name)
    counters = {name for name in EXPOSED if name.endswith("_total")}
    assert {name for name in EXPOSED if "requests" in name} - counters == {"vecmeter_requests_in_flight"}


def owners_table() -> list[tuple[str, list[str]]]:
    """What the owner's documents name, and ours: EMF metrics, samples of the exposition, metrics of AWS."""
    section = (PROJECT / "docs" / "metrics.md").read_text().split("## What others call them")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", section, flags=re.MULTILINE)
    return [(theirs.strip(), re.findall(r"`([\w/]+)`", ours)) for theirs, ours in rows[2:]]


def test_each_metric_the_owner_names_has_its_counterpart() -> None:
    rows = owners_table()
    named = " ".join(theirs for theirs, _ in rows)
    for wanted in (
        "requests", "duration", "active", "uploads", "size", "searches", "results", "cache hits", "misses",
        "rate limit", "errors by type", "CPU", "memory", "disk", "stores", "cost",
    ):  # fmt: skip
        assert wanted in named, wanted
    properties = {"error", "status"}
    for theirs, ours in rows:
        assert ours, theirs
        for name in ours:
            assert name in KNOWN | EXPOSED.keys() | properties or name.startswith("AWS/"), (theirs, name)


def test_the_documentation_lists_every_sample_of_the_exposition() -> None:
    section = (PROJECT / "docs" / "metrics.md").read_text().split("## The exposition")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(vecmeter_\w+)`", section))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in EXPOSED}
    assert listed == families
