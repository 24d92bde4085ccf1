"""template.yaml and infra/ against the code they deploy: settings, schedule, table, routes, metrics, permissions."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, FastAPI
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from admin_function.routes import router as admin_router
from search_function.routes import router as search_router
from tests.fixtures.artifacts import FUNCTIONS, PROJECT
from upsert_function.routes import router as upsert_router
from vecmeter.embedding import bedrock
from vecmeter.http.health import health
from vecmeter.ledger.table import create_table
from vecmeter.settings import Settings
from vecmeter.tasks import SCHEDULE
from vecmeter.telemetry import Metric

Node = Any
HTTP_FUNCTIONS = ("Search", "Upsert", "Admin")
# Read by the SDK or by Powertools, not by settings.py.
OTHER_VARIABLES = re.compile(r"(AWS|POWERTOOLS)_")
NESTED = sorted(path.stem for path in (PROJECT / "infra").glob("*.yaml"))


def load(name: str) -> Node:
    return yaml_parse((PROJECT / name).read_text())


def infra(name: str) -> Node:
    return load(f"infra/{name}.yaml")


@pytest.fixture(scope="module")
def template() -> Node:
    return load("template.yaml")


@pytest.fixture(scope="module")
def functions() -> dict[str, Node]:
    """The functions' properties once SAM has merged Globals into them."""
    source = load("template.yaml")
    for resource in source["Resources"].values():
        for uri in ("CodeUri", "ContentUri"):
            if uri in resource["Properties"]:
                resource["Properties"][uri] = "s3://bucket/key"
    translated = transform(source, {}, NoManagedPolicies(), feature_toggle=None)
    resources = translated["Resources"]
    return {name: resources[f"{name.title()}Function"]["Properties"] for name in FUNCTIONS}


class NoManagedPolicies:
    def load(self) -> dict[str, str]:
        return {}


def walk(node: Node) -> Iterator[Node]:
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)


def references(node: Node) -> set[str]:
    """Names that Ref, Sub and conditions in a part of a template speak of."""
    found = set()
    for part in walk(node):
        if not isinstance(part, dict):
            continue
        if "Ref" in part:
            found.add(part["Ref"])
        if isinstance(part.get("Fn::Sub"), str):
            found.update(re.findall(r"\$\{(\w+)\}", part["Fn::Sub"]))
        if "Fn::If" in part:
            found.add(part["Fn::If"][0])
        if isinstance(part.get("Condition"), str):
            found.add(part["Condition"])
    return found


def parameters_of(node: Node, template: Node) -> set[str]:
    """Parameters a part of the template depends on, through conditions too."""
    found, seen = references(node), set[str]()
    while new := {name for name in found if name in template["Conditions"]} - seen:
        seen |= new
        found |= set().union(*(references(template["Conditions"][name]) for name in new))
    return found & set(template["Parameters"])


def environment(function: Node) -> Node:
    return function["Environment"]["Variables"]


