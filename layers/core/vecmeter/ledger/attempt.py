"""One request's way through an admission: what it has found out and taken so far."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING

from vecmeter.errors import (
    AuthenticationError,
    CostExceedsLimitError,
    KeyWithoutProjectError,
    LedgerUnavailableError,
    LimitExceededError,
    MissingRoleError,
    ProjectNotFoundError,
)
from vecmeter.ledger.accounts import Account, amounts_of
from vecmeter.ledger.allotments import Allotment, Hand, Parent, parents_of, stale_allotments
from vecmeter.ledger.demands import Admission, Crowded, Demand, mark_of, refusal
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.holds import HoldMark
from vecmeter.ledger.key_items import key_from_item
from vecmeter.ledger.model import ApiKey, Limits, Operation, Scope
from vecmeter.ledger.parents import ParentExhausted
from vecmeter.ledger.table import ConditionFailed, Updated

if TYPE_CHECKING:
    from vecmeter.ledger.admission import Admissions

# Views that turned out old while admitting; each costs one call. More in a row is another fault than staleness.
STALE_VIEWS = 12
_REFUSALS = (
    AuthenticationError,
    MissingRoleError,
    KeyWithoutProjectError,
    ProjectNotFoundError,
    LimitExceededError,
    CostExceedsLimitError,
    Crowded,
)
_logger = logging.getLogger("vecmeter.ledger")


class Attempt:
    """One request's way through an admission: what it has found out and taken so far."""

    def __init__(self, admissions: Admissions, demand: Demand, now: datetime) -> None:
        self._admissions = admissions
        self._now = now
        # An operator out of quota must still be able to raise it: admin routes are counted, never limited.
        self._limited = demand.operation is not Operation.ADMIN
        self._debited: HoldMark | None = None
        self._in_doubt = False
        self._generation = -1
        self.demand = demand
        self.amounts = amounts_of(demand.cost)
        self.limits: Limits = {}
        self.project: Parent | None = None
        self.hands: list[Hand] = []
        self.repeated = False
        self.stale: tuple[Allotment, ...] = ()

    def run(self, view: Item | None) -> Admission:
        admissions, now = self._admissions, self._now
        api_key_id, fresh = self.demand.credential.api_key_id, False
        for _ in range(STALE_VIEWS):
            if view is None:
                view, fresh = admissions.read(api_key_id), True
            key = key_from_item(view)
            mark = mark_of(self.demand, key, now)
            try:
                self._prepare(key, view)
            except _REFUSALS:
                if not fresh:
                    view = None  # a no from memory is read again before it is believed
                    continue
                if self.repeated:
                    admissions.withdraw(key, mark)
                raise
            try:
                view, tries = self._write(key, view)
            except ConditionFailed as failure:
                self.repeated |= failure.tries > 1
                for hand in self.hands:
                    hand.places = None  # granted under a fence that may have risen
                view, fresh = failure.item, True
                admissions.remember(api_key_id, view)
                if view is None or mark.attribute not in view:
                    continue
            except (ParentExhausted, LimitExceededError, Crowded) as no:
                if not fresh:
                    view = None
                    continue
                if self.repeated:
                    admissions.withdraw(key, mark)
                raise refusal(no.shortages, now, no.dead) if isinstance(no, ParentExhausted) else no from None
            else:
                self.repeated |= tries > 1
                admissions.remember(api_key_id, view)
            return admissions.admission(self, key, view, now)
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")

    def undo(self) -> None:
        """Give back what was taken for an admission that did not take place.

        Where nobody knows whether it did, the key may have it: then it is lost rather than there twice.
        """
        self._give_back()
        if self._debited is not None and self.project is not None and not self._in_doubt:
            try:
                self._admissions.undebit(self.project, self._debited)
            except LedgerUnavailableError:
                _logger.warning("direct debit not undone")

    def _give_back(self) -> None:
        if not self._in_doubt and not self.repeated:
            self._admissions.parents.give_back(self.hands)

    def _prepare(self, key: ApiKey, view: Item) -> None:
        """Refuse what the view already shows: not this key, no room of its own."""
        project_limits = self._admissions.check(key, self.demand, self._now)
        if not self._limited:
            return
        self.limits = self._admissions.limits(key)
        parents = parents_of(key)
        if self._generation != key.generation:
            self._give_back()
            self.hands, self._generation = [Hand(parent) for parent in parents], key.generation
        if project_limits and self.demand.project_id:
            self.project = Parent(Scope.PROJECT, self.demand.project_id, project_limits)
        account = Account(Scope.KEY, key.api_key_id, self.limits, view, self._now)
        above = [*parents, self.project] if self.project else parents
        accounts = [account, *(Account(p.scope, p.scope_id, p.limits, {}, self._now) for p in above)]
        for state, amount in (found for each in accounts for found in each.beyond(self.amounts)):
            raise CostExceedsLimitError(
                f"This request takes {amount} of {state.scope} {state.name}, whose limit is {state.limit}: "
                "it can never be admitted."
            )
        shortages = account.shortages(self.amounts)
        if shortages:
            raise refusal(shortages, self._now, [key.api_key_id])

    def _write(self, key: ApiKey, view: Item) -> Updated:
        if self.project is not None and self._debited is None:
            mark = mark_of(self.demand, key, self._now)
            self.repeated |= self._admissions.debit(self.project, mark, self.amounts)
            self._debited = mark
        if not any(self._lacking(key, view)):
            return self._finish(key, view)
        with self._admissions.lock(key.api_key_id):
            # Another thread may have taken enough for both while this one waited.
            view = self._latest(key, view)
            shortages = Account(Scope.KEY, key.api_key_id, self.limits, view, self._now).shortages(self.amounts)
            if self._limited and shortages:
                raise refusal(shortages, self._now, [key.api_key_id])
            for hand, lacking in zip(self.hands, self._lacking(key, view), strict=True):
                if lacking:
                    self._admissions.parents.fill(hand, key.api_key_id, lacking, view, self._now)
            return self._finish(key, view)

    def _finish(self, key: ApiKey, view: Item) -> Updated:
        self.stale = tuple(stale_allotments(view, key, self._now))
        self._in_doubt = True
        try:
            updated = self._admissions.write(self, view, key, self._now)
        except ConditionFailed:
            self._in_doubt = False
            raise
        self._in_doubt = False
        for stale in self.stale:
            for hand in self.hands:
                returnable = stale.left and stale.generation == key.generation
                if returnable and stale.attribute[1] == hand.parent.scope.letter:
                    self._admissions.parents.note_leftover(hand.parent, stale)
        for hand in self.hands:
            hand.amounts, hand.places = {}, None
        return updated

    def _latest(self, key: ApiKey, view: Item) -> Item:
        latest = self._admissions.view(key.api_key_id)
        return latest if latest is not None and latest["v"] == key.version else view

    def _lacking(self, key: ApiKey, view: Item) -> list[dict[str, int]]:
        return [hand.lacking(view, key.generation, self.amounts, self._now) for hand in self.hands]
