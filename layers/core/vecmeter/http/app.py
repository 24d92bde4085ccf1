"""Composes routers into an application: the same in each function and in the local server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from vecmeter import __version__
from vecmeter.errors import InvalidRequestError, VecmeterError, Violation, first_of
from vecmeter.http.edge import RequestEdge
from vecmeter.http.health import health
from vecmeter.http.openapi import describe
from vecmeter.http.pinecone.errors import envelope, is_pinecone
from vecmeter.http.problems import http_problem, problem, problem_of
from vecmeter.http.route import UnversionedRouter
from vecmeter.runtime import Runtime
from vecmeter.telemetry import EmfMetrics

if TYPE_CHECKING:
    from vecmeter.tracing import Tracing

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def create_app(runtime: Runtime, *routers: APIRouter, service: str, runs_alone: bool = False) -> FastAPI:
    """An application of some routers.

    ``service`` names it in logs and metrics. ``runs_alone``: there is never a second request at the same time, so
    blocking routes run in place (Lambda).
    """
    settings = runtime.settings
    # No pages of documentation: they would load their scripts from a third party.
    app = FastAPI(title="Vecmeter", version=__version__, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.state.runtime = runtime
    app.state.runs_alone = runs_alone
    app.state.threads = threads_for(settings.database_pool_size)
    app.include_router(health)
    for router in routers:
        app.include_router(router, prefix="" if isinstance(router, UnversionedRouter) else settings.api_prefix)
    app.add_exception_handler(VecmeterError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    emf = EmfMetrics(
        namespace=settings.metrics_namespace,
        service=service,
        enabled=settings.metrics_enabled,
        tracing=_tracing(settings.tracing_endpoint, service, inline=runs_alone),
    )
    app.add_middleware(RequestEdge, emf=emf, settings=settings, circuits=runtime.circuits)
    describe(app, settings)
    return app


def _tracing(endpoint: str, service: str, *, inline: bool) -> Tracing | None:
    if not endpoint:
        return None
    from vecmeter.tracing import Tracing  # only where it is on

    return Tracing(endpoint, service, inline=inline)


def threads_for(connections: int) -> int:
    """How many requests a server works on at once: as many as the ledger's client has connections. More would wait."""
    return 2 * connections + 8


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VecmeterError)
    state, now = request.state, request.app.state.runtime.clock()
    state.metrics.annotate(error=error.code)
    return _spoken(request, problem_of(error, state.request_id, now, state.limits, committed=state.committed))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if request.state.body_bytes == 0 and any(detail["loc"] == ("body",) for detail in details):
        empty = "The body is empty, and this route wants JSON."
        return _spoken(request, http_problem(400, request.state.request_id, empty))
    violations = [Violation(_path(detail["loc"]), _message(detail)) for detail in details]
    request.state.metrics.annotate(error=InvalidRequestError.code)
    found = problem(
        status=422,
        code="invalid_request",
        title="The request does not validate",
        detail=first_of(violations),
        request_id=request.state.request_id,
        violations=violations,
    )
    return _spoken(request, found)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    detail = str(error.detail) if error.status_code == 400 else None
    return _spoken(request, http_problem(error.status_code, request.state.request_id, detail, headers))


def _spoken(request: Request, problem: Response) -> Response:
    """A problem in the form that the clients of its path know."""
    path = request.scope["path"]
    return envelope(problem, path) if is_pinecone(path) else problem


def _allowed_methods(request: Request) -> list[str]:
    """What the path takes; the router itself names the methods of the first of its routes only."""
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def _path(location: tuple[int | str, ...]) -> str:
    # The first part says where in the request: body, query, path. A wrong body as a whole has nothing else.
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _message(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
