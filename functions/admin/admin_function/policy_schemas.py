"""Policies and reports on limits: bodies and answers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vecmeter.errors import Violation
from vecmeter.http.checks import raise_if_any
from vecmeter.http.fields import Answer, Body, Text, changes, examples
from vecmeter.ledger.model import LimitState, Policy, Scope
from vecmeter.ledger.policies import BELOW, PROFILES, LimitReport
from vecmeter.ledger.quotas import MONEY, POLICY_LIMITS, STOCK_CODES, in_public_units
from vecmeter.vectors.stock import CollectionLimits

Allowance = Annotated[int, Field(ge=0, le=10**15)]


def _whole_micro_dollars(value: float) -> float:
    if Decimal(str(value)) % Decimal("0.000001"):
        raise ValueError("must be a whole number of micro-dollars")
    return value


Money = Annotated[
    float,
    Field(ge=0, le=10**9, description="US dollars, to the micro-dollar"),
    AfterValidator(_whole_micro_dollars),
]


class LimitsBody(Body):
    """Limits, all optional. Money in US dollars; rolling limits hold for every interval of their length."""

    daily_requests: Allowance | None = None
    monthly_requests: Allowance | None = None
    daily_tokens: Allowance | None = None
    monthly_tokens: Allowance | None = None
    searches_per_day: Annotated[Allowance | None, Field(description="in any 24 hours")] = None
    writes_per_day: Annotated[Allowance | None, Field(description="vectors written in any 24 hours")] = None
    requests_per_minute: Annotated[Allowance | None, Field(description="in any 60 seconds")] = None
    requests_per_hour: Annotated[Allowance | None, Field(description="in any 3,600 seconds")] = None
    requests_per_day: Annotated[Allowance | None, Field(description="in any 24 hours")] = None
    burst_requests: Annotated[
        Allowance | None, Field(description="requests in any hour that may go beyond requests_per_minute")
    ] = None
    max_concurrent: Annotated[Allowance | None, Field(description="requests in flight")] = None
    daily_cost_usd: Money | None = None
    monthly_cost_usd: Money | None = None
    max_vectors: Annotated[Allowance | None, Field(description="of a project")] = None
    max_storage_bytes: Annotated[Allowance | None, Field(description="of a project")] = None
    max_collections: Annotated[Allowance | None, Field(description="of a project")] = None
    max_vectors_per_collection: Allowance | None = None
    alert_threshold_pct: Annotated[int, Field(ge=1, le=100)] | None = None
    alert_repeat_hourly: bool | None = None
    profile: Annotated[Literal["assistant"] | None, Field(description="named limits, for what is not given here")] = (
        None
    )

    def values(self) -> dict[str, Any]:
        """What this body names, in the ledger's units."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        for name in MONEY & given.keys():
            if given[name] is not None:
                given[name] = int(Decimal(str(given[name])) * 1_000_000)
        return given


class DefaultsBody(Body):
    """Limits of scopes below that set nothing themselves."""

    user: LimitsBody | None = None
    project: LimitsBody | None = None
    key: LimitsBody | None = None


class PolicyBody(LimitsBody):
    """What a scope may use. Where a policy is changed, what is left out stays as it is and null goes back to what is
    inherited; where one is put, it is replaced."""

    model_config = changes({"daily_requests": 1000, "monthly_tokens": 5_000_000, "alert_threshold_pct": 90})

    active: bool | None = None
    notes: Annotated[Text, Field(max_length=200)] | None = None
    defaults: DefaultsBody | None = None

    def check(self, scope: Scope) -> None:
        """Raise InvalidRequestError for what a policy of this scope cannot say."""
        violations = []
        for name in sorted(self.defaults.model_fields_set) if self.defaults else ():
            if Scope(name) not in BELOW[scope]:
                violations.append(Violation(f"defaults.{name}", f"is no scope below {scope.value}"))
        if scope is Scope.KEY:
            stock = [name for name in STOCK_CODES.values() if getattr(self, name) is not None]
            violations += [Violation(name, "is a limit of projects, not of keys") for name in stock]
        raise_if_any(violations)

    def applied_to(self, policy: Policy, scope: Scope = Scope.KEY) -> Policy:
        """The policy with what this body names replaced; a profile fills in what it does not name."""
        values = {name: getattr(policy, name) for name in (*POLICY_LIMITS, "active", "notes", "profile", "defaults")}
        given = self.values()
        if "defaults" in given:
            given["defaults"] = self._defaults()
        profile = given.get("profile")
        if profile is not None:
            named = PROFILES[profile](scope)
            values |= {name: getattr(named, name) for name in POLICY_LIMITS if getattr(named, name) is not None}
            values["defaults"] = {**values["defaults"], **named.defaults}
        values |= given
        if values["active"] is None:
            values["active"] = True
        return Policy(**values)

    def _defaults(self) -> dict[Scope, Policy]:
        given = self.defaults or DefaultsBody()
        bodies = {Scope(name): getattr(given, name) for name in given.model_fields_set}
        return {scope: Policy(**body.values()) for scope, body in bodies.items() if body is not None}


