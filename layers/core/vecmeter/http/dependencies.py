"""A request as a route meets it: who calls, how it is admitted, how it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Annotated, Any, ParamSpec

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from starlette.responses import Response

from vecmeter.errors import AuthenticationError
from vecmeter.http.fields import MeteredAnswer, Usage
from vecmeter.http.rate_limit_headers import rate_limit_headers
from vecmeter.ledger.admission import Admission, Demand
from vecmeter.ledger.keys import Credential, parse_secret
from vecmeter.ledger.metering import Hold, Outcome
from vecmeter.ledger.model import Cost, Operation, Role
from vecmeter.runtime import Runtime
from vecmeter.telemetry import Metric, RequestMetrics

P = ParamSpec("P")

WRITES = frozenset({Operation.ADD, Operation.UPSERT})


class Call:
    """One request: its runtime, its credential, and what is known of it so far."""

    def __init__(self, request: Request, credential: Credential) -> None:
        self._request = request
        self._credential = credential
        self.runtime: Runtime = request.app.state.runtime
        self.runs_alone: bool = request.app.state.runs_alone
        self.metrics: RequestMetrics = request.state.metrics

    def admit(
        self, operation: Operation, role: Role, project_id: str | None = None, *, tokens: int = 0, vectors: int = 0
    ) -> Hold:
        """Admit the request: ``tokens`` of text in it and ``vectors`` it will write are counted before the work.

        Raises whatever says no: see ``Admissions.admit``.
        """
        micro_usd = self.runtime.ledger.price(operation, tokens=tokens, vectors=vectors)
        cost = Cost(requests=1, tokens=tokens, vectors=vectors, micro_usd=micro_usd)
        self.metrics.operation = operation.value
        with self.metrics.timed(Metric.LEDGER_TIME):
            hold = self.runtime.ledger.admit(self._demand(operation, role, project_id, cost))
        self._identify(hold.admission)
        return hold

    def authorize(self) -> Admission:
        """Let any valid key pass without counting the request: to look at one's own meter is free."""
        admission = self.runtime.ledger.authorize(self._demand(Operation.ADMIN, None, None, Cost(requests=0)))
        self._identify(admission)
        return admission

    def respond(
        self,
        hold: Hold,
        answer: BaseModel,
        *,
        status: int = 200,
        vectors: int = 0,
        collection: str | None = None,
        namespace: str | None = None,
        had_filter: bool = False,
    ) -> Response:
        """Settle the request with what it turned out to have done, and render its answer."""
        cost = hold.cost(vectors)
        if isinstance(answer, MeteredAnswer):
            answer.usage = Usage(
                requests=cost.requests,
                tokens=cost.tokens,
                vectors=cost.vectors,
                cost_usd=cost.micro_usd / 1_000_000,
            )
        response = render(answer, status, rate_limit_headers(hold.limits, self.runtime.clock()))
        outcome = Outcome(
            vectors=vectors,
            collection=collection,
            namespace=namespace,
            response_bytes=len(response.body),
            had_filter=had_filter,
        )
        with self.metrics.timed(Metric.LEDGER_TIME):
            kept = hold.settle(outcome)
        self._measure(cost, collection, kept)
        return response

    def _identify(self, admission: Admission) -> None:
        key = admission.key
        self.metrics.annotate(project_id=admission.project_id, user_id=key.user_id, api_key_id=key.api_key_id)

    def _measure(self, cost: Cost, collection: str | None, kept: bool) -> None:
        self.metrics.annotate(collection=collection)
        self.metrics.add(Metric.TOKENS, cost.tokens)
        self.metrics.add(Metric.COST, cost.micro_usd)
        if self.metrics.operation in WRITES:
            self.metrics.add(Metric.VECTORS_WRITTEN, cost.vectors)
        if not kept:
            self.metrics.add(Metric.USAGE_RECORD_FAILURES, 1)

    def _demand(self, operation: Operation, role: Role | None, project_id: str | None, cost: Cost) -> Demand:
        template = self._request.scope["route"].path.replace(":path}", "}")
        return Demand(
            request_id=self._request.state.request_id,
            credential=self._credential,
            role=role,
            operation=operation,
            endpoint=f"{self._request.method} {self.runtime.settings.api_prefix}{template}",
            project_id=project_id,
            request_bytes=self._request.state.body_bytes,
            cost=cost,
        )


def render(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = answer.model_dump_json(exclude_none=True).encode()
    return Response(content, status_code=status, headers=dict(headers or {}), media_type="application/json")


async def _call(request: Request) -> Call:
    return Call(request, parse_secret(_presented_secret(request.headers)))


CallDependency = Annotated[Call, Depends(_call)]


def blocking(endpoint: Callable[P, Response]) -> Callable[P, Awaitable[Response]]:
    """Make a route of a function that blocks on PostgreSQL and DynamoDB.

    A server runs it in a thread, so that it never keeps other requests waiting. A Lambda environment has one request
    at a time, so it runs in place, which saves the hop (docs/adr/0004). The function takes the Call as ``call``.
    """

    @wraps(endpoint)
    async def run(*arguments: P.args, **named: P.kwargs) -> Response:
        call: Any = named["call"]
        if call.runs_alone:
            return endpoint(*arguments, **named)
        return await run_in_threadpool(endpoint, *arguments, **named)

    return run


def _presented_secret(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    api_key = headers.get("api-key")
    if api_key:
        return api_key.strip()
    raise AuthenticationError
