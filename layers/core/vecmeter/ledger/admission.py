"""Admission: one conditional update on the key's item says who it is, whether it may, and counts it.

The item carries the configuration (pinned by its version ``v``), one counter per meter and window, and a hold per
request in flight. A hold is the mark that makes a repeated admission harmless: after a lost answer the repetition
fails on ``attribute_not_exists`` and shows the mark, which is the proof that the first try counted.

Conditions cannot add, so each quota is compared with its head-room, limit minus cost.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vecmeter.errors import (
    AuthenticationError,
    CostExceedsLimitError,
    LedgerUnavailableError,
    LimitExceededError,
    MissingRoleError,
    ProjectNotFoundError,
    ViolatedPolicy,
)
from vecmeter.ledger.keys import Credential, Keys, key_address, key_from_item, verify
from vecmeter.ledger.model import ApiKey, Clock, Cost, LimitState, Operation, Role
from vecmeter.ledger.quotas import METERS, Meter, Quota, effective_limits, limit_state
from vecmeter.ledger.table import ConditionFailed, Item, Table
from vecmeter.settings import Settings

# The hold makes a repetition harmless, so a lost answer or a throttled call may be tried again.
ADMIT_ATTEMPTS = 3
SETTLE_ATTEMPTS = 3
# Views that turned out old while admitting; each costs one write. More in a row is another fault than staleness.
STALE_VIEWS = 5
REMEMBERED_KEYS = 10_000
_HOLD = "h"
_IN_FLIGHT = "n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request asks for. ``role`` None: any key will do; ``project_id`` None: the route belongs to no project.

    ``request_id`` must be ours: it marks the request as counted, so a client's word would let it ride for free.
    """

    request_id: str
    credential: Credential
    role: Role | None
    operation: Operation
    endpoint: str
    project_id: str | None
    request_bytes: int
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An admitted request. ``reserved`` is counted already, in the windows of ``started_at``."""

    demand: Demand
    key: ApiKey
    project_id: str | None
    started_at: datetime
    reserved: Cost
    limits: tuple[LimitState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadHold:
    """A hold whose request never settled: all that is known of it."""

    request_id: str
    started_at: datetime
    operation: Operation
    cost: Cost


class Admissions:
    """Admits and settles requests. Remembers the last seen item of each key, so that a warm admission is one write."""

    def __init__(self, table: Table, keys: Keys, settings: Settings, clock: Clock) -> None:
        self._table = table
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._views: OrderedDict[str, Item] = OrderedDict()

    def admit(self, demand: Demand) -> tuple[Admission, list[tuple[ApiKey, DeadHold]]]:
        """Let a request run or say why not; refused requests consume nothing.

        Returns the admission and the dead holds it removed, for the caller to account as ``unknown``.

        Raises:
            AuthenticationError, MissingRoleError, ProjectNotFoundError: not this key.
            LimitExceededError: a quota has no room left.
            CostExceedsLimitError: the cost is above the whole quota.
            LedgerUnavailableError: the table does not answer.
        """
        hold = _HOLD + demand.request_id
        for _ in range(STALE_VIEWS):
            view, now = self._authorized_view(demand), self._clock()
            key, dead = key_from_item(view), list(_dead_holds(view, now))
            try:
                self._check_room(key, demand, now)
                item = self._count(key, view, demand, now, dead)
            except ConditionFailed as failure:
                self._remember(demand.credential.api_key_id, failure.item)
                if failure.item is None or int(failure.item["v"]) != key.version:
                    continue
                if hold not in failure.item:
                    self._refuse_if_violated(key, failure.item, demand, now)
                    continue
                item = failure.item
            self._remember(key.api_key_id, item)
            return self._admission(key, demand, now, item), [(key, dead_hold) for dead_hold in dead]
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")

    def known_key(self, credential: Credential) -> ApiKey | None:
        """The key as this instance saw it last."""
        view = self._views.get(credential.api_key_id)
        return key_from_item(view) if view else None

    def authorize(self, demand: Demand) -> Admission:
        """Check the key without counting anything: for own usage, and while usage tracking is switched off."""
        self._remember(demand.credential.api_key_id, None)
        key = key_from_item(self._authorized_view(demand))
        return Admission(
            demand=demand,
            key=key,
            project_id=demand.project_id or key.project_id,
            started_at=self._clock(),
            reserved=Cost(requests=0),
            limits=(),
        )

    def settle(self, admission: Admission, actual: Cost) -> None:
        """Release the hold and correct the counters, in the windows in which it was counted; idempotent."""
        names = {"#hold": _HOLD + admission.demand.request_id, "#n": _IN_FLIGHT}
        values: dict[str, Any] = {":minus": -1}
        add = ["#n :minus"]
        for meter in METERS:
            delta = meter.of(actual) - meter.of(admission.reserved)
            if delta:
                names[f"#{meter.letter}"] = meter.counter(admission.started_at)
                values[f":{meter.letter}"] = delta
                add.append(f"#{meter.letter} :{meter.letter}")
        try:
            item = self._table.update(
                *key_address(admission.key.api_key_id),
                update=f"REMOVE #hold ADD {', '.join(add)}",
                condition="attribute_exists(#hold)",
                names=names,
                values=values,
                attempts=SETTLE_ATTEMPTS,
            )
        except ConditionFailed as already_settled:
            item = already_settled.item or {}
        if item:
            self._remember(admission.key.api_key_id, item)

    def _authorized_view(self, demand: Demand) -> Item:
        """The key's item, remembered or read; a no from memory is read again before it is believed."""
        api_key_id = demand.credential.api_key_id
        remembered = self._views.get(api_key_id)
        if remembered is not None:
            try:
                self._authorize(key_from_item(remembered), demand)
            except (AuthenticationError, MissingRoleError, ProjectNotFoundError):
                pass
            else:
                return remembered
        item = self._table.get(*key_address(api_key_id))
        if item is None:
            self._remember(api_key_id, None)
            raise AuthenticationError
        self._remember(api_key_id, item)
        self._authorize(key_from_item(item), demand)
        return item

    def _authorize(self, key: ApiKey, demand: Demand) -> None:
        verify(key, demand.credential, self._clock())
        if demand.role is not None and demand.role not in key.roles:
            raise MissingRoleError(f"This needs a key with the role {demand.role.value!r}.")
        if demand.project_id is None or demand.project_id == key.project_id:
            return
        missing = ProjectNotFoundError(f"There is no project {demand.project_id!r}.")
        if key.project_id is not None:
            raise missing
        project = self._keys.get_project(demand.project_id)
        if project.user_id != key.user_id and not key.is_system_admin:
            raise missing

    def _check_room(self, key: ApiKey, demand: Demand, now: datetime) -> None:
        """Refuse a cost above a whole quota: its head-room is negative, which an absent counter would pass.

        Raises ConditionFailed when the view that says so turns out to be outdated.
        """
        for quota, limit in self._limits(key, demand):
            amount = quota.meter.of(demand.cost)
            if amount <= limit:
                continue
            item = self._table.get(*key_address(key.api_key_id))
            if item is None or int(item["v"]) != key.version:
                raise ConditionFailed([item])
            if quota.meter.amount == "requests":  # a quota of 0: closed until it is raised, not a wrong request
                self._refuse_if_violated(key, item, demand, now)
            raise CostExceedsLimitError(
                f"This request takes {amount} of {quota.name}, whose limit is {limit}: it can never be admitted."
            )

    def _count(self, key: ApiKey, view: Item, demand: Demand, now: datetime, dead: list[DeadHold]) -> Item:
        """The one write. Raises ConditionFailed when anything in the condition does not hold."""
        names = {"#v": "v", "#hold": _HOLD + demand.request_id, "#n": _IN_FLIGHT}
        values: dict[str, Any] = {
            ":v": key.version,
            ":hold": _hold_value(demand, now, self._settings.hold_seconds),
            ":in_flight": 1 - len(dead),
        }
        # v: the configuration is the one this instance knows; it covers secret, status, expiry, roles and limits.
        same_configuration = "#v = :v"
        # hold: this very request was not counted before (its answer may have been lost).
        not_counted_yet = "attribute_not_exists(#hold)"
        conditions = [same_configuration, not_counted_yet]
        add, remove = ["#n :in_flight"], []
        for index, hold in enumerate(dead):
            # dead: each is removed once, so that the number in flight stays true.
            names[f"#dead{index}"] = _HOLD + hold.request_id
            conditions.append(f"attribute_exists(#dead{index})")
            remove.append(f"#dead{index}")
        for meter in METERS:
            if meter.of(demand.cost):
                names[f"#{meter.letter}"] = meter.counter(now)
                values[f":{meter.letter}"] = meter.of(demand.cost)
                add.append(f"#{meter.letter} :{meter.letter}")
        for quota, limit in self._limits(key, demand):
            letter, amount = quota.meter.letter, quota.meter.of(demand.cost)
            if amount:
                # room: what is used so far leaves place for this cost.
                conditions.append(f"(attribute_not_exists(#{letter}) OR #{letter} <= :room_{letter})")
                values[f":room_{letter}"] = limit - amount
        for index, name in enumerate(_old_counters(view, now)):
            names[f"#old{index}"] = name
            remove.append(f"#old{index}")
        return self._table.update(
            *key_address(key.api_key_id),
            update=f"SET #hold = :hold ADD {', '.join(add)}" + (f" REMOVE {', '.join(remove)}" if remove else ""),
            condition=" AND ".join(conditions),
            names=names,
            values=values,
            attempts=ADMIT_ATTEMPTS,
        )

    def _refuse_if_violated(self, key: ApiKey, item: Item, demand: Demand, now: datetime) -> None:
        violated = [
            state
            for quota, limit in self._limits(key, demand)
            if (amount := quota.meter.of(demand.cost))
            and (state := limit_state(quota, limit, item, now)).used + amount > limit
        ]
        if violated:
            retry_at = max(state.resets_at for state in violated)
            raise LimitExceededError(
                tuple(
                    ViolatedPolicy(s.name, s.scope, s.limit, s.used, s.remaining, s.resets_at, s.window_seconds)
                    for s in violated
                ),
                retry_after=math.ceil((retry_at - now).total_seconds()),
            )

    def _limits(self, key: ApiKey, demand: Demand) -> tuple[tuple[Quota, int], ...]:
        """An operator out of quota must still be able to raise it: admin routes are counted, never limited."""
        return () if demand.operation is Operation.ADMIN else effective_limits(key, self._settings)

    def _admission(self, key: ApiKey, demand: Demand, now: datetime, item: Item) -> Admission:
        return Admission(
            demand=demand,
            key=key,
            project_id=demand.project_id or key.project_id,
            started_at=now,
            reserved=demand.cost,
            limits=tuple(limit_state(quota, limit, item, now) for quota, limit in self._limits(key, demand)),
        )

    def _remember(self, api_key_id: str, item: Item | None) -> None:
        if item is None:
            self._views.pop(api_key_id, None)
            return
        self._views[api_key_id] = item
        if len(self._views) > REMEMBERED_KEYS:
            self._views.popitem(last=False)