@pytest.mark.parametrize("command", [["sam", "validate", "--lint"], ["cfn-lint", "template.yaml", "infra/*.yaml"]])
def test_the_linters_find_nothing(command: list[str], tmp_path: Path) -> None:
    binary = PROJECT / ".venv-sam" / "bin" / command[0]
    assert binary.exists(), f"There is no {binary}; run 'make sam-setup', which installs the SAM CLI there."
    done = subprocess.run(
        [binary, *command[1:]],
        cwd=PROJECT,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "AWS_DEFAULT_REGION": "us-east-1",
            "SAM_CLI_TELEMETRY": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_is_a_setting(name: str, functions: dict[str, Node]) -> None:
    settings = {field.name.upper() for field in dataclasses.fields(Settings)}
    unknown = {variable for variable in environment(functions[name]) if not OTHER_VARIABLES.match(variable)} - settings
    assert unknown == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_settings_accept_what_the_template_sets(name: str, functions: dict[str, Node], template: Node) -> None:
    variables = environment(functions[name])
    fixed = dict.fromkeys(variables, "given")
    choices: dict[str, list[str]] = {}
    for variable, value in variables.items():
        if isinstance(value, dict) and value.get("Ref") in template["Parameters"]:
            parameter = template["Parameters"][value["Ref"]]
            fixed[variable] = parameter["Default"]
            choices[variable] = parameter.get("AllowedValues", [])
    assert Settings.from_environment(fixed).table_name == "given"
    for variable, allowed in choices.items():
        for one in allowed:
            Settings.from_environment(fixed | {variable: one})


def test_every_task_of_the_schedule_is_scheduled() -> None:
    seconds = {"minute": 60, "minutes": 60, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400}
    found = {}
    for resource in infra("schedules")["Resources"].values():
        if resource["Type"] != "AWS::Scheduler::Schedule":
            continue
        properties = resource["Properties"]
        number, unit = re.fullmatch(r"rate\((\d+) (\w+)\)", properties["ScheduleExpression"]).groups()  # type: ignore[union-attr]
        event = json.loads(properties["Target"]["Input"])
        assert list(event) == ["task"]
        found[event["task"]] = int(number) * seconds[unit]
        assert properties["Target"]["DeadLetterConfig"] == {"Arn": {"Ref": "FailedTasksArn"}}
        assert properties["Target"]["Arn"] == {"Ref": "MaintenanceArn"}
    assert found == SCHEDULE


def test_the_table_is_the_one_the_code_creates() -> None:
    client = MagicMock()
    create_table(client, "name")
    created = client.create_table.call_args.kwargs
    ttl = client.update_time_to_live.call_args.kwargs["TimeToLiveSpecification"]
    table = infra("ledger")["Resources"]["Table"]
    properties = table["Properties"]
    created.pop("TableName")
    assert {name: properties[name] for name in created} == created
    assert properties["TimeToLiveSpecification"] == ttl == {"Enabled": True, "AttributeName": "ttl"}
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True}
    assert "Protected" in references(properties["DeletionProtectionEnabled"])
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"


def gateway_routes() -> list[tuple[str, list[str], str]]:
    """Method, path segments and function of each route of the HTTP API."""
    found = []
    for resource in infra("api")["Resources"].values():
        if resource["Type"] == "AWS::ApiGatewayV2::Route":
            method, path = resource["Properties"]["RouteKey"].split(" ")
            (target,) = re.findall(r"\$\{(\w+)\}", resource["Properties"]["Target"]["Fn::Sub"])
            found.append((method, path.strip("/").split("/"), target.lower()))
    return found


def function_of(method: str, path: str) -> str | None:
    """As API Gateway chooses: a full match before a greedy one, a named method before ANY, then more literals."""
    segments = path.strip("/").split("/")

    def rank(route: tuple[str, list[str], str]) -> tuple[bool, bool, int]:
        return route[1][-1] != "{proxy+}", route[0] != "ANY", sum(not part.startswith("{") for part in route[1])

    def matches(route: tuple[str, list[str], str]) -> bool:
        pattern = route[1]
        if pattern[-1] == "{proxy+}":
            pattern, compared = pattern[:-1], segments[: len(pattern) - 1]
            if len(segments) < len(pattern) + 1:
                return False
        else:
            compared = segments
        same_length = len(pattern) == len(compared)
        return (
            route[0] in ("ANY", method)
            and same_length
            and all(part.startswith("{") or part == one for part, one in zip(pattern, compared, strict=True))
        )

    return max((route for route in gateway_routes() if matches(route)), key=rank, default=("", [], None))[2]


def code_routes() -> list[tuple[str, str, str]]:
    """Function, method and path of each operation."""
    routers = [("search", search_router), ("upsert", upsert_router), ("admin", admin_router)]
    found = [("search", *operation) for operation in operations(health, prefix="")]
    for name, router in routers:
        found += [(name, *operation) for operation in operations(router, prefix="/v1")]
    return found


def operations(router: APIRouter, *, prefix: str) -> list[tuple[str, str]]:
    app = FastAPI()
    app.include_router(router, prefix=prefix)
    return [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]


@pytest.mark.parametrize(("function", "method", "path"), code_routes())
def test_every_route_of_the_code_reaches_its_function(function: str, method: str, path: str) -> None:
    assert function_of(method, re.sub(r"\{[^}]*\}", "x", path)) == function


