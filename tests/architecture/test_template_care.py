"""What a deployment keeps safe, and within bounds: on the template as SAM translates it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.fixtures.artifacts import FUNCTIONS, PROJECT
from tests.fixtures.templates import Node, infra, references
from vecmeter.http.idempotency import REPLAYED
from vecmeter.http.pinecone.errors import REQUEST_ID
from vecmeter.http.pinecone.versions import HEADER

HTTP_FUNCTIONS = ("Search", "Upsert", "Admin")
STACKS = sorted(path.stem for path in (PROJECT / "infra").glob("*.yaml"))
KEY = {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}


def of_type(resources: dict[str, Node], kind: str) -> dict[str, Node]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def every_resource(translated: dict[str, Node]) -> dict[str, Node]:
    found = dict(translated)
    for stack in STACKS:
        found |= {f"{stack}.{name}": one for name, one in infra(stack)["Resources"].items()}
    return found


def depends(resources: dict[str, Node], later: str, earlier: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether CloudFormation is done with ``earlier`` before it begins ``later``."""
    resource = resources[later]
    named = resource.get("DependsOn", [])
    direct = references(resource) | attributes(resource) | set([named] if isinstance(named, str) else named)
    direct = {name for name in direct if name in resources} - seen
    return earlier in direct or any(depends(resources, name, earlier, seen | direct) for name in direct)


def attributes(node: Node) -> set[str]:
    return set(re.findall(r"'Fn::GetAtt': \['(\w+)'", str(node)))


def test_no_function_serves_new_code_before_the_migration(translated: dict[str, Node]) -> None:
    for name in HTTP_FUNCTIONS:
        assert depends(translated, f"{name}Function", "Migration")
    assert depends(translated, "Migration", "MaintenanceFunction"), "the new code migrates"
    for needed in ("Database", "Ledger", "Roles", "Endpoints"):
        assert depends(translated, "Migration", needed), needed
    migration = translated["Migration"]["Properties"]
    assert migration["ServiceToken"] == {"Fn::GetAtt": ["MaintenanceFunction", "Arn"]}
    assert migration["ServiceTimeout"] <= translated["MaintenanceFunction"]["Properties"]["Timeout"]
    layers = [name for name, one in translated.items() if one["Type"] == "AWS::Lambda::LayerVersion"]
    assert migration["Layer"] == {"Ref": layers[0]}, "a new layer is a change of the resource, which runs it again"


def test_the_api_calls_aliases_of_published_versions(translated: dict[str, Node], template: Node) -> None:
    for name in HTTP_FUNCTIONS:
        alias = translated[f"{name}FunctionAliaslive"]["Properties"]
        assert alias["Name"] == "live"
        (version,) = {name for name in attributes(alias) if translated[name]["Type"] == "AWS::Lambda::Version"}
        assert translated[version]["DeletionPolicy"] == "Retain", "one goes back to it"
        start = translated[f"{name}Function"]["Properties"]["SnapStart"]
        assert start == {"ApplyOn": {"Fn::If": ["UsesSnapStart", "PublishedVersions", "None"]}}
        target = template["Resources"]["Api"]["Properties"]["Parameters"][f"{name}Arn"]
        assert target == {"Ref": f"{name}Function.Alias"}
    assert template["Parameters"]["SnapStart"]["Default"] == "true"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_a_ceiling_if_one_is_wanted(name: str, functions: dict[str, Node], template: Node) -> None:
    title = name.title()
    ceiling = functions[name]["ReservedConcurrentExecutions"]
    assert ceiling == {"Fn::If": [f"Limits{title}", {"Ref": f"{title}Concurrency"}, {"Ref": "AWS::NoValue"}]}
    assert template["Conditions"][f"Limits{title}"] == {
        "Fn::Not": [{"Fn::Equals": [{"Ref": f"{title}Concurrency"}, 0]}]
    }
    assert template["Parameters"][f"{title}Concurrency"]["Default"] == 0, "none: accounts differ"


def test_everything_kept_is_encrypted_and_with_ones_own_key_if_there_is_one(translated: dict[str, Node]) -> None:
    resources = every_resource(translated)
    for name, group in of_type(resources, "AWS::Logs::LogGroup").items():
        assert group["KmsKeyId"] == KEY, name
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    table = resources["ledger.Table"]["Properties"]["SSESpecification"]
    assert table == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}
    cluster = resources["database.Cluster"]["Properties"]
    assert (cluster["StorageEncrypted"], cluster["KmsKeyId"]) == (True, KEY)
    assert resources["database.Secret"]["Properties"]["KmsKeyId"] == KEY
    for name, queue in of_type(resources, "AWS::SQS::Queue").items():
        managed = queue["SqsManagedSseEnabled"]
        assert managed is True or (managed["Fn::If"] == ["HasKey", False, True] and queue["KmsMasterKeyId"] == KEY), (
            name
        )


