"""The deployed template through its HTTP API, with several processes of each function at the same time."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.e2e.cloud import Cloud
from tests.e2e.conftest import Operator
from tests.e2e.deployment import STACK, Deployment, deploy
from vecmeter.tasks import SCHEDULE

pytestmark = pytest.mark.e2e

T = TypeVar("T")

THREADS = 6
DAILY_REQUESTS = 60
OVER = 30


@dataclass(frozen=True, slots=True)
class Tenant:
    """A project and a key of it, made by the operator through the admin function."""

    deployment: Deployment
    project: str
    api_key_id: str
    key: str

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.deployment.call(method, f"/v1/projects/{self.project}/collections{path}", self.key, body)


def make_tenant(operator: Operator, **quota: int) -> Tenant:
    name = f"tenant-{uuid.uuid4().hex[:8]}"
    project = {"project_id": name, "user_id": name}
    answer = operator.deployment.call("POST", "/v1/admin/projects", operator.key, project)
    assert answer.status_code == 201, answer.text
    body = {**project, "roles": ["search", "write"], "quota": quota}
    answer = operator.deployment.call("POST", "/v1/admin/keys", operator.key, body)
    assert answer.status_code == 201, answer.text
    created = answer.json()
    return Tenant(operator.deployment, name, created["api_key_id"], created["key"])


def until(look: Callable[[], T | None], seconds: float, what: str) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.25)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def test_a_deployment_must_say_where_the_vectors_are(cloud: Cloud, build_folder: Path) -> None:
    with pytest.raises(AssertionError, match="Give exactly one of CreateDatabase=true"):
        deploy(cloud, build_folder, {"LogLevel": "INFO"})


def test_a_fresh_deployment_has_migrated_and_is_ready(fresh_deployment: Deployment) -> None:
    assert fresh_deployment.call("GET", "/health").status_code == 200
    answer = fresh_deployment.call("GET", "/health/ready")
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["checks"]) >= {"ledger", "postgresql", "pgvector"}


def test_the_api_serves_published_versions_started_from_snapshots(fresh_deployment: Deployment) -> None:
    client = fresh_deployment.cloud.client("lambda")
    for name in ("SearchFunction", "UpsertFunction", "AdminFunction"):
        alias = client.get_function_configuration(FunctionName=fresh_deployment.function_name(name), Qualifier="live")
        assert alias["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
        assert (alias["Version"], alias["State"]) == ("1", "Active")


def test_a_tenant_writes_searches_and_reads_what_it_wrote(operator: Operator) -> None:
    assert operator.deployment.call("GET", "/health/ready").status_code == 200
    tenant = make_tenant(operator)
    assert tenant.call("POST", "", {"name": "docs", "dimension": 3}).status_code == 201
    vectors = [
        {"id": "red", "vector": [1, 0, 0], "metadata": {"warm": True}},
        {"id": "orange", "vector": [0.8, 0.2, 0], "metadata": {"warm": True}},
        {"id": "blue", "vector": [0, 0, 1], "metadata": {"warm": False}},
    ]
    written = tenant.call("POST", "/docs/vectors", {"vectors": vectors})
    assert (written.json()["inserted"], written.json()["updated"]) == (3, 0), written.text

    found = tenant.call("POST", "/docs/search", {"vector": [1, 0, 0], "top_k": 5, "filter": {"warm": True}})
    assert [match["id"] for match in found.json()["matches"]] == ["red", "orange"], found.text
    assert found.headers["RateLimit-Policy"]

    put = tenant.call("PUT", "/docs/vectors/green", {"vector": [0, 1, 0]})
    assert put.json()["operation"] == "insert"
    found = tenant.call("POST", "/docs/search", {"vector": [0, 1, 0], "top_k": 1})
    assert found.json()["matches"][0]["id"] == "green"
    assert tenant.call("GET", "/docs").json()["count"] == 4


def test_pinecones_clients_are_served_below_the_host_they_are_told(operator: Operator) -> None:
    """Emulated, an API has a path of its own, which no request shows: what is told ends as it should."""
    tenant = make_tenant(operator)

    def call(method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Api-Key": tenant.key, "X-Pinecone-Api-Version": "2026-07"}
        return operator.deployment.http.request(method, path, headers=headers, json=body)

    fields = {"_values": {"type": "dense_vector", "dimension": 3, "metric": "cosine"}}
    body = {"name": "docs", "schema": {"fields": fields}, "deletion_protection": "enabled"}
    made = call("POST", "/indexes", body)
    assert made.status_code == 201, made.text
    assert call("POST", "/indexes", body).json()["error"]["code"] == "ALREADY_EXISTS"
    _, _, index = call("GET", "/indexes/docs").json()["host"].removeprefix("http://").partition("/")
    assert index == "indexes/docs"
    assert [one["name"] for one in call("GET", "/indexes").json()["indexes"]] == ["docs"]

    records = [{"id": "red", "values": [1, 0, 0], "metadata": {"warm": True}}, {"id": "blue", "values": [0, 0, 1]}]
    assert call("POST", f"/{index}/vectors/upsert", {"vectors": records}).json()["upsertedCount"] == 2
    found = call("POST", f"/{index}/query", {"vector": [1, 0, 0], "topK": 1, "includeMetadata": True})
    assert [(one["id"], one["metadata"]) for one in found.json()["matches"]] == [("red", {"warm": True})], found.text
    assert list(call("GET", f"/{index}/vectors/fetch?ids=blue").json()["vectors"]) == ["blue"]
    assert call("POST", "/embed", {}).status_code == 501

    assert call("DELETE", "/indexes/docs").status_code == 403
    assert call("PATCH", "/indexes/docs", {"deletion_protection": "disabled"}).status_code == 200
    assert call("DELETE", "/indexes/docs").status_code == 202
    assert call("GET", "/indexes/docs").status_code == 404


def test_exactly_the_quota_is_admitted_however_many_processes_ask(operator: Operator) -> None:
    tenant = make_tenant(operator, daily_requests=DAILY_REQUESTS)
    assert tenant.call("POST", "", {"name": "docs", "dimension": 2}).status_code == 201
    assert tenant.call("PUT", "/docs/vectors/a", {"vector": [1, 0]}).status_code == 200
    used = 2

    def request(number: int) -> httpx.Response:
        if number % 2:
            return tenant.call("PUT", f"/docs/vectors/{number}", {"vector": [1, number]})
        return tenant.call("POST", "/docs/search", {"vector": [1, 0]})

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(request, range(DAILY_REQUESTS - used + OVER)))

    assert Counter(answer.status_code for answer in answers) == {200: DAILY_REQUESTS - used, 429: OVER}
    for refused in (answer for answer in answers if answer.status_code == 429):
        assert int(refused.headers["Retry-After"]) > 0
        (policy,) = refused.json()["violated_policies"]
        assert (policy["limit"], policy["used"], policy["remaining"]) == (DAILY_REQUESTS, DAILY_REQUESTS, 0)
    for name in ("SearchFunction", "UpsertFunction"):
        assert operator.deployment.cloud.function_processes(operator.deployment.function_name(name)) > 1

    path = f"/v1/admin/usage/detailed?hours=1&api_key_id={tenant.api_key_id}"
    usage = operator.deployment.call("GET", path, operator.key).json()
    assert usage["total_requests"] == DAILY_REQUESTS
    own = operator.deployment.call("GET", "/v1/quota/me", tenant.key)
    assert own.status_code == 200, own.text
    written = sum(answer.status_code == 200 and answer.request.method == "PUT" for answer in answers)
    assert stored_vectors(operator, tenant) == 1 + written


def stored_vectors(operator: Operator, tenant: Tenant) -> int:
    path = f"/v1/projects/{tenant.project}/collections/docs"
    count: int = operator.deployment.call("GET", path, operator.key).json()["count"]
    return count


def test_own_usage_and_costs_go_to_the_admin_function(operator: Operator) -> None:
    tenant = make_tenant(operator)
    for path in ("/v1/usage/me", "/v1/quota/me", "/v1/costs/me"):
        answer = operator.deployment.call("GET", path, tenant.key)
        assert answer.status_code == 200, (path, answer.text)


def test_an_alert_goes_through_the_stacks_bus_and_topic(operator: Operator) -> None:
    """By the functions' own roles: the emulator enforces them."""
    deployment, cloud = operator.deployment, operator.deployment.cloud
    sqs, sns = cloud.client("sqs"), cloud.client("sns")
    queue = sqs.create_queue(QueueName="alerts-of-the-stack")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = {"Version": "2012-10-17", "Statement": [allowed | {"Resource": arn}]}
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(policy)})
    sns.subscribe(TopicArn=deployment.outputs["AlertTopicArn"], Protocol="sqs", Endpoint=arn)
    tenant = make_tenant(operator, daily_requests=5)
    for _ in range(4):
        assert tenant.call("GET", "").status_code == 200
    message = until(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"), 20, "a message of the topic")
    text = json.loads(message[0]["Body"])["Message"]
    assert f"key {tenant.api_key_id} has used 4 of 5 (80.0 %) of daily_requests" in text
    path = f"/v1/admin/usage/alerts?api_key_id={tenant.api_key_id}"
    (alert,) = deployment.call("GET", path, operator.key).json()["alerts"]
    assert alert["alert_id"] in text
    assert deployment.run_task("sweep_alerts")["status"] == "ok"


def test_refusals_pass_through_the_gateway_unchanged(operator: Operator) -> None:
    deployment = operator.deployment
    unknown = deployment.call("POST", "/v1/projects/p/collections/c/search", "vm_live_none", {"vector": [1]})
    assert unknown.status_code == 401
    assert unknown.headers["content-type"] == "application/problem+json"
    assert unknown.json()["request_id"] == unknown.headers["X-Request-Id"]
    tenant = make_tenant(operator)
    assert deployment.call("GET", "/v1/admin/projects", tenant.key).status_code == 403
    assert tenant.call("GET", "/none").status_code == 404
    assert tenant.call("POST", "", {"name": "docs"}).status_code == 422


def test_logs_and_metrics_reach_the_functions_log_groups(operator: Operator) -> None:
    answer = operator.deployment.call("GET", "/health")
    wanted = answer.headers["X-Request-Id"]
    logs = operator.deployment.cloud.client("logs")
    group = operator.deployment.function_name("SearchLogs")

    def look() -> list[dict[str, Any]] | None:
        events = logs.filter_log_events(logGroupName=group, filterPattern=f'"{wanted}"')["events"]
        lines = [json.loads(event["message"]) for event in events if event["message"].startswith("{")]
        return lines if len(lines) == 2 else None

    lines = until(look, 20, "a log line and a metrics line")
    assert [line["request_id"] for line in lines] == [wanted, wanted]
    (metrics,) = (line for line in lines if "_aws" in line)
    assert metrics["Requests"] == 1


def test_policies_are_enforced(cloud: Cloud, operator: Operator) -> None:
    """Otherwise the tests above would say nothing about the roles of the functions."""
    iam = cloud.client("iam")
    iam.create_user(UserName="nobody")
    created = iam.create_access_key(UserName="nobody")["AccessKey"]
    keys = {"aws_access_key_id": created["AccessKeyId"], "aws_secret_access_key": created["SecretAccessKey"]}
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.client("dynamodb", **keys).get_item(
            TableName=operator.deployment.outputs["TableName"], Key={"pk": {"S": "ping"}, "sk": {"S": "ping"}}
        )


def test_the_ledgers_table_is_as_the_template_says(operator: Operator) -> None:
    dynamodb = operator.deployment.cloud.client("dynamodb")
    name = operator.deployment.outputs["TableName"]
    table = dynamodb.describe_table(TableName=name)["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["DeletionProtectionEnabled"] is True
    # The emulator's CloudFormation drops TTL and backups; tests/architecture holds the template to them.


def test_an_event_the_function_refuses_ends_in_the_queue(operator: Operator) -> None:
    cloud, outputs = operator.deployment.cloud, operator.deployment.outputs
    cloud.client("lambda").invoke(
        FunctionName=outputs["MaintenanceFunctionName"], InvocationType="Event", Payload=b'{"task": null}'
    )
    sqs = cloud.client("sqs")
    message = until(
        lambda: sqs.receive_message(QueueUrl=outputs["FailedTasksUrl"]).get("Messages"), 30, "a message in the queue"
    )
    assert json.loads(message[0]["Body"])["requestPayload"] == {"task": None}


def test_every_schedule_is_there_and_one_fires(operator: Operator) -> None:
    scheduler = operator.deployment.cloud.client("scheduler")
    names = {name: operator.deployment.nested("Schedules", name.title().replace("_", "")) for name in SCHEDULE}
    schedules = {name: scheduler.get_schedule(Name=physical) for name, physical in names.items()}
    for name, schedule in schedules.items():
        assert json.loads(schedule["Target"]["Input"]) == {"task": name}
        assert schedule["Target"]["Arn"].endswith(f":{operator.deployment.outputs['MaintenanceFunctionName']}")
        assert schedule["State"] == "ENABLED"

    # One more with the same target, due now: the shortest of the deployed ones takes five minutes.
    scheduler.create_schedule(
        Name="now",
        ScheduleExpression=f"at({datetime.now(UTC):%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=schedules["purge_usage_records"]["Target"],
    )

    assert until(lambda: ended_run(operator, "purge_usage_records"), 60, "a run of the schedule")["status"] == "ok"


def test_a_long_task_asked_for_by_the_api_is_run_by_the_maintenance_function(operator: Operator) -> None:
    """Which the admin function's role lets it start, and no other function."""
    answer = operator.deployment.call("POST", "/v1/admin/maintenance/probe_recall", operator.key, {})
    assert answer.status_code == 202, answer.text
    assert until(lambda: ended_run(operator, "probe_recall"), 60, "a run of the function")["status"] == "ok"


def ended_run(operator: Operator, task: str) -> dict[str, Any] | None:
    answer = operator.deployment.call("GET", f"/v1/admin/maintenance/runs?task={task}", operator.key)
    runs: list[dict[str, Any]] = answer.json()["runs"]
    return next((one for one in runs if one["status"] != "running"), None)


def test_an_update_keeps_the_data_and_can_be_taken_back_by_the_alias(
    operator: Operator, build_folder: Path, parameters: dict[str, str]
) -> None:
    tenant = make_tenant(operator)
    tenant.call("POST", "", {"name": "docs", "dimension": 2})
    tenant.call("PUT", "/docs/vectors/a", {"vector": [1, 0]})
    with (build_folder / "SearchFunction" / "search_function" / "routes.py").open("a") as routes:
        routes.write("# as a new release would have it\n")

    updated = deploy(
        operator.deployment.cloud, build_folder, parameters | {"LogLevel": "WARNING", "SnapStart": "false"}
    )

    assert updated.outputs["Url"] == operator.deployment.outputs["Url"]
    client = updated.cloud.client("lambda")
    function = updated.function_name("SearchFunction")
    new = client.get_function_configuration(FunctionName=function, Qualifier="live")
    assert (new["Version"], new["SnapStart"]["ApplyOn"]) == ("2", "None")
    assert new["Environment"]["Variables"]["LOG_LEVEL"] == "WARNING"
    for version in ("2", "1"):
        client.update_alias(FunctionName=function, Name="live", FunctionVersion=version)
        found = tenant.call("POST", "/docs/search", {"vector": [1, 0]})
        assert found.status_code == 200, (version, found.text)
        assert [match["id"] for match in found.json()["matches"]] == ["a"]


def test_the_stack_goes_as_a_whole(operator: Operator) -> None:
    cloud = operator.deployment.cloud
    # What `sam delete` does before it empties its bucket, whose address in the emulator it does not recognize. In a
    # nested stack the emulator deletes also what is to be retained.
    cloud.client("cloudformation").delete_stack(StackName=STACK)

    def gone() -> bool | None:
        try:
            cloud.client("cloudformation").describe_stacks(StackName=STACK)
        except ClientError as error:
            return "does not exist" in str(error)
        return None

    assert until(gone, 60, "the stack's end")
    assert cloud.client("lambda").list_functions()["Functions"] == []
    assert cloud.client("scheduler").list_schedules(NamePrefix=STACK)["Schedules"] == []