def test_the_gateway_has_no_route_without_code() -> None:
    reached = {(method, re.sub(r"\{[^}]*\}", "x", path)) for _, method, path in code_routes()}
    for method, segments, _ in gateway_routes():
        if segments[-1] != "{proxy+}":
            path = "/" + "/".join("x" if part.startswith("{") else part for part in segments)
            assert (method, path) in reached


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_limits_logs_and_a_role_of_their_own(name: str, functions: dict[str, Node]) -> None:
    function = functions[name]
    assert function["Timeout"] == 900 if name == "maintenance" else function["Timeout"] < 30
    assert function["MemorySize"] == {"Ref": f"{name.title()}MemorySize"}
    assert function["LoggingConfig"] == {"LogGroup": {"Ref": f"{name.title()}Logs"}}
    assert function["Role"] == {"Fn::GetAtt": ["Roles", f"Outputs.{name.title()}RoleArn"]}
    assert function["Layers"] == [{"Ref": next(iter(references(function["Layers"])))}]
    package, module, attribute = function["Handler"].split(".")
    assert (PROJECT / "functions" / name / package / f"{module}.py").exists()
    assert attribute == "handler"
    assert "UsesVpc" in references(function["VpcConfig"])


def statements(policy: Node) -> list[Node]:
    found = []
    for statement in policy["PolicyDocument"]["Statement"]:
        found.append(statement["Fn::If"][1] if "Fn::If" in statement else statement)
    return found


def actions(statement: Node) -> set[str]:
    action = statement["Action"]
    return {action} if isinstance(action, str) else set(action)


def test_each_function_may_do_what_it_does_and_no_more() -> None:
    resources = infra("roles")["Resources"]
    reads_and_writes = {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"}
    lists_and_purges = {"dynamodb:Query", "dynamodb:BatchWriteItem"}
    expected = {
        "Search": reads_and_writes,
        "Upsert": reads_and_writes,
        "Admin": reads_and_writes | lists_and_purges | {"dynamodb:DeleteItem", "dynamodb:ConditionCheckItem"},
        "Maintenance": reads_and_writes | lists_and_purges | {"dynamodb:DeleteItem"},
    }
    for name, allowed in expected.items():
        role = resources[f"{name}Role"]["Properties"]
        on_table, *others = [s for policy in role["Policies"] for s in statements(policy)]
        assert on_table["Resource"] == {"Ref": "TableArn"}
        assert actions(on_table) == allowed
        more = {"Maintenance": [{"sqs:SendMessage"}], "Upsert": [{"lambda:InvokeFunction"}]}
        assert [actions(other) for other in others] == more.get(name, [])
        embeds = "Embedding" in references(role["ManagedPolicyArns"])
        assert embeds == (name in ("Search", "Upsert"))
        assert ("UsageExports" in references(role["ManagedPolicyArns"])) == (name in ("Admin", "Maintenance"))
    assert resources["Embedding"]["Condition"] == "UsesBedrock"
    assert resources["UsageExports"]["Condition"] == "Exports"
    (exports,) = statements(resources["UsageExports"]["Properties"])
    assert actions(exports) == {"s3:PutObject", "s3:AbortMultipartUpload"}
    assert exports["Resource"]["Fn::Sub"].endswith(":s3:::${ExportBucket}/usage/*")
    for statement in (s for stack in ("roles", "schedules") for s in all_statements(infra(stack))):
        assert "*" not in str(statement["Action"])
        assert statement["Resource"] != "*"


def test_the_upsert_function_alone_knows_and_may_invoke_the_maintenance_function(
    template: Node, functions: dict[str, Node]
) -> None:
    name = "MAINTENANCE_FUNCTION_NAME"
    assert [one for one in FUNCTIONS if name in functions[one]["Environment"]["Variables"]] == ["upsert"]
    known = functions["upsert"]["Environment"]["Variables"][name]
    # The network of the stack has no way to Lambda.
    assert known == {"Fn::If": ["CreatesNetwork", "", {"Ref": "MaintenanceFunction"}]}
    allowed = template["Resources"]["Roles"]["Properties"]["Parameters"]["MaintenanceArn"]["Fn::Sub"]
    assert allowed.endswith(":function:${AWS::StackName}-MaintenanceFunction-*"), "as CloudFormation names it"
    (_, invoke) = statements(infra("roles")["Resources"]["UpsertRole"]["Properties"]["Policies"][0])
    assert invoke["Resource"] == {"Ref": "MaintenanceArn"}


def all_statements(stack: Node) -> Iterator[Node]:
    for part in walk(stack["Resources"]):
        if isinstance(part, dict) and "Action" in part and "Resource" in part:
            yield part


def test_the_models_that_may_be_invoked_are_those_of_the_code() -> None:
    (statement,) = statements(infra("roles")["Resources"]["Embedding"]["Properties"])
    allowed = {arn["Fn::Sub"].rsplit("/", 1)[1] for arn in statement["Resource"]}
    assert allowed == {bedrock.TITAN, bedrock.COHERE_ENGLISH, bedrock.COHERE_MULTILINGUAL}


def test_alarms_and_dashboard_show_metrics_there_are() -> None:
    resources = infra("observability")["Resources"]
    known = {metric.label for metric in Metric}
    alarms = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::CloudWatch::Alarm"]
    ours = [alarm for alarm in alarms if alarm["Namespace"] == {"Ref": "MetricsNamespace"}]
    assert {alarm["MetricName"] for alarm in ours} <= known
    assert {"Errors", "Latency", "Refusals"} <= {alarm["MetricName"] for alarm in ours}
    assert all(alarm["AlarmActions"] == [{"Ref": "Topic"}] for alarm in alarms)
    dashboard = json.loads(resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])
    shown = [metric for widget in dashboard["widgets"] for metric in widget["properties"]["metrics"]]
    assert {metric[1] for metric in shown if metric[0] == "${MetricsNamespace}"} <= known


