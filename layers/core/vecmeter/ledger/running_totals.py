"""Running totals: what each key has used in all the hours that were ever rolled up. They outlive roll-ups, and keys.

A total is told apart by project and operation. It has a version, which the transaction that adds an hour's news names:
so nothing is added twice, and nothing of two runs at once is lost. Each amount only grows, because those of a record
that replaces another one do (``UsageLog.keep``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vecmeter.ledger import transactions
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.table import Table
from vecmeter.ledger.totals import Group, KeyName, Totals, Usage, by_operation, combined, pack, unpack
from vecmeter.ledger.transactions import Write

# Of one key. What it uses of others is counted under no project, or the item would grow without end.
MOST_PROJECTS = 1_000
_PARTITION = "TOTAL"


@dataclass(frozen=True, slots=True)
class RunningTotal:
    """``version`` 0: nothing of the key was rolled up yet."""

    usage: Usage = field(default_factory=dict)
    version: int = 0

    def with_more(self, more: Usage) -> dict[Group, Totals]:
        """The usage with more in it, of at most ``MOST_PROJECTS`` projects: a project that is in it stays in it."""
        known = {group.project_id for group in self.usage}
        whole = combined(self.usage)
        for group, totals in by_operation(more).items():
            if group.project_id not in known and len(known) >= MOST_PROJECTS:
                group = group._replace(project_id=None)  # noqa: PLW2901 - the group it is counted under
            known.add(group.project_id)
            whole.setdefault(group, Totals()).merge(totals)
        return whole


class RunningTotals:
    """Reads running totals, and says how to add to them."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, key: KeyName) -> RunningTotal:
        item = self._table.get(*_address(key))
        return _from_item(item) if item else RunningTotal()

    def all(self) -> dict[KeyName, RunningTotal]:
        """Of every key that was ever rolled up."""
        items = self._table.query(_PARTITION, between=(" ", "\U0010ffff"))
        return {KeyName(*item["sk"].rsplit("#", 1)): _from_item(item) for item in items}

    def addition(self, key: KeyName, before: RunningTotal, more: Usage) -> Write:
        """Add to the total that was read, on condition that there is no other by now."""
        values = {":b": pack(before.with_more(more)), ":new": before.version + 1}
        return transactions.update(
            *_address(key),
            update="SET b = :b, v = :new",
            condition="v = :old" if before.version else "attribute_not_exists(pk)",
            values=values | ({":old": before.version} if before.version else {}),
        )


def _address(key: KeyName) -> tuple[str, str]:
    return _PARTITION, f"{key.user_id}#{key.api_key_id}"


def _from_item(item: Item) -> RunningTotal:
    return RunningTotal(unpack(item["b"]), item["v"])
