"""What a cold start may load: the budget is a list of packages, which is the same on every machine and every day.

Its price in CPU is measured by benchmarks/imports.py (docs/performance.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.architecture.test_rules import SETTINGS

DATABASE = {"psycopg", "psycopg_binary", "typing_extensions"}
# Powertools brings jmespath along, and botocore's name without anything of it.
TELEMETRY = {"aws_lambda_powertools", "jmespath", "botocore"}
CIRCUITS_AND_CACHES = {"pybreaker", "cachetools"}
# FastAPI brings the interfaces of OpenTelemetry along.
WEB = {
    "fastapi",
    "starlette",
    "anyio",
    "opentelemetry",
    "pydantic",
    "pydantic_core",
    "annotated_doc",
    "annotated_types",
    "typing_inspection",
    "mangum",
}
# Lambda's runtime has it loaded before us.
RUNTIME = {"snapshot_restore_py"}
EVERYWHERE = DATABASE | TELEMETRY | CIRCUITS_AND_CACHES | RUNTIME
BUDGETS = {
    "search": EVERYWHERE | WEB,
    "upsert": EVERYWHERE | WEB,
    "admin": EVERYWHERE | WEB,
    "maintenance": EVERYWHERE,
}
# Modules without a file, which extensions and the interpreter make.
LISTED = """
import {name}_function.handler, json, sys
loaded = {{name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__"}}
packages = {{name.partition(".")[0] for name, file in loaded.items() if file and "site-packages" in file}}
print(json.dumps([sorted(packages), sorted(loaded)]))
"""


# The size of all code that a statement loads beyond what the interpreter itself starts with.
WEIGHED = """
import marshal, sys
before = set(sys.modules)
{statement}
weight = 0
for module in [module for name, module in sys.modules.items() if name not in before]:
    spec = getattr(module, "__spec__", None)
    find = getattr(getattr(spec, "loader", None), "get_code", None)
    weight += len(marshal.dumps(code)) if find and (code := find(spec.name)) else 0
print(weight)
"""
UNAVOIDABLE = (
    "import psycopg",
    "import fastapi, mangum",
    "from vecmeter.ledger.wire import create_wire; create_wire(1)",
)


@cache
def loaded_by(name: str) -> tuple[set[str], set[str]]:
    """The installed packages and all modules that a function has loaded once it is ready for its first event."""
    done = subprocess.run(
        [sys.executable, "-c", LISTED.format(name=name)], env=SETTINGS, capture_output=True, text=True, check=True
    )
    packages, modules = json.loads(done.stdout.splitlines()[-1])
    return set(packages), set(modules)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_function_loads_no_package_beyond_its_budget(name: str) -> None:
    packages, _ = loaded_by(name)
    assert packages - BUDGETS[name] == set()
    assert {"psycopg", "aws_lambda_powertools"} <= packages


@pytest.mark.parametrize("name", BUDGETS)
def test_a_function_calls_aws_without_its_sdk_where_the_environment_has_the_credentials(name: str) -> None:
    _, modules = loaded_by(name)
    assert [module for module in modules if module.startswith(("botocore.", "boto3", "urllib3", "s3transfer"))] == []
    assert "vecmeter.ledger.wire" in modules


def test_nothing_of_a_task_or_an_admin_is_loaded_to_search() -> None:
    _, modules = loaded_by("search")
    assert {"admin_function", "upsert_function", "maintenance_function", "vecmeter.tasks"} & modules == set()


def weight_of(statement: str) -> int:
    """Bytes of code. Unlike CPU they are the same on a busy machine; extensions in C weigh nothing."""
    program = WEIGHED.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], env=SETTINGS, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_search_loads_little_more_than_the_parts_it_cannot_do_without() -> None:
    search = weight_of("import search_function.handler")
    assert search <= 1.1 * sum(map(weight_of, UNAVOIDABLE))
    # In one interpreter the parts share what they load: the bound that keeps our own code small.
    assert search <= 1.45 * weight_of("; ".join(UNAVOIDABLE))
