"""Log lines: what is written, what never is, and under threads."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import psycopg
import pydantic
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from vecmeter.errors import CollectionNotFoundError, DatabaseUnavailableError
from vecmeter.logs import configure_logging, describe_exception, request_scope
from vecmeter.telemetry import EmfMetrics

SECRET_DOCUMENT = "patient 4711 has a cold"

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Lines = pytest.CaptureFixture[str]


def emf_metrics(**options: Any) -> EmfMetrics:
    return EmfMetrics(namespace="Vecmeter", service="search", **options)


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
