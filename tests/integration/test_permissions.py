"""What each function is allowed in AWS against what its code calls there, in both directions.

Every route and every task runs with its calls written down: on the wire to DynamoDB, and by boto3 to the rest, which is
answered here. The end-to-end tests add an AWS that refuses what is not allowed.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from fastapi import APIRouter
from psycopg.conninfo import conninfo_to_dict
from starlette.routing import Match

from tests.fixtures.api import (
    ADMIN_ROUTERS,
    SEARCH_ROUTERS,
    UPSERT_ROUTERS,
    Api,
    World,
    make_world,
    open_api,
    settings_for,
)
from tests.fixtures.routes import EVERY_ROUTE
from tests.fixtures.templates import actions, all_statements, infra, load, references
from vecmeter.embedding import bedrock
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Role
from vecmeter.ledger.signed import SignedEndpoint
from vecmeter.tasks import TASKS, run_task, task_names

# What IAM calls the parts of a transaction, and of an upload in parts.
OF_TRANSACTION = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}
OF_UPLOAD = {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}
CALLED_OTHERWISE = {"Invoke": "InvokeFunction"}
# By Lambda and by AWS's services, for a function, without a call of its code.
WITHOUT_A_CALL = {
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:SendMessage",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
}
TEXTS = {"provider": "bedrock", "model": "cohere.embed-english-v3"}


@dataclass
class Calls:
    """The IAM actions of the calls made while ``of(function)`` is entered."""

    actions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    function: str | None = None

    @contextmanager
    def of(self, function: str) -> Iterator[None]:
        self.function = function
        try:
            yield
        finally:
            self.function = None

    def note(self, action: str) -> None:
        if self.function is not None:
            self.actions[self.function].add(action)


def of_wire(target: str, body: bytes) -> Iterator[str]:
    service, operation = target.split(".")
    if operation == "TransactWriteItems":
        for write in json.loads(body)["TransactItems"]:
            yield from (f"dynamodb:{OF_TRANSACTION[kind]}" for kind in write)
    else:
        yield f"{'events' if service == 'AWSEvents' else 'dynamodb'}:{operation}"


def of_client(service: str, operation: str) -> str:
    prefix = {"bedrock-runtime": "bedrock"}.get(service, service)
    return f"{prefix}:{'PutObject' if operation in OF_UPLOAD else CALLED_OTHERWISE.get(operation, operation)}"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Calls:
    """An AWS that takes an event only from the maintenance function: the others leave theirs for its sweep."""
    noted, answers = Calls(), Answers(database_url)
    send, ask = SignedEndpoint.call, BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(self: SignedEndpoint, target: str, body: bytes, *more: Any) -> Any:
        for action in of_wire(target, body):
            noted.note(action)
        if target.startswith("AWSEvents"):
            answer = {"EventId": "1"} if noted.function == "Maintenance" else {"ErrorCode": "InternalFailure"}
            return {"Entries": [answer for _ in json.loads(body)["Entries"]]}
        return send(self, target, body, *more)

    def make_api_call(self: Any, operation: str, parameters: Any) -> Any:
        service = self.meta.service_model.service_name
        if service == "dynamodb":  # the fixtures'
            return ask(self, operation, parameters)
        noted.note(of_client(service, operation))
        return getattr(answers, operation)(parameters)

    monkeypatch.setattr(SignedEndpoint, "call", call)
    monkeypatch.setattr(BaseClient, "_make_api_call", make_api_call)
    return noted


class Answers:
    """Of the services that boto3 is for. The first part of an upload is refused, and a repetition is taken."""

    def __init__(self, dsn: str) -> None:
        reached = conninfo_to_dict(dsn)
        secret = {"host": reached["host"], "dbname": reached["dbname"], "username": reached["user"], "password": "none"}
        self.GetSecretValue = lambda _: {"SecretString": json.dumps(secret)}
        self.Invoke = lambda _: {"StatusCode": 202}
        self.CreateMultipartUpload = lambda _: {"UploadId": "1"}
        self.CompleteMultipartUpload = self.AbortMultipartUpload = lambda _: {}
        self._refusals = [ClientError({"Error": {"Code": "SlowDown"}}, "UploadPart")]

    def UploadPart(self, _: Any) -> Any:
        if self._refusals:
            raise self._refusals.pop()
        return {"ETag": "1"}

    def InvokeModel(self, parameters: Any) -> Any:
        texts = json.loads(parameters["body"])["texts"]
        body = json.dumps({"embeddings": [[1.0] + [0.0] * 1023 for _ in texts]}).encode()
        return {"body": io.BytesIO(body), "ResponseMetadata": {"HTTPHeaders": {}}}


@pytest.fixture
def world(calls: Calls, database_url: str, table_name: str) -> Iterator[World]:
    """As the template sets it up with everything it can have; little makes an index."""
    settings = settings_for(
        database_url,
        table_name,
        database_secret_arn="arn",
        event_bus_name="bus",
        export_bucket="bucket",
        maintenance_function_name="maintenance",
        index_threshold_vectors=1,
        database_pool_size=1,
    )
    with open_api(dataclasses.replace(settings, database_url="")) as api:
        made = make_world(api)
        made.tenant.collection("texts", dimension=1024, embedder=TEXTS)
        yield made


@contextmanager
def function(calls: Calls, name: str, world: World, *routers: APIRouter) -> Iterator[Api]:
    """A function of its own on the data of the world, its calls written down."""
    with open_api(world.tenant.api.runtime.settings, routers=routers) as opened, calls.of(name):
        opened.clock.now = world.tenant.api.clock.now
        yield opened


def drive(api: Api, world: World) -> None:
    """Every route the function has, and a key that comes near its limit there."""
    for route in EVERY_ROUTE:
        if has(api, route.method, world.path(route)):
            answer = api.call(route.method, world.path(route), world.key_for(route), json=world.body(route))
            assert answer.status_code < 500, (route.operation, answer.text)


def has(api: Api, method: str, path: str) -> bool:
    """Whether the function has a route of this method and path."""
    scope = {"type": "http", "method": method, "path": api.url(path).partition("?")[0]}
    return any(route.matches(scope)[0] is Match.FULL for route in api.app.routes)


def near_its_limit(world: World) -> CreatedKey:
    tenant = world.tenant
    policy = {"daily_requests": 1}
    return tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, Role.WRITE, Role.ADMIN, policy=policy)


def test_each_function_may_do_what_it_does_and_no_more(world: World, calls: Calls) -> None:
    base = world.tenant.base
    keys = [near_its_limit(world) for _ in range(3)]
    with function(calls, "Search", world, *SEARCH_ROUTERS) as api:
        drive(api, world)
        assert api.call("POST", f"{base}/texts/search", keys[0], json={"text": "red"}).status_code == 200
    with function(calls, "Upsert", world, *UPSERT_ROUTERS) as api:
        drive(api, world)
        written = api.call("POST", f"{base}/texts/add", keys[1], json={"id": "a", "document": "red"})
        assert written.status_code == 201, written.text
    with function(calls, "Admin", world, *ADMIN_ROUTERS) as api:
        drive(api, world)
        assert api.call("GET", "/admin/keys", keys[2]).status_code == 200
        empty = {"project_id": "empty", "user_id": world.tenant.user}
        assert api.call("POST", "/admin/projects", world.admin, json=empty).status_code == 201
        assert api.call("DELETE", "/admin/projects/empty", world.admin).status_code == 200
        for name in task_names(by_api=True):
            answer = api.call("POST", f"/admin/maintenance/{name}", world.system, json={})
            assert answer.status_code in (200, 202), answer.text
    with function(calls, "Maintenance", world) as api:
        refused = run_task(api.runtime, "export_usage", {})
        assert refused["status"] == "error"
        maintain(api)
        api.clock.advance(days=api.runtime.settings.usage_retention_days + 1)
        maintain(api)

    for name in ("Search", "Upsert", "Admin", "Maintenance"):
        called, may = calls.actions[name], allowed(name) - WITHOUT_A_CALL
        assert called - may == set(), f"{name} calls what it may not"
        assert may - called == set(), f"{name} may what it does not call"


def maintain(api: Api) -> None:
    for name in TASKS:
        outcome = run_task(api.runtime, name, {})
        assert outcome["status"] == "ok", outcome


def test_nothing_is_allowed_on_everything_nor_by_a_pattern() -> None:
    for stack in ("roles", "schedules", "alerts"):
        for statement in all_statements(infra(stack)):
            assert not any("*" in action for action in actions(statement))
            assert statement["Resource"] != "*"


def test_what_is_only_wanted_sometimes_is_only_then_allowed() -> None:
    resources = infra("roles")["Resources"]
    assert resources["Embedding"]["Condition"] == "UsesBedrock"
    assert resources["UsageExports"]["Condition"] == "Exports"
    for policy in ("Embedding", "UsageExports"):
        holders = [
            one for one in resources.values() if policy in references(one["Properties"].get("ManagedPolicyArns"))
        ]
        assert holders
        for role in holders:
            (chosen,) = (arn for arn in role["Properties"]["ManagedPolicyArns"] if policy in references(arn))
            assert chosen["Fn::If"][0] == resources[policy]["Condition"]
    (exports,) = all_statements({"Resources": {"exports": resources["UsageExports"]}})
    assert exports["Resource"]["Fn::Sub"].endswith(":s3:::${ExportBucket}/usage/*")


def test_the_models_that_may_be_invoked_are_those_of_the_code() -> None:
    (statement,) = all_statements({"Resources": {"embedding": infra("roles")["Resources"]["Embedding"]}})
    allowed = {arn["Fn::Sub"].rsplit("/", 1)[1] for arn in statement["Resource"]}
    assert allowed == {bedrock.TITAN, bedrock.COHERE_ENGLISH, bedrock.COHERE_MULTILINGUAL}


def test_who_may_invoke_the_maintenance_function_knows_its_name_and_nobody_else() -> None:
    template = load("template.yaml")
    named = {
        name.removesuffix("Function")
        for name, one in template["Resources"].items()
        if "MAINTENANCE_FUNCTION_NAME" in one["Properties"].get("Environment", {}).get("Variables", {})
    }
    may = {name for name in ("Search", "Upsert", "Admin", "Maintenance") if "lambda:InvokeFunction" in allowed(name)}
    assert named == may == {"Upsert", "Admin"}
    (statement,) = all_statements(template)
    assert statement["Resource"] == {"Fn::GetAtt": ["MaintenanceFunction", "Arn"]}, (
        "not a pattern of its name: CloudFormation shortens the stack's part of it"
    )
    assert "lambda:InvokeFunction" not in {action for one in all_statements(infra("roles")) for action in actions(one)}


def allowed(name: str) -> set[str]:
    resources = infra("roles")["Resources"]
    role = resources[f"{name}Role"]["Properties"]
    attached = [resources[policy]["Properties"] for policy in references(role["ManagedPolicyArns"]) & resources.keys()]
    ours = {"Fn::GetAtt": ["Roles", f"Outputs.{name}RoleName"]}
    attached += [
        one["Properties"]
        for one in load("template.yaml")["Resources"].values()
        if one["Type"] == "AWS::IAM::Policy" and ours in one["Properties"]["Roles"]
    ]
    found: set[str] = set()
    for policy in [*role["Policies"], *attached]:
        for statement in policy["PolicyDocument"]["Statement"]:
            found |= actions(statement["Fn::If"][1] if "Fn::If" in statement else statement)
    return found
