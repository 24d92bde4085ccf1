"""Direct debits: a key of no project counts on the project it works in, request by request.

Keys of a project hold allotments of it. A key that reaches many projects would have to hold some of each; the
operator's tools are such keys, and two writes more for each of their requests are cheaper than keys' items that grow
with the number of projects. The project's item then carries a hold as the key's does.
"""

from __future__ import annotations

from datetime import datetime

from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger.accounts import Account, Amounts
from vecmeter.ledger.allotments import Parent
from vecmeter.ledger.counting import count, release, sweep
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.holds import HoldMark, dead_holds
from vecmeter.ledger.model import Cost
from vecmeter.ledger.parent_items import TRIES
from vecmeter.ledger.parents import Parents
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table


class DirectDebits:
    """Counts requests on projects' items and releases them."""

    def __init__(self, table: Table, parents: Parents, hold_seconds: int) -> None:
        self._table = table
        self._parents = parents
        self._hold_seconds = hold_seconds

    def count(self, parent: Parent, mark: HoldMark, amounts: Amounts) -> bool:
        """Count a request, unless it is counted; returns whether a copy of that may still be on its way.

        Raises:
            ParentExhausted: there is no room.
            LedgerUnavailableError: the table does not answer, or its item never stands still.
        """
        limited = {code: amount for code, amount in amounts.items() if code in parent.limits}
        repeated = False
        for _ in range(TRIES):
            account = self._parents.items.account(parent, mark.started_at)
            if mark.attribute in account.item:
                return True
            self._bury(parent, account, mark.started_at)
            shortages = account.shortages(limited)
            if shortages:
                self._parents.find(parent, shortages, mark.started_at)
                continue
            change = Change()
            count(change, account, limited, mark)
            sweep(change, account.item, mark.started_at)
            try:
                _, tries = self._table.update(*parent.address, **change.arguments, attempts=WRITE_ATTEMPTS)
            except ConditionFailed as failure:
                repeated |= failure.tries > 1
                continue
            return repeated or tries > 1
        raise LedgerUnavailableError("The project's limits change too fast; try again shortly.")

    def release(self, parent: Parent, mark: HoldMark, actual: Cost, *, sealed: bool) -> None:
        """Release a request and correct what it took; idempotent."""
        for _ in range(TRIES):
            item = self._parents.items.account(parent, mark.started_at).item
            if item.get(mark.attribute) != mark.text:
                return
            change = Change()
            release(change, item, parent.limits, mark, actual, sealed=sealed, counts_all=False)
            try:
                self._table.update(*parent.address, **change.arguments, attempts=WRITE_ATTEMPTS)
            except ConditionFailed:
                continue
            return

    def _bury(self, parent: Parent, account: Account, now: datetime) -> None:
        """Dead requests leave their place; what they took stays taken, as on the key."""
        for dead in dead_holds(account.item, now, self._hold_seconds):
            self.release(parent, dead, dead.reserved, sealed=True)
