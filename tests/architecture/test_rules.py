"""Rules of the house that import-linter cannot express."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("layers/core/vecmeter", "functions", "infra/local/vecmeter_local", "sdk/src")
    for path in (ROOT / folder).rglob("*.py")
)
SETTINGS = {
    "DATABASE_URL": "postgresql://nowhere",
    "TABLE_NAME": "none",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}


def _modules_after(statement: str, environment: dict[str, str]) -> set[str]:
    program = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | environment, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    nodes = ast.walk(ast.parse("\n".join(lines)))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f.name for f in functions if f.end_lineno is not None and f.end_lineno - f.lineno >= 50] == []
    assert path.name != "utils.py"


def test_packages_export_nothing() -> None:
    written = [path for path in SOURCES if path.name == "__init__.py" and path.read_text().strip()]
    assert [str(path.relative_to(ROOT)) for path in written] == [
        "layers/core/vecmeter/__init__.py",  # the version
        "sdk/src/vecmeter_client/__init__.py",  # what its users import
        "sdk/src/vecmeter_client/cli/__init__.py",  # the command, which says what to install where click is missing
    ]


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "vecmeter_local" not in p.parts and p.name != "handler.py"], ids=str
)
def test_environment_is_read_by_functions_and_not_at_import(path: Path) -> None:
    tree = ast.parse(path.read_text())
    at_import = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert not any(
        isinstance(part, ast.Attribute) and part.attr in ("environ", "getenv")
        for node in at_import
        for part in ast.walk(node)
    )


IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys

OURS, LEFT_OUT = tuple(sys.argv[1].split(",")), sys.argv[2].split(",")

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.system"):
        raise AssertionError(f"{event} at import: {arguments}")
    if event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
        raise AssertionError(f"writes {arguments[0]} at import")

sys.addaudithook(refuse)
read = os.environ.__class__.__getitem__

def watched(self, name):
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in ("os", "collections.abc"):
        frame = frame.f_back
    caller = frame.f_globals.get("__name__", "") if frame else ""
    assert not caller.startswith(OURS), f"{caller} reads {name} at import"
    return read(self, name)

os.environ.__class__.__getitem__ = watched
for package in OURS:
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if found.name not in LEFT_OUT and not found.name.endswith(".handler"):
            importlib.import_module(found.name)
print("imported", len([name for name in sys.modules if name.startswith(OURS)]))
"""
OURS = ("vecmeter", "search_function", "upsert_function", "admin_function", "maintenance_function", "vecmeter_client")
# Those that run as they are imported, or need a framework that is not installed here.
LEFT_OUT = ("cli.__main__", "langchain", "llama_index", "_stores.llama_filters")


def test_importing_any_module_does_no_io_and_reads_no_environment() -> None:
    """With an empty environment; the handlers are the one place that reads it as they start."""
    left_out = [f"vecmeter_client.{name}" for name in LEFT_OUT]
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_EVERYTHING, ",".join(OURS), ",".join(left_out)],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in SOURCES if "vecmeter_local" not in path.parts and path.name != "handler.py"]
    assert int(done.stdout.split()[-1]) == len(files) - len(left_out)


@pytest.mark.parametrize("name", ["search", "upsert", "admin", "maintenance"])
def test_a_handler_needs_its_settings_and_names_what_is_missing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}_function.handler"], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "TABLE_NAME is not set" in done.stderr


def test_the_maintenance_function_loads_no_fastapi() -> None:
    loaded = _modules_after("import maintenance_function.handler", SETTINGS)
    assert not {"fastapi", "starlette", "pydantic", "mangum"} & loaded


@pytest.mark.parametrize("name", ["search", "upsert", "admin", "maintenance"])
def test_a_function_starts_without_what_only_servers_and_the_built_in_embedder_need(name: str) -> None:
    loaded = _modules_after(f"import {name}_function.handler", SETTINGS)
    assert not {"numpy", "wordllama", "tokenizers", "psycopg_pool", "uvicorn", "httpx"} & loaded


def test_statements_on_dynamodb_and_postgresql_stand_in_their_rooms() -> None:
    sql = re.compile(r"\b(SELECT .* FROM|INSERT INTO|DELETE FROM|UPDATE \w+ SET)\b")
    outside = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if "vectors" not in path.parts and "vecmeter_local" not in path.parts and sql.search(path.read_text())
    ]
    # readiness asks for pgvector's version
    assert outside == ["layers/core/vecmeter/http/health.py"]