def test_what_cannot_be_made_again_is_backed_up_and_protected() -> None:
    table = infra("ledger")["Resources"]["Table"]
    assert table["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["Properties"]["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    cluster = infra("database")["Resources"]["Cluster"]
    assert cluster["Properties"]["BackupRetentionPeriod"] >= 7
    assert cluster["DeletionPolicy"] == cluster["UpdateReplacePolicy"] == "Snapshot"
    for protected in (table["Properties"]["DeletionProtectionEnabled"], cluster["Properties"]["DeletionProtection"]):
        assert protected == {"Fn::If": ["Protected", True, False]}
    for kept in (table, infra("database")["Resources"]["Secret"]):
        assert kept["DeletionPolicy"] == kept["UpdateReplacePolicy"] == "Retain"


def test_what_runs_without_a_caller_leaves_what_failed_in_a_queue(translated: dict[str, Node]) -> None:
    config = translated["MaintenanceFunctionEventInvokeConfig"]["Properties"]
    assert config["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["FailedTasks", "Arn"]}
    schedules = of_type(infra("schedules")["Resources"], "AWS::Scheduler::Schedule")
    assert schedules
    for schedule in schedules.values():
        assert schedule["Target"]["DeadLetterConfig"] == {"Arn": {"Ref": "FailedTasksArn"}}
    for name, queue in of_type(every_resource(translated), "AWS::SQS::Queue").items():
        assert queue["MessageRetentionPeriod"] == 14 * 86400, name


def test_the_stage_is_throttled_and_browsers_get_every_header_they_may_need() -> None:
    resources = infra("api")["Resources"]
    limits = resources["Stage"]["Properties"]["DefaultRouteSettings"]
    assert limits == {
        "ThrottlingRateLimit": {"Ref": "ThrottlingRate"},
        "ThrottlingBurstLimit": {"Ref": "ThrottlingBurst"},
    }
    condition, cors, otherwise = resources["Api"]["Properties"]["CorsConfiguration"]["Fn::If"]
    assert (condition, otherwise) == ("AllowsOrigins", {"Ref": "AWS::NoValue"})
    assert cors["AllowOrigins"] == {"Ref": "CorsOrigins"}
    assert "AllowCredentials" not in cors, "keys are sent, no cookies"
    needed = {name.lower() for name in (*documented_headers(), "X-Cache", REQUEST_ID)}
    assert needed <= set(cors["ExposeHeaders"])
    asked = {"authorization", "api-key", "content-type", "idempotency-key"}
    assert set(cors["AllowHeaders"]) == asked | {HEADER.lower()}
    assert set(cors["AllowMethods"]) == {"GET", "POST", "PUT", "PATCH", "DELETE"}


def documented_headers() -> set[str]:
    document: Any = json.loads((PROJECT / "docs" / "openapi.json").read_text())
    answers = [
        answer
        for path in document["paths"].values()
        for operation in path.values()
        for answer in operation["responses"].values()
    ]
    return {REPLAYED, *document["components"]["headers"], *(name for one in answers for name in one.get("headers", {}))}


def test_a_created_network_reaches_what_the_functions_call_and_nothing_else(template: Node) -> None:
    network, endpoints = infra("network")["Resources"], infra("endpoints")["Resources"]
    kinds = {one["Type"] for one in network.values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::VPCEndpoint"}
    reached = {
        one["Properties"]["ServiceName"]["Fn::Sub"].rsplit(".", 1)[1]: one
        for one in endpoints.values()
        if one["Type"] == "AWS::EC2::VPCEndpoint"
    }
    assert set(reached) == {"dynamodb", "s3", "secretsmanager", "lambda", "bedrock-runtime", "events"}
    always = {service for service, one in reached.items() if "Condition" not in one}
    assert always == {"dynamodb", "s3", "secretsmanager", "lambda"}
    for service, one in reached.items():
        gateway = one["Properties"]["VpcEndpointType"] == "Gateway"
        assert gateway == (service in ("dynamodb", "s3"))
    assert template["Conditions"]["HasEndpoints"] == {
        "Fn::Or": [{"Condition": "CreatesNetwork"}, {"Fn::Equals": [{"Ref": "CreateEndpoints"}, "true"]}]
    }


def test_a_cluster_that_may_pause_is_left_to_and_waited_for(template: Node, functions: dict[str, Node]) -> None:
    assert template["Conditions"]["Pauses"]["Fn::And"][1] == {"Fn::Equals": [{"Ref": "DatabaseMinCapacity"}, 0]}
    assert template["Parameters"]["DatabaseMinCapacity"]["MinValue"] == 0
    for function in functions.values():
        waits = function["Environment"]["Variables"]["DATABASE_CONNECT_TIMEOUT_SECONDS"]
        assert waits == {"Fn::If": ["Pauses", "25", "5"]}
    quiet = template["Resources"]["Schedules"]["Properties"]["Parameters"]["Quiet"]
    assert quiet == {"Fn::If": ["Pauses", "true", "false"]}
    for schedule in of_type(infra("schedules")["Resources"], "AWS::Scheduler::Schedule").values():
        rate = schedule["ScheduleExpression"]
        if isinstance(rate, dict):
            condition, seldom, often = rate["Fn::If"]
            assert (condition, seldom) == ("Quiet", "rate(6 hours)")
        else:
            often = rate
        frequent = re.fullmatch(r"rate\((\d+ minutes?|[1-5] hours?)\)", often) is not None
        assert frequent == isinstance(rate, dict), often


def test_whatever_the_stack_makes_carries_its_tag() -> None:
    assert re.search(r'^tags = "application=\w+"$', (PROJECT / "samconfig.toml").read_text(), flags=re.MULTILINE)
