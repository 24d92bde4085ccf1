"""Admission: one conditional update on the key's item says who it is, whether it may, and counts it.

The item carries the configuration (pinned by its version ``v``), one counter per meter and window, and a hold per
request in flight. A hold is the mark that makes a repeated admission harmless: after a lost answer the repetition
fails on ``attribute_not_exists`` and shows the mark, which is the proof that the first try counted.

Conditions cannot add, so each quota is compared with its head-room, limit minus cost.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.holds import SEAL_LIFE, HoldMark, dead_holds, old_seals, seal
from vecmeter.ledger.keys import Credential, Keys, key_address, key_from_item, verify
from vecmeter.ledger.model import ApiKey, Clock, Cost, LimitState, Operation, Role, epoch_ms, from_epoch_ms
from vecmeter.ledger.quotas import METERS, Meter, Quota, effective_limits, limit_state
from vecmeter.ledger.table import ConditionFailed, Table, Updated
from vecmeter.settings import Settings

# The hold makes a repetition harmless, so a lost answer or a throttled call may be tried again.
ADMIT_ATTEMPTS = 3
SETTLE_ATTEMPTS = 3
# Views that turned out old while admitting; each costs one call. More in a row is another fault than staleness.
STALE_VIEWS = 8
REMEMBERED_KEYS = 10_000
_IN_FLIGHT = "n"
_logger = logging.getLogger("vecmeter.ledger")

_REFUSALS = (
    AuthenticationError,
    MissingRoleError,
    ProjectNotFoundError,
    LimitExceededError,
    CostExceedsLimitError,
)


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
    """An admitted request. Its cost is counted already, in the windows of ``started_at`` (whole milliseconds).

    ``repeated``: it took more than one try, so that a copy of the admission may still be on its way.
    ``dead_holds``: what the admission's answer showed of requests that never settled.
    """

    demand: Demand
    key: ApiKey
    started_at: datetime
    limits: tuple[LimitState, ...]
    repeated: bool = False
    dead_holds: tuple[HoldMark, ...] = ()

    @property
    def project_id(self) -> str | None:
        return self.demand.project_id or self.key.project_id

    @property
    def mark(self) -> HoldMark:
        return _mark(self.demand, self.key, self.started_at)


class Admissions:
    """Admits and settles requests. Remembers the last seen item of each key, so that a warm admission is one write."""

    def __init__(self, table: Table, keys: Keys, settings: Settings, clock: Clock) -> None:
        self._table = table
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._views: OrderedDict[str, Item] = OrderedDict()

    def admit(self, demand: Demand) -> Admission:
        """Let a request run or say why not; refused requests consume nothing and change nothing.

        Raises:
            AuthenticationError, MissingRoleError, ProjectNotFoundError: not this key.
            LimitExceededError: a quota has no room left.
            CostExceedsLimitError: the cost is above the whole quota.
            LedgerUnavailableError: the table does not answer.
        """
        api_key_id, now = demand.credential.api_key_id, self._now()
        view, fresh, repeated = self._views.get(api_key_id), False, False
        for _ in range(STALE_VIEWS):
            if view is None:
                view, fresh = self._read(api_key_id), True
            key = key_from_item(view)
            try:
                self._authorize(key, demand, now)
                self._check_room(key, view, demand, now)
            except _REFUSALS:
                if not fresh:
                    view = None  # a no from memory is read again before it is believed
                    continue
                if repeated:
                    self._withdraw(api_key_id, _mark(demand, key, now))
                raise
            try:
                view, tries = self._count(key, view, demand, now)
            except ConditionFailed as failure:
                repeated |= failure.tries > 1
                view, fresh = failure.item, True
                self._remember(api_key_id, view)
                if view is None or _mark(demand, key, now).attribute not in view:
                    continue
            else:
                repeated |= tries > 1
                self._remember(api_key_id, view)
            return self._admission(key, view, demand, now, repeated)
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")

    def known_key(self, credential: Credential) -> ApiKey | None:
        """The key as this instance saw it last."""
        view = self._views.get(credential.api_key_id)
        return key_from_item(view) if view else None

    def authorize(self, demand: Demand) -> Admission:
        """Check the key without counting anything: for own usage, and while usage tracking is switched off."""
        now = self._now()
        key = key_from_item(self._read(demand.credential.api_key_id))
        self._authorize(key, demand, now)
        return Admission(demand=demand, key=key, started_at=now, limits=())

    def dead(self, api_key_id: str) -> tuple[ApiKey, tuple[HoldMark, ...]]:
        """A key and its holds that are older than a request gets, read now. Raises ApiKeyNotFoundError."""
        key, item = self._keys.get_with_counters(api_key_id)
        return key, tuple(dead_holds(item, self._now(), self._settings.hold_seconds))

    def settle(self, api_key_id: str, mark: HoldMark, actual: Cost, *, repeated: bool) -> None:
        """Release a hold and correct the counters, in the windows in which it was counted; idempotent.

        Args:
            repeated: a copy of the admission may still be on its way; the hold leaves a seal against it.
        """
        names = {"#hold": mark.attribute, "#n": _IN_FLIGHT}
        values: dict[str, Any] = {":minus": -1, ":mark": mark.text}
        release = "REMOVE #hold"
        if repeated and mark.started_at + SEAL_LIFE > self._now():
            values[":seal"] = seal(mark.started_at)
            release = "SET #hold = :seal"
        add = ["#n :minus"]
        for meter in METERS:
            difference = meter.of(actual) - meter.of(mark.reserved)
            if difference:
                names[f"#{meter.letter}"] = meter.counter(mark.started_at)
                values[f":{meter.letter}"] = difference
                add.append(f"#{meter.letter} :{meter.letter}")
        try:
            item: Item | None
            item, _ = self._table.update(
                *key_address(api_key_id),
                update=f"{release} ADD {', '.join(add)}",
                # not settled yet, by an earlier try or by who took the request for dead; nor sealed.
                condition="#hold = :mark",
                names=names,
                values=values,
                attempts=SETTLE_ATTEMPTS,
            )
        except ConditionFailed as already_settled:
            item = already_settled.item
        self._remember(api_key_id, item)

    def _withdraw(self, api_key_id: str, mark: HoldMark) -> None:
        """Refused, but an earlier try may still arrive and find room: seal the request, or release what came of it."""
        try:
            try:
                self._table.update(
                    *key_address(api_key_id),
                    update="SET #hold = :seal",
                    condition="attribute_exists(pk) AND attribute_not_exists(#hold)",
                    names={"#hold": mark.attribute},
                    values={":seal": seal(mark.started_at)},
                    attempts=SETTLE_ATTEMPTS,
                )
            except ConditionFailed:
                self.settle(api_key_id, mark, Cost(requests=0), repeated=True)
        except LedgerUnavailableError:
            _logger.warning("refused request not sealed")

    def _read(self, api_key_id: str) -> Item:
        item = self._table.get(*key_address(api_key_id))
        self._remember(api_key_id, item)
        if item is None:
            raise AuthenticationError
        return item

    def _authorize(self, key: ApiKey, demand: Demand, now: datetime) -> None:
        verify(key, demand.credential, now)
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

    def _check_room(self, key: ApiKey, view: Item, demand: Demand, now: datetime) -> None:
        """Refuse what the view already shows to have no room."""
        violated = []
        for quota, limit in self._limits(key, demand):
            amount = quota.meter.of(demand.cost)
            if amount > limit > 0:
                raise CostExceedsLimitError(
                    f"This request takes {amount} of {quota.name}, whose limit is {limit}: it can never be admitted."
                )
            state = limit_state(quota, limit, view, now)
            if amount and state.used + amount > limit:
                violated.append(state)
        if violated:
            retry_at = max(state.resets_at for state in violated)
            raise LimitExceededError(
                tuple(
                    ViolatedPolicy(s.name, s.scope, s.limit, s.used, s.remaining, s.resets_at, s.window_seconds)
                    for s in violated
                ),
                retry_after=math.ceil((retry_at - now).total_seconds()),
            )

    def _count(self, key: ApiKey, view: Item, demand: Demand, now: datetime) -> Updated:
        """The one write. Raises ConditionFailed when anything in the condition does not hold."""
        mark = _mark(demand, key, now)
        names = {"#v": "v", "#hold": mark.attribute, "#n": _IN_FLIGHT}
        values: dict[str, Any] = {":v": key.version, ":hold": mark.text, ":one": 1}
        # v: the configuration is the one this instance knows; it covers secret, status, expiry, roles and limits.
        same_configuration = "#v = :v"
        # hold: this very request was not counted before (its answer may have been lost).
        not_counted_yet = "attribute_not_exists(#hold)"
        conditions, add = [same_configuration, not_counted_yet], ["#n :one"]
        for meter in METERS:
            if meter.of(demand.cost):
                names[f"#{meter.letter}"] = meter.counter(now)
                values[f":{meter.letter}"] = meter.of(demand.cost)
                add.append(f"#{meter.letter} :{meter.letter}")
        for quota, limit in self._limits(key, demand):
            letter, amount = quota.meter.letter, quota.meter.of(demand.cost)
            if amount:
                # room: what is used so far leaves place for this cost. The limit is at least the cost by now.
                conditions.append(f"(attribute_not_exists(#{letter}) OR #{letter} <= :room_{letter})")
                values[f":room_{letter}"] = limit - amount
        remove = []
        for index, name in enumerate((*_old_counters(view, now), *old_seals(view, now))):
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

    def _limits(self, key: ApiKey, demand: Demand) -> tuple[tuple[Quota, int], ...]:
        """An operator out of quota must still be able to raise it: admin routes are counted, never limited."""
        return () if demand.operation is Operation.ADMIN else effective_limits(key, self._settings)

    def _admission(self, key: ApiKey, item: Item, demand: Demand, now: datetime, repeated: bool) -> Admission:
        return Admission(
            demand=demand,
            key=key,
            started_at=now,
            limits=tuple(limit_state(quota, limit, item, now) for quota, limit in self._limits(key, demand)),
            repeated=repeated,
            dead_holds=tuple(dead_holds(item, now, self._settings.hold_seconds)),
        )

    def _remember(self, api_key_id: str, item: Item | None) -> None:
        # Taken out first, so that the least recently used one stands first.
        self._views.pop(api_key_id, None)
        if item is None:
            return
        self._views[api_key_id] = item
        if len(self._views) > REMEMBERED_KEYS:
            self._views.popitem(last=False)

    def _now(self) -> datetime:
        return from_epoch_ms(epoch_ms(self._clock()))


def _mark(demand: Demand, key: ApiKey, now: datetime) -> HoldMark:
    return HoldMark(
        request_id=demand.request_id,
        started_at=now,
        operation=demand.operation,
        project_id=demand.project_id if key.project_id is None else None,
        reserved=demand.cost,
    )


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
