"""Admission: one conditional update on the key's item says who it is, whether it may, and counts it.

The item carries the configuration (pinned by its version ``v``), the key's account, what it has left of its parents'
limits, and a hold per request in flight. A hold is the mark that makes a repeated admission harmless: after a lost
answer the repetition fails on ``attribute_not_exists`` and shows the mark, which is the proof that the first try
counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from vecmeter.errors import (
    AuthenticationError,
    KeyWithoutProjectError,
    LedgerUnavailableError,
    MissingRoleError,
    ProjectNotFoundError,
)
from vecmeter.ledger.accounts import Account, Amounts
from vecmeter.ledger.alert_model import Exact
from vecmeter.ledger.allotments import Hand, Parent, parents_of
from vecmeter.ledger.attempt import STALE_VIEWS, Attempt
from vecmeter.ledger.counting import count, late_copy_possible, release, sweep
from vecmeter.ledger.demands import Admission, Demand, mark_of
from vecmeter.ledger.direct import DirectDebits
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.holds import HoldMark, dead_holds, seal
from vecmeter.ledger.key_items import key_address, key_from_item
from vecmeter.ledger.keys import Credential, Keys, verify
from vecmeter.ledger.model import (
    ApiKey,
    Clock,
    Cost,
    Limits,
    LimitState,
    Operation,
    Scope,
    UsageRecord,
    epoch_ms,
    from_epoch_ms,
)
from vecmeter.ledger.parent_items import ParentItems
from vecmeter.ledger.parents import Parents
from vecmeter.ledger.projects import find_project
from vecmeter.ledger.quotas import QUOTAS, STOCK_CODES, key_limits
from vecmeter.ledger.table import ConditionFailed, Table, Updated
from vecmeter.ledger.transactions import Write, update
from vecmeter.settings import Settings

# The hold makes a repetition harmless, so a lost answer or a throttled call may be tried again.
ADMIT_ATTEMPTS = 3
SETTLE_ATTEMPTS = 3
REMEMBERED_KEYS = 10_000
# Threads of one process that take from the same key's parents at once would each take a part.
_LOCKS = 64
_logger = logging.getLogger("vecmeter.ledger")


class Admissions:
    """Admits and settles requests. Remembers the last seen item of each key, so that a warm admission is one write."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        settings: Settings,
        clock: Clock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._parents = Parents(ParentItems(table), hold_seconds=settings.hold_seconds, monotonic=monotonic)
        self._direct = DirectDebits(table, self._parents, settings.hold_seconds)
        self._views: OrderedDict[str, Item] = OrderedDict()
        self._seen_at: dict[str, datetime] = {}
        self._filling = [threading.Lock() for _ in range(_LOCKS)]

    @property
    def parents(self) -> Parents:
        return self._parents

    def admit(self, demand: Demand) -> Admission:
        """Let a request run or say why not; refused requests consume nothing and change nothing.

        Raises:
            AuthenticationError, MissingRoleError, KeyWithoutProjectError, ProjectNotFoundError: not this key.
            LimitExceededError: a limit has no room left.
            CostExceedsLimitError: the cost is above the whole limit.
            LedgerUnavailableError: the table does not answer.
        """
        attempt = Attempt(self, demand, self._now())
        try:
            return attempt.run(self._views.get(demand.credential.api_key_id))
        except BaseException:
            attempt.undo()
            raise

    def known_key(self, credential: Credential) -> ApiKey | None:
        """The key as this instance saw it last."""
        view = self._views.get(credential.api_key_id)
        return key_from_item(view) if view else None

    def authorize(self, demand: Demand) -> Admission:
        """Check the key without counting anything: for own usage, and while usage tracking is switched off."""
        now = self._now()
        key = key_from_item(self.read(demand.credential.api_key_id))
        self.check(key, demand, now)
        return Admission(demand=demand, key=key, started_at=now, limits=())

    def admit_uncounted(self, demand: Demand, seen_within: timedelta) -> Admission | None:
        """Let a key through that this instance saw a short while ago, as it saw it: the ledger is away.

        Raises:
            AuthenticationError, MissingRoleError, KeyWithoutProjectError, ProjectNotFoundError: not this key, as it was
                then.
        """
        api_key_id, now = demand.credential.api_key_id, self._now()
        view, seen_at = self._views.get(api_key_id), self._seen_at.get(api_key_id)
        if view is None or seen_at is None or not timedelta(0) <= now - seen_at < seen_within:
            return None
        key = key_from_item(view)
        if demand.project_id not in (None, key.project_id):
            verify(key, demand.credential, now)
            return None  # whose project it is cannot be read
        self.check(key, demand, now)
        return Admission(demand=demand, key=key, started_at=now, limits=(), uncounted=True)

    def count_late(self, record: UsageRecord, write: Write) -> bool:
        """Count a request that was let through uncounted, together with its record; whether it was not counted yet."""
        change = Change()
        change.require("attribute_exists(pk)")
        for quota in QUOTAS:
            amount: int = getattr(record, quota.meter.amount)
            if amount:
                counter = quota.meter.counter(record.started_at)
                change.add(f"#{counter} :{quota.code}", counter)
                change.values[f":{quota.code}"] = amount
        try:
            self._table.transact(write, update(*key_address(record.api_key_id), **change.arguments))
        except ConditionFailed:
            return False
        return True

    def dead(self, api_key_id: str) -> tuple[ApiKey, tuple[HoldMark, ...]]:
        """A key and its holds that are older than a request gets, read now. Raises ApiKeyNotFoundError."""
        key, item = self._keys.get_with_counters(api_key_id)
        return key, tuple(dead_holds(item, self._now(), self._settings.hold_seconds))

    def settle(
        self, key: ApiKey, mark: HoldMark, actual: Cost, *, repeated: bool, project: Parent | None = None
    ) -> Item | None:
        """Release a hold and correct the counters, in the windows in which it was counted; idempotent.

        Args:
            repeated: a copy of the admission may still be on its way; the hold leaves a seal against it.
            project: where the request was counted directly.
        """
        limited = mark.operation is not Operation.ADMIN
        limits = self.limits(key) if limited else {}
        sealed = repeated and late_copy_possible(mark, self._now())
        item = self._views.get(key.api_key_id, {})
        for _ in range(STALE_VIEWS):
            change = Change()
            release(change, item, limits, mark, actual, sealed=sealed)
            for parent in parents_of(key) if limited else ():
                Hand(parent).refund(change, item, mark, actual)
            try:
                updated: Item | None
                updated, _ = self._table.update(
                    *key_address(key.api_key_id), **change.arguments, attempts=SETTLE_ATTEMPTS
                )
            except ConditionFailed as failure:
                updated = failure.item
                if updated is not None and updated.get(mark.attribute) == mark.text:
                    item = updated  # only the cells have moved on
                    continue
            self.remember(key.api_key_id, updated)
            break
        if project is not None:
            self._direct.release(project, mark, actual, sealed=sealed)
        return updated

    def standing(
        self, key: ApiKey, item: Item | None, mark: HoldMark, project: Parent | None = None
    ) -> Iterator[tuple[Limits, tuple[LimitState, ...], Exact | None]]:
        """Where the limits of a key and its parents stand in the windows of a request, as the key's item shows them.

        Of a parent's limit it shows what is handed out; how much of that is used is known by reading (``Exact``).
        """
        if item is None:
            return
        limits, at = self.limits(key), mark.started_at
        yield limits, Account(Scope.KEY, key.api_key_id, limits, item, at).states(), None
        for parent in (*parents_of(key), *([project] if project else [])):
            states = self._parents.items.states(parent, item, key.generation, at)
            yield parent.limits, states, partial(self._parents.items.used, parent, at)

    def withdraw(self, key: ApiKey, mark: HoldMark) -> None:
        """Refused, but an earlier try may still arrive and find room: seal the request, or release what came of it."""
        try:
            try:
                self._table.update(
                    *key_address(key.api_key_id),
                    update="SET #hold = :seal",
                    condition="attribute_exists(pk) AND attribute_not_exists(#hold)",
                    names={"#hold": mark.attribute},
                    values={":seal": seal(mark.started_at)},
                    attempts=SETTLE_ATTEMPTS,
                )
            except ConditionFailed:
                self.settle(key, mark, Cost(requests=0), repeated=True)
        except LedgerUnavailableError:
            _logger.warning("refused request not sealed")

    def read(self, api_key_id: str) -> Item:
        """Raises AuthenticationError when there is no such key."""
        item = self._table.get(*key_address(api_key_id))
        self.remember(api_key_id, item)
        if item is None:
            raise AuthenticationError
        return item

    def check(self, key: ApiKey, demand: Demand, now: datetime) -> Limits:
        """Whether the key may do this here; returns the limits of a project that is not the key's own."""
        verify(key, demand.credential, now)
        if demand.role is not None and demand.role not in key.roles:
            raise MissingRoleError(f"This needs a key with the role {demand.role.value!r}.")
        if demand.in_own_project and key.project_id is None:
            raise KeyWithoutProjectError("This key belongs to no project, and the route is about the key's own.")
        if demand.project_id is None or demand.project_id == key.project_id:
            return {}
        missing = ProjectNotFoundError(f"There is no project {demand.project_id!r}.")
        if key.project_id is not None:
            raise missing
        project = find_project(self._table, demand.project_id)
        if project.user_id != key.user_id and not key.is_system_admin:
            raise missing
        return project.limits

    def limits(self, key: ApiKey) -> Limits:
        return key_limits(key.policy, key.defaults, self._settings)

    def write(self, attempt: Attempt, view: Item, key: ApiKey, now: datetime) -> Updated:
        """The one write. Raises ConditionFailed when anything in the condition does not hold."""
        demand, change = attempt.demand, Change()
        # v: the configuration is the one this instance knows; it covers secret, status, expiry, roles and limits.
        change.require("#v = :v", "v")
        change.values[":v"] = key.version
        account = Account(Scope.KEY, key.api_key_id, attempt.limits, view, now)
        count(change, account, attempt.amounts, mark_of(demand, key, now))
        for hand in attempt.hands:
            hand.use(change, view, key.generation, attempt.amounts, now)
        sweep(change, view, now)
        for stale in attempt.stale:
            change.remove(stale.attribute)
            if stale.left:
                # What is left of it will be returned: exactly this much.
                change.require(f"#{stale.attribute} = :{stale.attribute}")
                change.values[f":{stale.attribute}"] = stale.left
        return self._table.update(*key_address(key.api_key_id), **change.arguments, attempts=ADMIT_ATTEMPTS)

    def remember(self, api_key_id: str, item: Item | None) -> None:
        # Taken out first, so that the least recently used one stands first.
        self._views.pop(api_key_id, None)
        self._seen_at.pop(api_key_id, None)
        if item is None:
            return
        self._views[api_key_id], self._seen_at[api_key_id] = item, self._now()
        if len(self._views) > REMEMBERED_KEYS:
            self._seen_at.pop(self._views.popitem(last=False)[0], None)

    def admission(self, attempt: Attempt, key: ApiKey, item: Item, now: datetime) -> Admission:
        account = Account(Scope.KEY, key.api_key_id, attempt.limits, item, now)
        limits = [*account.states()]
        for hand in attempt.hands:
            limits += self._parents.items.states(hand.parent, item, key.generation, now)
        project_limits = attempt.project.limits if attempt.project else key.parents.get(Scope.PROJECT, {})
        return Admission(
            demand=attempt.demand,
            key=key,
            started_at=now,
            limits=tuple(limits),
            repeated=attempt.repeated,
            dead_holds=tuple(dead_holds(item, now, self._settings.hold_seconds)),
            project=attempt.project,
            stock={name: project_limits[code] for code, name in STOCK_CODES.items() if code in project_limits},
        )

    def lock(self, api_key_id: str) -> threading.Lock:
        return self._filling[hash(api_key_id) % _LOCKS]

    def project_of(self, mark: HoldMark) -> Parent | None:
        """Where a request of a key of no project was counted directly, if it was."""
        if mark.project_id is None:
            return None
        try:
            limits = find_project(self._table, mark.project_id).limits
        except ProjectNotFoundError:
            limits = {}
        return Parent(Scope.PROJECT, mark.project_id, limits)

    def debit(self, parent: Parent, mark: HoldMark, amounts: Amounts) -> bool:
        """Returns whether a copy of it may still be on its way. Raises ParentExhausted."""
        return self._direct.count(parent, mark, amounts)

    def undebit(self, parent: Parent, mark: HoldMark) -> None:
        self._direct.release(parent, mark, Cost(requests=0), sealed=True)

    def view(self, api_key_id: str) -> Item | None:
        return self._views.get(api_key_id)

    def _now(self) -> datetime:
        return from_epoch_ms(epoch_ms(self._clock()))