@pytest.mark.parametrize("name", NESTED)
def test_nested_stacks_get_their_parameters_and_give_what_is_asked(name: str, template: Node) -> None:
    stack = infra(name)
    logical_id = name.title()
    properties = template["Resources"][logical_id]["Properties"]
    assert properties["TemplateURL"] == f"infra/{name}.yaml"
    declared = stack.get("Parameters", {})
    given = set(properties.get("Parameters", {}))
    assert given <= set(declared)
    assert {parameter for parameter, definition in declared.items() if "Default" not in definition} <= given
    asked = {
        part["Fn::GetAtt"][1].removeprefix("Outputs.")
        for part in walk(template)
        if isinstance(part, dict) and part.get("Fn::GetAtt", [None])[0] == logical_id
    }
    assert asked <= set(stack.get("Outputs", {}))


def test_a_changed_parameter_publishes_the_http_functions_anew(template: Node) -> None:
    """With SnapStart they serve published versions: what their description lacks, Revision has to carry."""
    carried = documented_revision_parameters()
    for name in HTTP_FUNCTIONS:
        function = template["Resources"][f"{name}Function"]["Properties"]
        described = references(function["VersionDescription"])
        used = parameters_of([function, template["Globals"]["Function"]], template)
        assert used - described == carried - {"VpcId"}
        assert "Revision" in described


def documentation() -> str:
    return (PROJECT / "docs" / "deploy.md").read_text()


def documented_revision_parameters() -> set[str]:
    (sentence,) = re.findall(r"\*\*Revision\*\*(.*?)\n\n", documentation(), flags=re.DOTALL)
    return set(re.findall(r"`([A-Z]\w+)`", sentence)) - {"SnapStart", "Revision"}


def test_the_parameters_are_documented_with_their_defaults(template: Node) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", documentation(), flags=re.MULTILINE)
    defaults = {name: str(parameter["Default"]) for name, parameter in template["Parameters"].items()}
    assert {name: default.strip("`") for name, default in rows} == defaults


def test_everything_is_built_by_a_makefile(template: Node) -> None:
    for name, resource in template["Resources"].items():
        properties = resource["Properties"]
        source = properties.get("CodeUri") or properties.get("ContentUri")
        if source is not None:
            assert resource["Metadata"]["BuildMethod"] == "makefile"
            assert f"build-{name}:" in (PROJECT / source / "Makefile").read_text()
