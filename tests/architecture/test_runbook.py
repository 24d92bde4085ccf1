"""What docs/runbook.md and docs/deploy.md tell an operator to do can be done: names in them are names of the code."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader

from tests.architecture.test_template import code_routes
from tests.fixtures.artifacts import PROJECT
from tests.fixtures.templates import Node, infra, walk
from vecmeter.errors import VecmeterError
from vecmeter.settings import Settings
from vecmeter.tasks import TASKS, task_names

PAGES = ("runbook", "deploy")
# Words in capitals of CloudFormation and of the Makefile.
NO_SETTINGS = {"UPDATE_ROLLBACK_FAILED", "DATA_DIR"}
# Of events that a function is invoked with, and of the SAM CLI's file of variables.
NO_FIELDS = {"task", "Parameters", "DATABASE_URL", "TABLE_NAME"}


def page(name: str) -> str:
    return (PROJECT / "docs" / f"{name}.md").read_text()


def code(name: str) -> list[str]:
    """Everything in backticks."""
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", page(name))


def test_every_alarm_has_its_heading_with_what_to_look_at_and_what_to_do() -> None:
    alarms = {
        name for name, one in infra("observability")["Resources"].items() if one["Type"] == "AWS::CloudWatch::Alarm"
    }
    alarmed = page("runbook").split("\n## Alarms\n")[1].split("\n## ")[0]
    sections = dict(part.split("\n", 1) for part in alarmed.split("\n### ")[1:])
    assert set(sections) == alarms
    assert [name for name, text in sections.items() if not ("\n* Look: " in text and "\n* Do: " in text)] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_route_named_is_a_route(name: str) -> None:
    known = [(method, re.sub(r"\{[^}]*\}", "*", path)) for _, method, path in code_routes()]
    for quoted in code(name):
        match = re.match(r"(GET|POST|PUT|PATCH|DELETE)\s+(/[^\s?]*)", quoted)
        if match:
            assert any(method == match[1] and fits(match[2], path) for method, path in known), quoted
    for path in re.findall(r"\$URL(/[^\s\"?]*)", page(name)):
        assert any(fits(path, known_path) for _, known_path in known), path


def fits(path: str, pattern: str) -> bool:
    ours, theirs = path.rstrip("/").split("/"), pattern.split("/")
    return len(ours) == len(theirs) and all(their in ("*", our) for our, their in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_every_task_named_is_a_task_and_may_be_run_that_way(name: str) -> None:
    by_api = set(re.findall(r"/v1/admin/maintenance/(\w+)`", page(name))) - {"stats", "runs"}
    assert by_api <= set(task_names(by_api=True))
    assert set(re.findall(r"[?&]task=(\w+)", page(name))) <= set(TASKS)
    assert set(re.findall(r'"task": "(\w+)"', page(name))) <= set(TASKS)
    assert set(re.findall(r"the task `(\w+)`", page(name))) <= set(TASKS)


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_and_parameter_named_exists(name: str, template: Node) -> None:
    settings = {field.name.upper() for field in dataclasses.fields(Settings)}
    capitals = {word for word in code(name) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", word)}
    assert capitals - NO_SETTINGS <= settings
    for parameter, value in re.findall(r"`?\b([A-Z][a-z]+(?:[A-Z][a-z]+)+)=(\S*?)`", page(name)):
        assert parameter in template["Parameters"] or parameter in ("MinCapacity", "MaxCapacity"), (parameter, value)
    logical = set(re.findall(r"--logical-resource-id (\w+)|--resources-to-skip (\w+)", page(name)))
    assert {first or second for first, second in logical} <= set(template["Resources"])


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_the_aws_cli_has_these_options(name: str) -> None:
    services = {"cloudformation", "dynamodb", "lambda", "rds", "scheduler", "secretsmanager", "sqs"}
    blocks = re.findall(r"^```\n(.*?)^```", page(name), flags=re.DOTALL | re.MULTILINE)
    text = "\n".join([*blocks, *code(name)]).replace("\\\n", " ")
    commands = re.findall(r"\baws (\w+) ([a-z-]+)([^\n`#|]*)", text)
    assert commands
    for service, operation, options in commands:
        assert service in services
        api = Loader().load_service_model(service, "service-2")
        camel = "".join(word.capitalize() for word in operation.split("-")).replace("Db", "DB")
        assert camel in api["operations"], (service, operation)
        known = {flag(member) for member in members(api, camel)} | {"--query", "--output"}
        assert set(re.findall(r"(?<!\S)--[\w-]+", options)) <= known, (service, operation)


@pytest.mark.parametrize("name", PAGES)
def test_every_field_to_send_is_one_that_is_taken(name: str) -> None:
    document = json.loads((PROJECT / "docs" / "openapi.json").read_text())
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    taken = set().union(*(fields_of(one["requestBody"], document) for one in operations if "requestBody" in one))
    blocks = re.findall(r"^ *```\n(.*?)^ *```", page(name), flags=re.DOTALL | re.MULTILINE)
    sent = set(re.findall(r'"(\w+)":', "\n".join([*blocks, *code(name)])))
    assert sent - NO_FIELDS
    assert sent - NO_FIELDS <= taken


def fields_of(schema: Node, document: Node) -> set[str]:
    """Names of the properties in a schema and in those that it refers to."""
    found, left, seen = set[str](), [schema], set[str]()
    while left:
        for part in walk(left.pop()):
            if isinstance(part, dict) and isinstance(part.get("properties"), dict):
                found |= set(part["properties"])
            if isinstance(part, dict) and isinstance(part.get("$ref"), str) and part["$ref"] not in seen:
                seen.add(part["$ref"])
                left.append(document["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]])
    return found


def test_every_widget_named_is_on_the_dashboard() -> None:
    named = re.findall(r'dashboard\'s\s+"([^"]+)"', page("runbook"))
    body = infra("dashboard")["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert named
    assert set(named) <= set(re.findall(r'"title": "([^"]+)"', body))


def members(api: Any, operation: str) -> list[str]:
    shape = api["operations"][operation]["input"]["shape"]
    return list(api["shapes"][shape]["members"])


def flag(member: str) -> str:
    """As the CLI writes the name of an argument."""
    return "--" + xform_name(member, "-")


def test_every_message_to_filter_the_logs_by_is_written() -> None:
    conditions = re.findall(r"message (?:=|in) (\".*?\"|\[.*?\])", page("runbook"))
    messages = [message for condition in conditions for message in re.findall(r'"(.*?)"', condition)]
    sources = "".join(path.read_text() for path in (PROJECT / "layers/core/vecmeter").rglob("*.py"))
    assert messages
    assert [message for message in messages if f'("{message}"' not in sources] == []


def test_a_query_that_counts_requests_looks_at_one_of_the_two_lines_that_each_leaves() -> None:
    """The log line and that of the metrics have status, error and ids both: without it each would count twice."""
    text = "\n".join(re.sub(r"\s+", " ", part) for part in code("runbook"))
    text += page("metrics").split("Logs Insights")[1].split("\n## ")[0]
    queries = [line for line in text.splitlines() if "stats count(*)" in line]
    assert len(queries) > 3
    assert [query for query in queries if "ispresent(Latency)" not in query and "message =" not in query] == []


def test_every_error_named_has_its_code() -> None:
    codes = {error.code for error in descendants(VecmeterError)}
    named = re.findall(r"(?:503|429) `(\w+)`|error = \"(\w+)\"|soon `(\w+)`|with `(\w+_unavailable)`", page("runbook"))
    found = {next(filter(None, groups)) for groups in named}
    assert found
    assert found <= codes


def descendants(error: type[VecmeterError]) -> list[type[VecmeterError]]:
    return [error, *(child for one in error.__subclasses__() for child in descendants(one))]
