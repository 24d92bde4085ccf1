"""Composes routers into an application: the same in each function and in the local server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vecmeter import __version__
from vecmeter.errors import VecmeterError, Violation
from vecmeter.http.edge import RequestEdge
from vecmeter.http.fields import Problem
from vecmeter.http.health import health
from vecmeter.http.problems import problem, problem_of
from vecmeter.runtime import Runtime
from vecmeter.telemetry import EmfMetrics

_PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description, "content": {"application/problem+json": {}}}
    for status, description in {
        400: "The body is not JSON",
        401: "No valid key",
        403: "The key lacks the role",
        404: "Missing, or not yours",
        409: "Exists already, or a condition does not hold",
        413: "Too large",
        422: "Does not validate",
        429: "A limit says no",
        503: "A part does not answer",
    }.items()
}
_HTTP_CODES = {400: "not_json", 404: "route_not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def create_app(runtime: Runtime, *routers: APIRouter, service: str, runs_alone: bool = False) -> FastAPI:
    """An application of some routers.

    ``service`` names it in logs and metrics. ``runs_alone``: there is never a second request at the same time, so
    blocking routes run in place (Lambda).
    """
    settings = runtime.settings
    app = FastAPI(title="Vecmeter", version=__version__, responses=_PROBLEM_RESPONSES, redirect_slashes=False)
    app.state.runtime = runtime
    app.state.runs_alone = runs_alone
    app.include_router(health)
    for router in routers:
        app.include_router(router, prefix=settings.api_prefix)
    app.add_exception_handler(VecmeterError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    emf = EmfMetrics(namespace=settings.metrics_namespace, service=service, enabled=settings.metrics_enabled)
    app.add_middleware(RequestEdge, emf=emf, max_body_bytes=settings.max_body_bytes)
    return app


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VecmeterError)
    return problem_of(error, request.state.request_id, request.app.state.runtime.clock())


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        return _simple_problem(request, 400, "The body is not JSON.")
    violations = [Violation(_path(detail["loc"]), _message(detail)) for detail in details]
    return problem(
        status=422,
        code="invalid_request",
        title="The request does not validate",
        detail=f"{violations[0].path}: {violations[0].message}.",
        request_id=request.state.request_id,
        violations=violations,
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "The body is not JSON." if error.status_code == 400 else str(error.detail)
    return _simple_problem(request, error.status_code, detail, dict(error.headers or {}))


def _simple_problem(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return problem(
        status=status,
        code=_HTTP_CODES.get(status, "http_error"),
        title=detail.rstrip("."),
        detail=detail,
        request_id=request.state.request_id,
        headers=headers,
    )


def _path(location: tuple[int | str, ...]) -> str:
    # The first part says where in the request: body, query, path. A missing body has nothing else.
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _message(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
