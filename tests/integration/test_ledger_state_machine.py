"""Random histories of two instances under faults, against a model that keeps every request.

The model does not predict which of two racing things wins; it knows for each request the amounts it may stand with,
and from those the least and the most that can have been used. While nothing is in doubt the two are equal, and every
decision is predicted.

LEDGER_EXAMPLES sets how many histories are tried (40), LEDGER_STEPS how long each is (40). LEDGER_SHRINK=0 shows a
failing history as it was found.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import NOON, Instance, ManualClock, never_open, open_instance, totals, wire_to
from vecmeter.errors import (
    AuthenticationError,
    CostExceedsLimitError,
    LedgerUnavailableError,
    LimitExceededError,
)
from vecmeter.ledger.admission import SETTLE_ATTEMPTS
from vecmeter.ledger.holds import SEAL_LIFE
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.metering import Hold, Outcome
from vecmeter.ledger.model import Cost, Operation, Policy, Scope, Status
from vecmeter.ledger.quotas import METERS, QUOTAS, Window
from vecmeter.ledger.table import Table
from vecmeter.settings import Settings

EXAMPLES, STEPS = int(os.environ.get("LEDGER_EXAMPLES", "40")), int(os.environ.get("LEDGER_STEPS", "40"))
SHRINK = os.environ.get("LEDGER_SHRINK", "1") == "1"
HOLD_LIFE = timedelta(seconds=60)
NOTHING = Cost(requests=0)
METERS_OF = {window: [meter for meter in METERS if meter.window is window] for window in Window}

NETWORK = (Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.TIMED_OUT, Fault.THROTTLED, Fault.SERVER_ERROR)
DEATHS = (Fault.DIES_BEFORE, Fault.DIES_AFTER)
FAULTS = st.one_of(
    st.just([]),
    st.lists(st.sampled_from([None, None, *NETWORK]), max_size=6),
    st.lists(st.sampled_from([None, None, *NETWORK, *DEATHS]), max_size=4),
)
# Most limits are out of the way, and the others soon reached.
REQUESTS = st.sampled_from([None] * 8 + [3, 5, 8, 16, 30, 0])
TOKENS = st.sampled_from([None] * 8 + [20, 40, 60, 100, 300, 0])
POLICIES = st.builds(
    Policy,
    daily_requests=REQUESTS,
    monthly_requests=REQUESTS,
    daily_tokens=TOKENS,
    monthly_tokens=TOKENS,
    daily_cost_usd=st.sampled_from([None] * 8 + [20, 60, 200]),
    requests_per_minute=st.sampled_from([2, 5, 20]),
    max_concurrent=st.sampled_from([1, 3, 50]),
)
# Of one that keys share more is to be seen when it is reached.
SHARED_POLICIES = st.builds(
    Policy, daily_requests=st.sampled_from([None, 3, 8, 16, 30]), daily_tokens=st.sampled_from([None, 20, 60, 100, 300])
)
# Most of it happens to one key, which is never revoked.
WHO = st.sampled_from([0, 0, 0, 1])
WHERE = st.integers(0, 1)
COSTS = st.sampled_from([0, 1, 5, 5, 20, 101])
OPERATIONS = st.sampled_from([Operation.SEARCH, Operation.UPSERT])
VECTORS = st.sampled_from([0, 3, 50])
OTHERS = (
    *("time passes",) * 4,
    *("die at work", "late calls arrive", "start anew", "change policy", "change the project's policy"),
)
MINUTE = timedelta(seconds=60)
STEPS_OF_TIME = st.sampled_from(
    [
        timedelta(milliseconds=1),
        timedelta(seconds=30),
        HOLD_LIFE + timedelta(milliseconds=1),
        timedelta(minutes=5),
        SEAL_LIFE + timedelta(seconds=1),
        timedelta(hours=7),
        "before midnight",
        "midnight",
        "before the month ends",
        "month",
    ]
)


@dataclass
class Request:
    """One request as the model knows it: the amounts it may be counted with, and the states its record may have."""

    request_id: str
    started_at: datetime
    reserved: Cost
    possible: list[Cost]
    statuses: set[Status]
    hold: Hold | None = None

    def least(self, meter: Any) -> int:
        return min(meter.of(cost) for cost in self.possible)

    def most(self, meter: Any) -> int:
        return max(meter.of(cost) for cost in self.possible)


@dataclass
class Tenant:
    """A key and all that was ever asked with it. ``paced``: it has limits per minute and in flight, always."""

    key: CreatedKey
    policy: Policy
    paced: bool
    revoked: bool = False
    requests: list[Request] = field(default_factory=list)

    def within(self, meter: Any, now: datetime) -> list[Request]:
        return [request for request in self.requests if meter.counter(request.started_at) == meter.counter(now)]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, faults: FaultyClient, ledger_settings: Settings) -> None:
        super().__init__()
        self.faults, self.settings, self.clock = faults, ledger_settings, ManualClock()
        client: Any = faults
        self.table = Table(client, ledger_settings.table_name, circuit=never_open(), pause=lambda _: None)
        self.instances = [self.fresh(), self.fresh()]
        self.tenants: list[Tenant] = []
        self.touched: list[Tenant] = []  # since the last look at their items
        self.oldest_late = NOON
        self.undisturbed = True

    def fresh(self) -> Instance:
        return open_instance(self.table, self.settings, self.clock)

    @initialize(
        policies=st.lists(POLICIES, min_size=2, max_size=2),
        shared=SHARED_POLICIES,
        paced=st.tuples(*[st.booleans()] * 2),
    )
    def begin(self, policies: list[Policy], shared: Policy, paced: tuple[bool, bool]) -> None:
        self.faults.recover()
        self.faults.discard()
        instance = self.instances[0]
        self.project_id = f"project-{uuid.uuid4().hex[:8]}"
        instance.policies.create_project(project_id=self.project_id, user_id="user-1", name=None)
        for drawn, is_paced in zip(policies, paced, strict=True):
            policy = _paced(drawn, paced=is_paced)
            created = instance.policies.create_key(
                user_id="user-1", project_id=self.project_id, roles=("search", "write"), policy=policy
            )
            self.tenants.append(Tenant(created, policy, is_paced))
        self.share(shared)

    def share(self, policy: Policy) -> None:
        self.instances[0].policies.change(Scope.PROJECT, self.project_id, lambda _: policy)
        self.shared = policy

    # What happens: few rules, so that half of all steps are requests: what else may happen shares one.

    @rule(who=WHO, where=WHERE, tokens=COSTS, operation=OPERATIONS, faults=FAULTS)
    def admit(self, who: int, where: int, tokens: int, operation: Operation, faults: list[Fault | None]) -> None:
        self.ask(who, where, tokens, operation, faults)

    @rule(who=WHO, where=WHERE, tokens=COSTS, operation=OPERATIONS, faults=FAULTS, succeeds=st.booleans(), later=FAULTS)
    def request(
        self,
        *,
        who: int,
        where: int,
        tokens: int,
        operation: Operation,
        faults: list[Fault | None],
        succeeds: bool,
        later: list[Fault | None],
    ) -> None:
        request = self.ask(who, where, tokens, operation, faults)
        if request is not None:
            self.end(request, succeeds, tokens, later)

    def ask(
        self, who: int, where: int, tokens: int, operation: Operation, faults: list[Fault | None]
    ) -> Request | None:
        tenant, instance = self.tenants[who], self.instances[where]
        self.touched.append(tenant)
        demand = instance.demand(tenant.key, tokens=tokens, operation=operation)
        request = Request(demand.request_id, self.clock(), demand.cost, [demand.cost], {Status.UNKNOWN})
        try:
            with self.faulty(faults):
                request.hold = instance.ledger.admit(demand)
        except AuthenticationError:
            assert tenant.revoked
        except CostExceedsLimitError:
            limits = [*self.limits(tenant, demand.cost), *self.shared_limits(demand.cost)]
            assert any(limit and amount > limit for _, limit, amount in limits)
        except LimitExceededError as refusal:
            self.check_refusal(tenant, demand.cost, refusal)
            if Fault.TIMED_OUT in faults and sum(fault is not None for fault in faults) > SETTLE_ATTEMPTS:
                # A copy is on its way, and the seal against it may have failed as well.
                request.possible.append(NOTHING)
                tenant.requests.append(request)
        except (LedgerUnavailableError, ProcessDied) as failure:
            # Counted or not, now or by a copy that is still on its way.
            request.possible.append(NOTHING)
            tenant.requests.append(request)
            self.restart_if_dead(where, failure)
        else:
            assert not tenant.revoked
            self.check_admission(tenant, demand.cost)
            tenant.requests.append(request)
            return request
        return None

    @precondition(lambda self: self.held())
    @rule(number=st.integers(0, 20), succeeds=st.booleans(), vectors=VECTORS, faults=FAULTS)
    def finish(self, number: int, succeeds: bool, vectors: int, faults: list[Fault | None]) -> None:
        self.end(self.held()[number % len(self.held())], succeeds, vectors, faults)

    def end(self, request: Request, succeeds: bool, vectors: int, faults: list[Fault | None]) -> None:
        hold, request.hold = request.hold, None
        assert hold is not None
        self.touched = [*self.tenants]
        actual = hold.cost(vectors) if succeeds else Cost(requests=1)
        late = self.clock() - request.started_at > HOLD_LIFE
        complete = False
        try:
            with self.faulty(faults):
                complete = hold.settle(Outcome(vectors=vectors)) if succeeds else bool(hold.__exit__(None, None, None))
        except ProcessDied as death:
            self.restart_if_dead(0, death)
        known = {Status.SUCCESS if succeeds else Status.FAILURE}
        clean = not any(faults) and not late
        request.possible = [actual] if clean else [actual, request.reserved]
        request.statuses = known if clean or complete else {*known, Status.UNKNOWN}

    @rule(
        who=WHO,
        where=WHERE,
        policy=POLICIES,
        shared=SHARED_POLICIES,
        what=st.sampled_from([*OTHERS, *OTHERS, "revoke"]),
        step=STEPS_OF_TIME,
    )
    def something_else(
        self, who: int, where: int, policy: Policy, shared: Policy, what: str, step: timedelta | str
    ) -> None:
        tenant, instance = self.tenants[who], self.instances[where]
        api_key_id = tenant.key.key.api_key_id
        if what == "time passes":
            self.wait(step)
            self.touched = [*self.tenants]
        elif what == "die at work" and self.held():
            self.held()[-1].hold = None
        elif what == "late calls arrive":
            self.faults.deliver()
            self.touched = [*self.tenants]
        elif what == "start anew":
            self.instances[where] = self.fresh()
        elif what == "change policy":
            with self.faulty([Fault.LOST_ANSWER, None, Fault.LOST_ANSWER]):
                policy = _paced(policy, paced=tenant.paced)
                instance.keys.change_policy(api_key_id, lambda _: policy)
            tenant.policy = policy
        elif what == "change the project's policy":
            self.share(shared)
        elif what == "revoke" and who != 0:
            instance.keys.revoke(api_key_id)
            tenant.revoked = True

    def wait(self, step: timedelta | str) -> None:
        now = self.clock()
        if isinstance(step, timedelta):
            then = now + step
        else:
            then = (Window.DAY if "midnight" in step else Window.MONTH).end(now)
            then -= timedelta(milliseconds=1) if "before" in step else timedelta(0)
        if then - self.oldest_late > SEAL_LIFE:
            self.faults.deliver()  # the last moment at which they can: their signatures expire
        self.clock.now = max(now, then)

    # What must hold

    @invariant()
    def counters_lie_between_the_least_and_the_most(self) -> None:
        for tenant in self.touched:
            item, now = self.instances[0].item(tenant.key), self.clock()
            holds = [name for name, value in item.items() if name[0] == "h" and value[0] != "-"]
            assert item.get("n", 0) == len(holds)
            for quota in QUOTAS:
                found, asked = item.get(quota.meter.counter(now), 0), tenant.within(quota.meter, now)
                least, most = (sum(getattr(r, end)(quota.meter) for r in asked) for end in ("least", "most"))
                assert least <= found <= most, quota.name
        self.touched.clear()

    def teardown(self) -> None:
        """All that is in flight dies, all copies arrive, the dead are accounted for: then everything is exact."""
        self.faults.recover()
        self.faults.deliver()
        self.clock.advance(seconds=61)
        for tenant in self.tenants:
            self.fresh().ledger.bury(tenant.key.key.api_key_id)
            assert self.fresh().ledger.bury(tenant.key.key.api_key_id) == 0
            self.check_exact(tenant)
        self.check_project()

    def check_project(self) -> None:
        """What the project's limits call used is what its keys used; more only where a fault lost some on the way."""
        instance, now = self.fresh(), self.clock()
        for state in instance.policies.report(Scope.PROJECT, self.project_id).states:
            quota = next(quota for quota in QUOTAS if quota.name == state.name)
            used = sum(instance.item(tenant.key).get(quota.meter.counter(now), 0) for tenant in self.tenants)
            assert state.used >= used
            assert state.used == used or not self.undisturbed

    def check_exact(self, tenant: Tenant) -> None:
        instance = self.fresh()
        records = [r for r in instance.records(tenant.key) if r.status is not Status.QUOTA_EXCEEDED]
        # One that was admitted after the dead had been buried has a mark, and an id, of its own: longer by a digit.
        by_id = {record.request_id[:16]: record for record in records}
        assert len(by_id) == len(records), "one record per request"
        assert by_id.keys() <= {request.request_id for request in tenant.requests}, "none of a refused request"
        for request in tenant.requests:
            record = by_id.get(request.request_id)
            if record is None:
                assert NOTHING in request.possible
                continue
            amounts = (record.requests, record.tokens, record.micro_usd)
            assert amounts in [(c.requests, c.tokens, c.micro_usd) for c in request.possible]
            assert record.status in request.statuses
        assert instance.in_flight(tenant.key) == 0
        item = instance.item(tenant.key)
        for window in Window:
            start = window.start(self.clock())
            for moment in (start, start - timedelta(days=1)):
                inside = [r for r in records if window.start(r.started_at) == window.start(moment)]
                found = {m.amount: item.get(m.counter(moment), 0) for m in METERS_OF[window]}
                assert found == totals(inside), "the counters are the sum of the records"

    # Help

    def held(self) -> list[Request]:
        return [request for tenant in self.tenants for request in tenant.requests if request.hold]

    def limits(self, tenant: Tenant, cost: Cost) -> Iterable[tuple[Any, int, int]]:
        for quota in QUOTAS:
            own = getattr(tenant.policy, quota.name)
            limit = getattr(self.settings, f"default_{quota.name}", None) if own is None else own
            if limit is not None:
                yield quota, limit, quota.meter.of(cost)

    def shared_limits(self, cost: Cost) -> Iterable[tuple[Any, int, int]]:
        for quota in QUOTAS:
            limit = getattr(self.shared, quota.name)
            if limit is not None:
                yield quota, limit, quota.meter.of(cost)

    def check_admission(self, tenant: Tenant, cost: Cost) -> None:
        """Never over: by the key's own limits, in any minute, in flight, and together with the project's other keys."""
        now = self.clock()
        for quota, limit, amount in self.limits(tenant, cost):
            least = sum(r.least(quota.meter) for r in tenant.within(quota.meter, now))
            assert not amount or least + amount <= limit, quota.name
        for quota, limit, amount in self.shared_limits(cost):
            asked = [request for each in self.tenants for request in each.within(quota.meter, now)]
            assert not amount or sum(r.least(quota.meter) for r in asked) + amount <= limit, f"project {quota.name}"
        if tenant.paced:
            assert tenant.policy.requests_per_minute is not None
            assert tenant.policy.max_concurrent is not None
            within = [r for r in tenant.requests if now - r.started_at <= MINUTE]
            assert sum(r.least(METERS[0]) for r in within) < tenant.policy.requests_per_minute
            assert sum(r.hold is not None for r in within) < tenant.policy.max_concurrent

    def check_refusal(self, tenant: Tenant, cost: Cost, refusal: LimitExceededError) -> None:
        """Never without need; and it says what it measured."""
        assert refusal.violated
        limits = [*self.limits(tenant, cost), *self.shared_limits(cost)]
        assert not any(amount > limit > 0 for _, limit, amount in limits), "is not to be tried again"
        for quota, limit, amount in self.shared_limits(cost):
            if self.undisturbed and any(p.scope == "project" and p.name == quota.name for p in refusal.violated):
                asked = [request for each in self.tenants for request in each.within(quota.meter, self.clock())]
                assert sum(r.most(quota.meter) for r in asked) + amount > limit, "the project's limit was used up"
        for quota, limit, amount in self.limits(tenant, cost):
            for policy in refusal.violated:
                if policy.name == quota.name and policy.scope == "key":
                    most = sum(r.most(quota.meter) for r in tenant.within(quota.meter, self.clock()))
                    assert most + amount > limit
                    assert policy.limit == limit
                    assert policy.used + amount > limit
                    assert policy.resets_at == quota.meter.window.end(self.clock())

    def faulty(self, faults: list[Fault | None]) -> Any:
        self.undisturbed &= not any(faults)
        if Fault.TIMED_OUT in faults and not self.faults.late:
            self.oldest_late = self.clock()
        return self.faults.failing(*faults)

    def restart_if_dead(self, where: int, failure: BaseException) -> None:
        if isinstance(failure, ProcessDied):
            self.instances[where] = self.fresh()


def _paced(policy: Policy, *, paced: bool) -> Policy:
    return policy if paced else replace(policy, requests_per_minute=None, max_concurrent=None)


@pytest.mark.timeout(0)
def test_no_history_of_faults_admits_too_much_or_loses_or_doubles_a_request(
    dynamodb_endpoint: str, table_name: str
) -> None:
    client = wire_to(dynamodb_endpoint)
    ledger_settings = Settings.from_environment(
        {"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": table_name, "OUTAGE_READ_SECONDS": "0"}
    )
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: LedgerMachine(FaultyClient(client), ledger_settings),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=[phase for phase in Phase if SHRINK or phase not in (Phase.shrink, Phase.explain)],
            suppress_health_check=list(HealthCheck),
        ),
    )
    client.close()
