"""Metrics: what is written, what never is, and under threads."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools.metrics.provider import cold_start

from vecmeter.logs import configure_logging, request_scope
from vecmeter.telemetry import EmfMetrics, Metric

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Lines = pytest.CaptureFixture[str]


def emf_metrics(**options: Any) -> EmfMetrics:
    return EmfMetrics(namespace="Vecmeter", service="search", **options)


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "is_cold_start", False)


def test_a_request_writes_one_emf_line(capsys: Lines) -> None:
    request = emf_metrics().request("search")
    request.annotate(project_id="proj_1", user_id="user_1", api_key_id="key_1", collection="docs")
    request.annotate(project_id=None)
    request.add(Metric.DATABASE_TIME, 2.5)
    request.add(Metric.DATABASE_TIME, 1.5)
    with request_scope("req-1"):
        request.finish(method="POST", route="/v1/search", status=200, duration_ms=12.34567)
    (line,) = capsys.readouterr().out.splitlines()
    emf = json.loads(line)
    directive = emf.pop("_aws")["CloudWatchMetrics"]
    assert directive == [
        {
            "Namespace": "Vecmeter",
            "Dimensions": [["service", "operation"], ["service"]],
            "Metrics": [
                {"Name": "DatabaseTime", "Unit": "Milliseconds"},
                {"Name": "Requests", "Unit": "Count"},
                {"Name": "Latency", "Unit": "Milliseconds"},
                {"Name": "CpuTime", "Unit": "Milliseconds"},
                {"Name": "MemoryBytes", "Unit": "Bytes"},
            ],
        }
    ]
    assert 0 <= emf.pop("CpuTime") < 1000
    assert 10e6 < emf.pop("MemoryBytes") < 10e9
    assert emf == {
        "service": "search",
        "operation": "search",
        "project_id": "proj_1",
        "user_id": "user_1",
        "api_key_id": "key_1",
        "collection": "docs",
        "status": 200,
        "request_id": "req-1",
        "DatabaseTime": 4.0,
        "Requests": 1,
        "Latency": 12.346,
    }


@pytest.mark.parametrize(
    ("status", "refusals", "errors"),
    [
        (200, None, None),
        (404, None, None),
        (422, None, None),
        (401, 1, None),
        (403, 1, None),
        (429, 1, None),
        (500, None, 1),
        (501, None, None),
        (503, None, 1),
    ],
)
def test_the_outcome_is_counted(capsys: Lines, status: int, refusals: int | None, errors: int | None) -> None:
    emf_metrics().request().finish(method="GET", route="/", status=status, duration_ms=1)
    emf = json.loads(capsys.readouterr().out)
    assert (emf.get("Refusals"), emf.get("Errors")) == (refusals, errors)
    assert emf["operation"] == "unknown"


def test_tenants_are_never_dimensions(capsys: Lines) -> None:
    request = emf_metrics().request("upsert")
    tenant = {"project_id": "p", "user_id": "u", "api_key_id": "k", "collection": "c"}
    request.annotate(**tenant)
    for metric in Metric:
        request.add(metric, 1)
    request.flush()
    emf = json.loads(capsys.readouterr().out)
    (directive,) = emf["_aws"]["CloudWatchMetrics"]
    assert {name for names in directive["Dimensions"] for name in names} == {"service", "operation"}
    assert {metric["Name"] for metric in directive["Metrics"]} == {metric.label for metric in Metric}
    assert tenant.items() <= emf.items()


def test_nothing_is_written_twice_nor_without_metrics_nor_when_off(capsys: Lines) -> None:
    request = emf_metrics().request("search")
    request.flush()
    request.add(Metric.TOKENS, 3)
    request.flush()
    request.flush()
    off = emf_metrics(enabled=False).request("search")
    off.add(Metric.TOKENS, 3)
    off.flush()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_block_is_timed_even_when_it_fails(capsys: Lines) -> None:
    ticks = iter([10.0, 10.25])
    request = emf_metrics().request("search")
    with pytest.raises(KeyError), request.timed(Metric.SEARCH_TIME, clock=lambda: next(ticks)):
        raise KeyError
    request.flush()
    assert json.loads(capsys.readouterr().out)["SearchTime"] == 250


@pytest.mark.parametrize(("cold", "counts"), [(True, [1, None, None]), (False, [None, None, None])])
def test_only_the_first_request_of_a_process_is_a_cold_start(
    capsys: Lines, monkeypatch: pytest.MonkeyPatch, cold: bool, counts: list[int | None]
) -> None:
    # Powertools' flag: it is False from the start with provisioned concurrency.
    monkeypatch.setattr(cold_start, "is_cold_start", cold)
    metrics = emf_metrics()
    for _ in range(3):
        request = metrics.request("search")
        request.add(Metric.TOKENS, 1)
        request.flush()
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line).get("ColdStarts") for line in lines] == counts


def test_requests_in_threads_do_not_mix(capsys: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "is_cold_start", True)
    metrics = emf_metrics()
    configure_logging("INFO", "json", "search")
    barrier = threading.Barrier(16)

    def serve(number: int) -> None:
        if number < 16:
            barrier.wait()
        with request_scope(f"req-{number}"):
            request = metrics.request(f"operation-{number % 3}")
            request.annotate(api_key_id=f"key-{number}")
            for _ in range(number % 7):
                request.add(Metric.TOKENS, number)
            logging.getLogger("vecmeter.test").info("working on %d", number)
            request.finish(method="GET", route="/", status=200, duration_ms=number)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(serve, range(800)))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    emf = {line["request_id"]: line for line in lines if "_aws" in line}
    logs = [line for line in lines if "_aws" not in line]
    assert (len(lines), len(emf), len(logs)) == (3 * 800, 800, 2 * 800)
    assert sum("ColdStarts" in line for line in emf.values()) == 1
    for number in range(800):
        line = emf[f"req-{number}"]
        assert line["operation"] == f"operation-{number % 3}"
        assert line["api_key_id"] == f"key-{number}"
        assert line["Latency"] == number
        assert line.get("Tokens", 0) == number * (number % 7)
    for line in logs:
        number = line["request_id"].removeprefix("req-")
        assert line["message"] in (f"working on {number}", "GET / 200")
        assert line.get("api_key_id") in (None, f"key-{number}")


def test_importing_it_loads_no_heavy_module() -> None:
    script = """
import sys
import vecmeter.telemetry
heavy = {"boto3", "botocore.client", "botocore.session", "psycopg", "fastapi", "pydantic", "numpy", "asyncio",
         "aws_xray_sdk", "aws_lambda_powertools.event_handler"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_documentation_lists_every_metric() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| (\w+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [(label, unit) for label, unit, _ in rows] == [(metric.label, metric.unit) for metric in Metric]
    assert all(len(meaning) > 10 for _, _, meaning in rows)
