"""template.yaml and infra/ against the code they deploy: settings, schedule, table, routes, metrics, permissions."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from tests.fixtures.api import ADMIN_ROUTERS, SEARCH_ROUTERS, UPSERT_ROUTERS
from tests.fixtures.artifacts import FUNCTIONS, PROJECT
from tests.fixtures.templates import Node, infra, parameters_of, references, walk
from vecmeter.http.health import health
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.table import create_table
from vecmeter.settings import Settings
from vecmeter.tasks import SCHEDULE

HTTP_FUNCTIONS = ("Search", "Upsert", "Admin")
# Read by the SDK or by Powertools, not by settings.py.
OTHER_VARIABLES = re.compile(r"(AWS|POWERTOOLS)_")
NESTED = sorted(path.stem for path in (PROJECT / "infra").glob("*.yaml"))


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
            fixed[variable] = str(parameter["Default"])
            choices[variable] = parameter.get("AllowedValues", []) + bounds(parameter)
        elif isinstance(value, dict) and all(isinstance(one, str) for one in value.get("Fn::If", [{}])):
            fixed[variable], *choices[variable] = value["Fn::If"][1:]
    assert Settings.from_environment(fixed).table_name == "given"
    for variable, allowed in choices.items():
        for one in allowed:
            Settings.from_environment(fixed | {variable: one})


def bounds(parameter: Node) -> list[str]:
    return [str(parameter[name]) for name in ("MinValue", "MaxValue") if name in parameter]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_parameter_has_the_default_of_its_setting(name: str, functions: dict[str, Node], template: Node) -> None:
    defaults = {field.name.upper(): field.metadata["default"] for field in dataclasses.fields(Settings)}
    for variable, value in environment(functions[name]).items():
        if isinstance(value, dict) and value.get("Ref") in template["Parameters"]:
            assert str(template["Parameters"][value["Ref"]]["Default"]) == defaults[variable], variable


def test_every_task_of_the_schedule_is_scheduled() -> None:
    seconds = {"minute": 60, "minutes": 60, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400}
    found = {}
    for resource in infra("schedules")["Resources"].values():
        if resource["Type"] != "AWS::Scheduler::Schedule":
            continue
        properties = resource["Properties"]
        rate = properties["ScheduleExpression"]
        often = rate if isinstance(rate, str) else rate["Fn::If"][2]
        number, unit = re.fullmatch(r"rate\((\d+) (\w+)\)", often).groups()  # type: ignore[union-attr]
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
    assert properties["SSESpecification"]["SSEEnabled"] is True
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
    """As API Gateway chooses: a full match before a greedy one, then more literals."""
    segments = path.strip("/").split("/")

    def rank(route: tuple[str, list[str], str]) -> tuple[bool, int]:
        return route[1][-1] != "{proxy+}", sum(not part.startswith("{") for part in route[1])

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
            route[0] == method
            and same_length
            and all(part.startswith("{") or part == one for part, one in zip(pattern, compared, strict=True))
        )

    return max((route for route in gateway_routes() if matches(route)), key=rank, default=("", [], None))[2]


def code_routes() -> list[tuple[str, str, str]]:
    """Function, method and path of each operation."""
    of_functions = {"search": (health, *SEARCH_ROUTERS), "upsert": UPSERT_ROUTERS, "admin": ADMIN_ROUTERS}
    return [
        (name, *operation)
        for name, routers in of_functions.items()
        for router in routers
        for operation in operations(router)
    ]


def operations(router: APIRouter) -> list[tuple[str, str]]:
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="" if router is health or isinstance(router, UnversionedRouter) else "/v1")
    return [
        (method, str(route.path_format))
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


@pytest.mark.parametrize(("function", "method", "path"), code_routes())
def test_every_route_of_the_code_reaches_its_function(function: str, method: str, path: str) -> None:
    assert function_of(method, re.sub(r"\{[^}]*\}", "x", path)) == function


def test_the_gateway_has_no_route_without_code() -> None:
    reached = {(method, re.sub(r"\{[^}]*\}", "x", path)) for _, method, path in code_routes()}
    for method, segments, _ in gateway_routes():
        assert method in {known for known, _ in reached}, (
            "ANY takes OPTIONS: a function answers it, and browsers give up"
        )
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
    assert function["Layers"][0]["Ref"].startswith("CoreLayer")
    assert function["Layers"][1:] == [
        {"Fn::If": ["HasTracingLayer", {"Ref": "TracingLayerArn"}, {"Ref": "AWS::NoValue"}]}
    ]
    package, module, attribute = function["Handler"].split(".")
    assert (PROJECT / "functions" / name / package / f"{module}.py").exists()
    assert attribute == "handler"
    assert "UsesVpc" in references(function["VpcConfig"])


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
    """They serve published versions: what their description lacks, Revision has to carry."""
    carried = documented_revision_parameters()
    for name in HTTP_FUNCTIONS:
        function = template["Resources"][f"{name}Function"]["Properties"]
        described = references(function["VersionDescription"])
        used = parameters_of([function, template["Globals"]["Function"]], template)
        # The ceiling is the function's, whichever version runs.
        assert used - described - {f"{name}Concurrency"} == carried - {"RestoredTable"}
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
