"""Health: whether the process answers, and whether what it needs does."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from vecmeter import __version__, deadline
from vecmeter.errors import UnavailableError
from vecmeter.http.dependencies import render
from vecmeter.http.fields import Answer, examples
from vecmeter.http.problems import problem
from vecmeter.runtime import Runtime
from vecmeter.vectors.maintenance import MINIMUM_PGVECTOR, is_supported

health = APIRouter(tags=["health"])

_ANSWER_SECONDS = 1.0


class Health(Answer):
    model_config = examples({"status": "ok", "version": __version__})

    status: str
    version: str


class Readiness(Health):
    model_config = examples(
        {
            "status": "ok",
            "version": __version__,
            "checks": {
                "postgresql": "ok",
                "pgvector": "0.8.6",
                "ledger": "ok",
                "database_circuit": "closed",
                "embedder_circuit": "closed",
                "ledger_circuit": "closed",
            },
        }
    )

    checks: dict[str, str]


@health.get("/health", response_model=Health, operation_id="health")
async def answers() -> Response:
    """Whether the process answers: no key, no database."""
    return render(Health(status="ok", version=__version__))


@health.get("/health/ready", response_model=Readiness, operation_id="ready", responses={503: {}})
async def ready(request: Request) -> Response:
    """Whether PostgreSQL, pgvector and the ledger answer, and how the circuits stand; 503 with what does not."""
    runtime: Runtime = request.app.state.runtime
    checks, failed = await run_in_threadpool(_check, runtime)
    if not failed:
        return render(Readiness(status="ok", version=__version__, checks=checks))
    return problem(
        status=503,
        code="not_ready",
        title="Not ready",
        detail=f"Not ready: {', '.join(failed)}.",
        request_id=request.state.request_id,
        extra={"checks": checks},
        headers={"Retry-After": "1"},
    )


def _check(runtime: Runtime) -> tuple[dict[str, str], list[str]]:
    checks: dict[str, str] = {}
    failed: list[str] = []
    # Time to connect and to ask, not a request's: checks come every few seconds, and would gather where one hangs.
    seconds = runtime.settings.database_connect_timeout_seconds + _ANSWER_SECONDS + deadline.ACCOUNTING_SECONDS
    try:
        # Past the circuit: what is asked here is the service. That it answers closes the circuit; were the check
        # refused, an instance that gets no requests because it is not ready would never see that it is again.
        with deadline.within(seconds):
            pgvector = runtime.database.look(
                lambda c: c.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
            )
        version = pgvector[0] if pgvector else None
        checks["postgresql"] = "ok"
        checks["pgvector"] = version or "missing: run the migrations"
        if not is_supported(version):
            failed.append("pgvector")
            wanted = ".".join(map(str, MINIMUM_PGVECTOR))
            checks["pgvector"] += f" (needs {wanted} or newer)"
    except UnavailableError as error:
        checks["postgresql"] = error.detail
        failed.append("postgresql")
    try:
        runtime.table.ping()
        checks["ledger"] = "ok"
    except UnavailableError as error:
        checks["ledger"] = error.detail
        failed.append("ledger")
    checks |= {f"{name}_circuit": state for name, state in runtime.circuits.states().items()}
    return checks, failed