def _old_counters(view: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Counters of windows that have passed. The window before the present one stays: a request that began in it
    may yet settle there, and an instance whose clock runs behind may still count in it."""
    for meter in METERS:
        current = meter.counter(now)
        previous = _previous_counter(meter, now)
        for name in view:
            if name[0] == meter.letter and name[1:].isdigit() and name not in (current, previous) and name < current:
                yield name


def _previous_counter(meter: Meter, now: datetime) -> str:
    return meter.counter(meter.window.start(now) - timedelta(days=1))


def _hold_value(demand: Demand, now: datetime, life_seconds: int) -> str:
    """Expiry and start in epoch milliseconds, then what was reserved: enough to account for a dead request."""
    started = int(now.timestamp() * 1000)
    cost = demand.cost
    return f"{started + life_seconds * 1000}|{started}|{demand.operation.value}|{cost.tokens}|{cost.micro_usd}"


def _dead_holds(view: Mapping[str, Any], now: datetime) -> Iterator[DeadHold]:
    for name, value in view.items():
        if name[0] != _HOLD or not isinstance(value, str):
            continue
        expires, started, operation, tokens, micro_usd = value.split("|")
        if int(expires) < now.timestamp() * 1000:
            yield DeadHold(
                request_id=name[len(_HOLD) :],
                started_at=datetime.fromtimestamp(int(started) / 1000, UTC),
                operation=Operation(operation),
                cost=Cost(tokens=int(tokens), micro_usd=int(micro_usd)),
            )