class CollectionPolicyBody(Body):
    """Limits of one collection, whatever its project may keep. What is left out is not limited."""

    model_config = examples({"max_vectors": 100_000})

    max_vectors: Allowance | None = None
    max_storage_bytes: Allowance | None = None


class CollectionPolicyOut(Answer):
    model_config = examples({"scope": "collection", "id": "acme:notes", "max_vectors": 100_000})

    scope: str = "collection"
    id: str
    max_vectors: int | None = None
    max_storage_bytes: int | None = None


class QuotaOut(Answer):
    scope: str
    limit: float | int
    used: float | int
    remaining: float | int
    percentage: float
    exceeded: bool
    resets_at: datetime | None = None


_QUOTAS: dict[str, Any] = {
    "daily_requests": {
        "scope": "key",
        "limit": 1000,
        "used": 19,
        "remaining": 981,
        "percentage": 1.9,
        "exceeded": False,
        "resets_at": "2026-11-22T00:00:00Z",
    }
}


class LimitsOut(Answer):
    """Limits as they are set, or as they act."""

    daily_requests: int | None = None
    monthly_requests: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    searches_per_day: int | None = None
    writes_per_day: int | None = None
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None
    burst_requests: int | None = None
    max_concurrent: int | None = None
    daily_cost_usd: float | None = None
    monthly_cost_usd: float | None = None
    max_vectors: int | None = None
    max_storage_bytes: int | None = None
    max_collections: int | None = None
    max_vectors_per_collection: int | None = None
    alert_threshold_pct: int | None = None
    alert_repeat_hourly: bool | None = None
    profile: str | None = None


class PolicyOut(LimitsOut):
    """A scope's own policy, what holds for it with all that is inherited, and where each limit stands."""

    model_config = examples(
        {
            "scope": "project",
            "id": "acme",
            "active": True,
            "daily_requests": 1000,
            "defaults": {},
            "effective": {"daily_requests": 1000, "alert_threshold_pct": 80, "alert_repeat_hourly": False},
            "quotas": _QUOTAS | {"daily_requests": _QUOTAS["daily_requests"] | {"scope": "project"}},
        }
    )

    scope: str
    id: str
    active: bool
    notes: str | None = None
    defaults: dict[str, LimitsOut] = {}
    effective: LimitsOut
    quotas: dict[str, QuotaOut]


class QuotaReportOut(LimitsOut):
    """The limits that hold for a key, defaults filled in, and where each of them stands, its parents' included."""

    model_config = examples(
        {
            "api_key_id": "key_47Zpx437HfE",
            "user_id": "alice",
            "project_id": "acme",
            "active": True,
            "daily_requests": 1000,
            "alert_threshold_pct": 80,
            "alert_repeat_hourly": False,
            "quotas": _QUOTAS,
        }
    )

    api_key_id: str
    user_id: str
    project_id: str | None = None
    active: bool
    notes: str | None = None
    alert_threshold_pct: int
    quotas: dict[str, QuotaOut]


def collection_policy_out(id: str, limits: CollectionLimits) -> CollectionPolicyOut:
    return CollectionPolicyOut(id=id, max_vectors=limits.max_vectors, max_storage_bytes=limits.max_storage_bytes)


def quota_report(report: LimitReport) -> QuotaReportOut:
    return QuotaReportOut(
        api_key_id=report.scope_id,
        user_id=report.user_id or "",
        project_id=report.project_id,
        active=report.policy.active,
        notes=report.policy.notes,
        **_public(report.effective),
        quotas=_quotas(report),
    )


def policy_out(report: LimitReport) -> PolicyOut:
    policy = report.policy
    return PolicyOut(
        scope=report.scope.value,
        id=report.scope_id,
        active=policy.active,
        notes=policy.notes,
        **_own(policy),
        defaults={scope.value: LimitsOut(**_own(below)) for scope, below in policy.defaults.items()},
        effective=LimitsOut(**_public(report.effective)),
        quotas=_quotas(report),
    )


def _own(policy: Policy) -> dict[str, Any]:
    return _public({name: getattr(policy, name) for name in (*POLICY_LIMITS, "profile")})


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if value is None else in_public_units(name, value) for name, value in values.items()}


def _quotas(report: LimitReport) -> dict[str, QuotaOut]:
    """By name; a limit of a scope above has its scope before it."""
    return {
        state.name if state.scope == report.scope.value else f"{state.scope}_{state.name}": _quota_out(state)
        for state in report.states
    }


def _quota_out(state: LimitState) -> QuotaOut:
    return QuotaOut(
        scope=state.scope,
        limit=in_public_units(state.name, state.limit),
        used=in_public_units(state.name, state.used),
        remaining=in_public_units(state.name, state.remaining),
        percentage=round(100 * state.used / state.limit, 2) if state.limit else 100.0,
        exceeded=state.used >= state.limit,
        resets_at=state.resets_at,
    )
