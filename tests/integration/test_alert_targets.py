"""infra/alerts.yaml in the emulator: an alert that the ledger makes reaches topic, mail and webhook."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from tests.fixtures.artifacts import PROJECT
from tests.fixtures.events import bridge_to, client, until
from tests.fixtures.ledger import ManualClock
from tests.integration.test_ledger_alerts import key, owner_of, state
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.table import Table

TEMPLATE = (PROJECT / "infra" / "alerts.yaml").read_text()


@dataclass(frozen=True)
class Stack:
    name: str
    outputs: dict[str, str]


@pytest.fixture
def stack(dynamodb_endpoint: str) -> Iterator[Stack]:
    """The stack with a mail address and without a webhook, which the emulator's CloudFormation cannot make."""
    name = f"alerts-{uuid.uuid4().hex[:8]}"
    formation = client("cloudformation", dynamodb_endpoint)
    values = {"Name": name, "Email": "ops@example.com", "WebhookUrl": "", "WebhookHeader": "X", "WebhookSecret": "-"}
    formation.create_stack(
        StackName=name,
        TemplateBody=TEMPLATE,
        Parameters=[{"ParameterKey": one, "ParameterValue": value} for one, value in values.items()],
    )

    def complete() -> dict[str, str] | None:
        (found,) = formation.describe_stacks(StackName=name)["Stacks"]
        assert "ROLLBACK" not in found["StackStatus"], found
        assert "FAILED" not in found["StackStatus"], found
        if found["StackStatus"] != "CREATE_COMPLETE":
            return None
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    yield Stack(name, until(complete))
    formation.delete_stack(StackName=name)
    formation.close()


@pytest.fixture
def alerts(
    table: Table, clock: ManualClock, stack: Stack, dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Alerts]:
    bridge = bridge_to(dynamodb_endpoint, stack.outputs["BusName"], monkeypatch)
    opened = Alerts(table, clock, 90, owner_of, bridge)
    yield opened
    opened.close()


def test_who_subscribes_to_the_topic_gets_a_line_for_each_alert(
    stack: Stack, alerts: Alerts, dynamodb_endpoint: str
) -> None:
    sns, sqs = client("sns", dynamodb_endpoint), client("sqs", dynamodb_endpoint)
    topic = stack.outputs["TopicArn"]
    mails = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert [(one["Protocol"], one["Endpoint"]) for one in mails] == [("email", "ops@example.com")]
    queue = sqs.create_queue(QueueName=stack.name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    alerts.observe(key(), [state(90)], threshold_pct=80)

    (message,) = until(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"))
    text = json.loads(message["Body"])["Message"]
    assert text.strip('"').startswith(
        "Vecmeter: key key_1 has used 90 of 100 (90.0 %) of daily_requests; it resets at 2026-11-22T00:00:00Z. Alert "
    )
    sqs.delete_queue(QueueUrl=queue)
    for opened in (sns, sqs):
        opened.close()


@dataclass
class Webhook:
    """What posts to ``url`` brought: headers and bodies."""

    url: str
    posts: list[tuple[dict[str, str], Any]] = field(default_factory=list)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.posts.append((dict(self.headers.items()), json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Webhook(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_webhook_gets_the_event_with_its_secret(
    stack: Stack, alerts: Alerts, webhook: Webhook, dynamodb_endpoint: str
) -> None:
    """Its resources as the template declares them, made by calls: see ``stack``."""
    events = client("events", dynamodb_endpoint)
    given = {"Name": stack.name, "WebhookUrl": webhook.url, "WebhookHeader": "X-Hook", "WebhookSecret": "s3cret"}
    resources = yaml_parse(TEMPLATE)["Resources"]
    declared = {name: _resolved(one["Properties"], given) for name, one in resources.items() if "Condition" in one}
    made = {"Connection": events.create_connection(**declared["Connection"])["ConnectionArn"]}
    destination = declared["Destination"] | {"ConnectionArn": made["Connection"]}
    made["Destination"] = events.create_api_destination(**destination)["ApiDestinationArn"]
    rule = declared["Webhook"]
    bus = stack.outputs["BusName"]
    events.put_rule(Name="webhook", EventBusName=bus, EventPattern=json.dumps(rule["EventPattern"]))
    role = "arn:aws:iam::000000000000:role/webhook"
    target = {"Id": rule["Targets"][0]["Id"], "Arn": made["Destination"], "RoleArn": role}
    events.put_targets(Rule="webhook", EventBusName=bus, Targets=[target])

    alerts.observe(key(), [state(90)], threshold_pct=80)

    ((headers, event),) = until(lambda: webhook.posts)
    assert headers["X-Hook"] == "s3cret"
    assert event["source"] == "vecmeter"
    assert event["detail"]["alert_id"].startswith("alert_")
    events.remove_targets(Rule="webhook", EventBusName=bus, Ids=[target["Id"]])
    events.delete_rule(Name="webhook", EventBusName=bus)
    events.delete_api_destination(Name=stack.name)
    events.delete_connection(Name=stack.name)
    events.close()


def _resolved(node: Any, given: dict[str, str]) -> Any:
    """The template's part with references to parameters replaced."""
    if isinstance(node, dict):
        if set(node) == {"Ref"} and node["Ref"] in given:
            return given[node["Ref"]]
        return {name: _resolved(value, given) for name, value in node.items()}
    return [_resolved(value, given) for value in node] if isinstance(node, list) else node
