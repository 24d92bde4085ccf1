"""infra/alerts.yaml listens for what the code puts on the bus, and nobody else may use it."""

from __future__ import annotations

import re

import pytest

from tests.fixtures.templates import Node, all_statements, infra, load, references
from vecmeter.ledger.alerts import DETAIL_TYPE
from vecmeter.ledger.events import SOURCE


@pytest.fixture(scope="module")
def resources() -> dict[str, Node]:
    found: dict[str, Node] = infra("alerts")["Resources"]
    return found


def rules(resources: dict[str, Node]) -> dict[str, Node]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::Events::Rule"}


def test_each_rule_matches_the_alerts_and_keeps_what_it_cannot_deliver(resources: dict[str, Node]) -> None:
    assert set(rules(resources)) == {"Text", "Webhook"}
    for rule in rules(resources).values():
        assert rule["EventBusName"] == {"Ref": "Bus"}
        assert rule["EventPattern"] == {"source": [SOURCE], "detail-type": [DETAIL_TYPE]}
        (target,) = rule["Targets"]
        assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["Undelivered", "Arn"]}}


def test_the_text_has_a_place_for_each_value_and_a_value_for_each_place(resources: dict[str, Node]) -> None:
    (target,) = rules(resources)["Text"]["Targets"]
    transformer = target["InputTransformer"]
    assert set(re.findall(r"<(\w+)>", transformer["InputTemplate"])) == set(transformer["InputPathsMap"])
    assert transformer["InputTemplate"][0] == transformer["InputTemplate"][-1] == '"'


def test_only_the_rules_may_deliver_and_only_to_their_own_targets(resources: dict[str, Node]) -> None:
    for statement in all_statements(infra("alerts")):
        assert "*" not in str(statement["Action"])
        assert statement["Resource"] != "*"
    for name in ("TopicPolicy", "UndeliveredPolicy"):
        (statement,) = resources[name]["Properties"]["PolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": "events.amazonaws.com"}
        assert "aws:SourceArn" in statement["Condition"]["ArnEquals"]


def test_functions_may_put_events_on_this_bus_alone_and_only_where_it_is_wanted() -> None:
    puts = [one for one in all_statements(infra("roles")) if one["Action"] == "events:PutEvents"]
    assert [one["Resource"] for one in puts] == [{"Ref": "EventBusArn"}]
    template = load("template.yaml")
    assert template["Resources"]["Alerts"]["Condition"] == "SendsAlerts"
    variable = template["Globals"]["Function"]["Environment"]["Variables"]["EVENT_BUS_NAME"]
    assert "SendsAlerts" in references(variable)
    assert infra("endpoints")["Resources"]["Events"]["Condition"] == "SendsAlerts"


def test_the_webhook_is_made_only_where_there_is_one(resources: dict[str, Node]) -> None:
    conditions = {name: one.get("Condition") for name, one in resources.items()}
    webhook = {name for name, condition in conditions.items() if condition == "HasWebhook"}
    assert webhook == {"Connection", "Destination", "WebhookRole", "Webhook"}
    assert conditions["Mail"] == "HasEmail"
