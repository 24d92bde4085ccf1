"""Metrics and logs: what is written, what never is, and under threads."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pydantic
import pytest
from aws_lambda_powertools.metrics.provider import cold_start
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from vecmeter.errors import CollectionNotFoundError, DatabaseUnavailableError
from vecmeter.telemetry import (
    EmfMetrics,
    Metric,
    configure_logging,
    describe_exception,
    request_scope,
)

SECRET_DOCUMENT = "patient 4711 has a cold"
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

Lines = pytest.CaptureFixture[str]


def emf_metrics(**options: Any) -> EmfMetrics:
    return EmfMetrics(namespace="Vecmeter", service="search", **options)


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "is_cold_start", False)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("vecmeter")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


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
            ],
        }
    ]
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


def test_the_request_id_follows_tasks_and_worker_threads(capsys: Lines) -> None:
    configure_logging("INFO", "json", "search")
    log = logging.getLogger("vecmeter.test")

    async def serve(number: int) -> None:
        with request_scope(f"req-{number}"):
            await asyncio.sleep(0)
            await asyncio.to_thread(log.info, "%d", number)

    async def main() -> None:
        await asyncio.gather(*(serve(number) for number in range(50)))
        log.info("outside")

    asyncio.run(main())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "request_id" not in lines.pop()
    assert len(lines) == 50
    assert all(line["request_id"] == f"req-{line['message']}" for line in lines)
    assert not any("taskName" in line for line in lines)


def test_the_line_of_a_request_in_json(capsys: Lines) -> None:
    configure_logging("INFO", "json", "search")
    request = emf_metrics(enabled=False).request("search")
    request.annotate(project_id="proj_1", api_key_id="key_1", user_id="user_1", collection="docs")
    with request_scope("req-1"):
        request.finish(method="POST", route="/v1/projects/{project}/search", status=503, duration_ms=1.5)
    (line,) = capsys.readouterr().out.splitlines()
    logged = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", logged.pop("timestamp"))
    assert re.fullmatch(r"vecmeter\.request\.finish:\d+", logged.pop("location"))
    assert logged.pop("version")
    assert logged == {
        "level": "ERROR",
        "service": "search",
        "message": "POST /v1/projects/{project}/search 503",
        "method": "POST",
        "route": "/v1/projects/{project}/search",
        "status": 503,
        "duration_ms": 1.5,
        "operation": "search",
        "project_id": "proj_1",
        "user_id": "user_1",
        "api_key_id": "key_1",
        "request_id": "req-1",
    }


def test_lines_for_a_terminal(capsys: Lines) -> None:
    configure_logging("INFO", "text", "search")
    with request_scope("req-1"):
        emf_metrics(enabled=False).request("health").finish(method="GET", route="/health", status=200, duration_ms=0.4)
        logging.getLogger("vecmeter.test").warning("two\nlines \x1b[31m and \ud800")
        try:
            raise OSError("disk full")
        except OSError:
            logging.getLogger("vecmeter.test").exception("failed")
    output = capsys.readouterr()
    assert output.out == ""
    first, second, third, *rest = output.err.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} INFO    vecmeter\.request GET /health 200 "
        r"duration_ms=0\.4 operation=health request_id=req-1",
        first,
    )
    assert second.endswith(r"two\x0alines \x1b[31m and \ud800 request_id=req-1")
    assert third.endswith("failed request_id=req-1 exception_name=OSError")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "builtins.OSError: disk full"


def test_a_message_stays_what_it_is_in_json(capsys: Lines) -> None:
    configure_logging("INFO", "json", "search")
    for message in ("half a pair: \ud83e", '{"looks": "like JSON"}', "17"):
        logging.getLogger("vecmeter.test").info(message)
        assert json.loads(capsys.readouterr().out)["message"] == message


def test_other_libraries_write_warnings_only(capsys: Lines) -> None:
    configure_logging("DEBUG", "json", "search")
    for name in ("botocore.endpoint", "psycopg", "urllib3"):
        logging.getLogger(name).debug("body: %s", SECRET_DOCUMENT)
        logging.getLogger(name).info("body: %s", SECRET_DOCUMENT)
    logging.getLogger("psycopg.pool").warning("reconnecting")
    logging.getLogger("vecmeter.test").debug("ours")
    messages = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]
    assert messages == ["reconnecting", "ours"]


def test_configuring_again_replaces_and_lambdas_own_handler_goes(capsys: Lines) -> None:
    class LambdaLoggerHandler(logging.StreamHandler[Any]):
        pass

    LambdaLoggerHandler.__module__ = "awslambdaric.bootstrap"
    logging.getLogger().addHandler(LambdaLoggerHandler())
    configure_logging("INFO", "text", "search")
    configure_logging("ERROR", "json", "search")
    logging.getLogger("vecmeter.test").info("not now")
    logging.getLogger("vecmeter.test").error("once")
    logging.getLogger("botocore").warning("not now")
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 1
    assert output.err == ""


def test_a_key_in_a_message_is_cut_out(capsys: Lines) -> None:
    secret = "vm_live_" + "a1B2" * 9 + "xyz"
    for fmt in ("json", "text"):
        configure_logging("INFO", fmt, "search")
        logging.getLogger("httpx").warning("GET /?key=%s", secret)
    output = capsys.readouterr()
    assert secret not in output.out + output.err
    assert "key=vm_live_***" in output.out
    assert "key=vm_live_***" in output.err


class Document(pydantic.BaseModel):
    vector: list[float]


def failures() -> dict[str, Any]:
    def parse() -> None:
        Document.model_validate({"vector": SECRET_DOCUMENT})

    def convert() -> None:
        float(SECRET_DOCUMENT)

    def look_up() -> None:
        raise KeyError(SECRET_DOCUMENT)

    def violate() -> None:
        raise psycopg.errors.InvalidTextRepresentation(f'invalid input syntax: "{SECRET_DOCUMENT}"')

    def misconnect() -> None:
        raise psycopg.ProgrammingError(f'missing "=" after "{SECRET_DOCUMENT}"')

    def misuse() -> None:
        raise ParamValidationError(report=f"value: {SECRET_DOCUMENT}")

    def wrap() -> None:
        try:
            convert()
        except ValueError as error:
            raise DatabaseUnavailableError("The database does not answer.") from error

    def handle() -> None:
        try:
            convert()
        except ValueError:
            raise RuntimeError("while handling")  # noqa: B904

    def group() -> None:
        try:
            convert()
        except ValueError as error:
            raise ExceptionGroup("several", [error]) from None

    def note() -> None:
        error = OSError("disk")
        error.add_note(SECRET_DOCUMENT)
        raise error

    return {f.__name__: f for f in (parse, convert, look_up, violate, misconnect, misuse, wrap, handle, group, note)}


@pytest.mark.parametrize("name", failures())
@pytest.mark.parametrize("fmt", ["json", "text"])
def test_exceptions_are_logged_without_values(capsys: Lines, name: str, fmt: str) -> None:
    configure_logging("INFO", fmt, "search")
    document = SECRET_DOCUMENT
    try:
        failures()[name]()
    except Exception:
        logging.getLogger("vecmeter.test").exception("failed")
    assert document
    output = capsys.readouterr()
    text = output.out + output.err
    assert SECRET_DOCUMENT not in text
    assert f"in {name}" in text
    assert "Traceback (most recent call last)" in text
    if fmt == "json":
        logged = json.loads(text)
        assert logged["exception_name"]
        assert "exception_notes" not in logged


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CollectionNotFoundError("There is no collection 'a'."), "There is no collection 'a'."),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (TypeError("'int' object is not iterable"), "'int' object is not iterable"),
        (
            psycopg.OperationalError('connection to server at "db", port 5432 failed'),
            'connection to server at "db", port 5432 failed',
        ),
        (psycopg.errors.UniqueViolation("Key (id)=(secret) exists"), "SQLSTATE 23505"),
        (EndpointConnectionError(endpoint_url="http://db"), 'Could not connect to the endpoint URL: "http://db"'),
        (
            ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutItem"),
            "An error occurred (AccessDeniedException) when calling the PutItem operation: no",
        ),
        (ValueError("secret"), "(withheld)"),
    ],
)
def test_messages_that_help_are_kept(error: Exception, told: str) -> None:
    assert describe_exception(error).splitlines()[-1].endswith(f": {told}")


def test_an_endless_chain_of_exceptions_ends() -> None:
    error = RuntimeError("0")
    for number in range(1, 100):
        after = RuntimeError(str(number))
        after.__cause__ = error
        error = after
    described = describe_exception(error)
    assert described.endswith("builtins.RuntimeError: 99")
    assert described.count("The direct cause of") == 8


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
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [(label, unit) for label, unit, _ in rows] == [(metric.label, metric.unit) for metric in Metric]
    assert all(len(meaning) > 10 for _, _, meaning in rows)
