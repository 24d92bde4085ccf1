"""A request as a route meets it: who calls, how it is admitted, how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from vecmeter.errors import MissingRoleError, PayloadTooLargeError
from vecmeter.http.fields import MeteredAnswer
from vecmeter.http.rate_limit_headers import rate_limit_headers
from vecmeter.ledger.demands import Admission, Demand
from vecmeter.ledger.metering import Hold, Outcome
from vecmeter.ledger.model import ApiKey, Cost, Operation, Role, Scope
from vecmeter.ledger.prices import PriceList
from vecmeter.runtime import Runtime
from vecmeter.telemetry import Metric, RequestMetrics
from vecmeter.vectors.model import Collection

P = ParamSpec("P")
T = TypeVar("T")

WRITES = frozenset({Operation.ADD, Operation.UPSERT})


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, rendered, and what the ledger is to be told."""

    response: Response
    outcome: Outcome
    cost: Cost


class Call:
    """One request: its runtime, its credential, and what is known of it so far."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.runtime: Runtime = request.app.state.runtime
        self.metrics: RequestMetrics = request.state.metrics

    def admit(
        self,
        operation: Operation,
        role: Role,
        project_id: str | None = None,
        *,
        tokens: int = 0,
        vectors: int = 0,
        searches: int = 1,
        in_own_project: bool = False,
    ) -> Hold:
        """Admit the request: ``tokens`` of text in it, ``vectors`` it will write and how many ``searches`` it is are
        counted before the work. ``in_own_project``: the route does not say the project; it is the key's.

        Raises whatever says no: see ``Admissions.admit``.
        """
        prices = self.runtime.ledger.current_prices()
        cost = Cost(
            tokens=tokens,
            vectors=vectors,
            micro_usd=prices.micro_usd(operation, tokens=tokens, vectors=vectors, searches=searches),
            searches=searches if operation is Operation.SEARCH else 0,
            writes=vectors if operation in WRITES else int(operation in (Operation.UPDATE, Operation.DELETE)),
        )
        self.metrics.operation = operation.value
        with self.metrics.timed(Metric.LEDGER_TIME, "admit"):
            hold = self.runtime.ledger.admit(
                self._demand(operation, role, project_id, cost, prices, in_own_project=in_own_project)
            )
        self._request.state.limits = hold.limits
        self._identify(hold.admission)
        return hold

    def admit_system_admin(self) -> Hold:
        """Admit a request that concerns every tenant. Raises MissingRoleError for any other key, uncounted."""
        self.authorize_system_admin()
        return self.admit(Operation.ADMIN, Role.ADMIN)

    def authorize_system_admin(self) -> None:
        """Let a system admin's key pass without counting the request. Raises MissingRoleError for any other key."""
        if not sees_everything(self.authorize(Role.ADMIN).key):
            raise MissingRoleError("This needs a key of a system admin.")

    def authorize(self, role: Role | None = None) -> Admission:
        """Let any valid key pass without counting the request: to look at one's own meter is free."""
        admission = self.runtime.ledger.authorize(self._demand(Operation.ADMIN, role, None, Cost(requests=0)))
        self._identify(admission)
        return admission

    def header(self, name: str) -> str:
        """A header of the request, empty where there is none."""
        return str(self._request.headers.get(name, ""))

    def use(self, project: str, collection: str, work: Callable[[Collection], T], *, fresh: bool = False) -> T:
        """Do ``work`` with the definition of a collection: see ``Collections.use``."""
        return self.runtime.collections.use(project, collection, work, fresh=fresh)

    def database(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do ``work``, which waits for PostgreSQL, on the clock."""
        with self.metrics.timed(Metric.DATABASE_TIME):
            return work(*arguments, **named)

    def respond(
        self,
        hold: Hold,
        answer: BaseModel | None,
        *,
        status: int = 200,
        vectors: int = 0,
        collection: str | None = None,
        namespace: str | None = None,
        had_filter: bool = False,
        cache: str | None = None,
    ) -> Response:
        """Settle the request with what it turned out to have done, and render its answer.

        Args:
            cache: how a cache served it: see ``Outcome``.

        Raises:
            PayloadTooLargeError: the answer to a read is beyond the limit; the read is then not billed.
        """
        reads = self._request.method == "GET" or hold.admission.demand.role is Role.SEARCH
        self._request.state.committed = not reads
        outcome = Outcome(
            vectors=vectors,
            collection=collection,
            namespace=namespace,
            had_filter=had_filter,
            cache=cache,
        )
        answered = self.render(hold, answer, status, outcome)
        limit, size = self.runtime.settings.max_response_bytes, answered.outcome.response_bytes
        if reads and size > limit:
            message = f"The answer would be {size} bytes long; at most {limit} are sent: ask for less."
            raise PayloadTooLargeError(message)
        return self.settle(hold, answered)

    def render(self, hold: Hold, answer: BaseModel | None, status: int, outcome: Outcome) -> Answered:
        """The answer as it will be sent, with what the request takes in it; nothing is settled yet."""
        cost = hold.cost(outcome.vectors)
        if isinstance(answer, MeteredAnswer):
            answer.bill(cost)
        response = render(answer, status, rate_limit_headers(hold.limits, self.runtime.clock()))
        return Answered(response, replace(outcome, response_bytes=len(response.body)), cost)

    def settle(self, hold: Hold, answered: Answered) -> Response:
        """Account for the request, whose work is done."""
        with self.metrics.timed(Metric.LEDGER_TIME, "settle"):
            kept = hold.settle(answered.outcome)
        self._measure(answered.cost, answered.outcome.collection, kept)
        return answered.response

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
        if failures := self.runtime.alerts.take_failures():
            self.metrics.add(Metric.ALERT_FAILURES, failures)
        if written := self.runtime.alerts.take_written():
            self.metrics.add(Metric.LIMIT_ALERTS, written.total())
            self.metrics.add(Metric.SYSTEM_LIMIT_ALERTS, written[Scope.SYSTEM])

    def _demand(
        self,
        operation: Operation,
        role: Role | None,
        project_id: str | None,
        cost: Cost,
        prices: PriceList | None = None,
        *,
        in_own_project: bool = False,
    ) -> Demand:
        return Demand(
            request_id=self._request.state.request_id,
            credential=self._request.state.credential,
            role=role,
            operation=operation,
            endpoint=f"{self._request.method} {self._request.state.template}",
            project_id=project_id,
            request_bytes=self._request.state.body_bytes,
            cost=cost,
            prices=prices,
            in_own_project=in_own_project,
        )


def render(answer: BaseModel | None, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with what the answer says; None: with an empty body."""
    content = answer.model_dump_json(exclude_none=True).encode() if answer is not None else b""
    return Response(content, status_code=status, headers=dict(headers or {}), media_type="application/json")


def sees_everything(key: ApiKey) -> bool:
    """Whether a key is a system admin's. One that is confined to a project stays in it, whoever owns it."""
    return key.is_system_admin and key.project_id is None


async def _call(request: Request) -> Call:
    return Call(request)


CallDependency = Annotated[Call, Depends(_call)]
