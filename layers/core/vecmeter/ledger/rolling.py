"""Rolling windows: in no interval of a window's length is more admitted than the limit.

What was admitted is kept in cells, each a short stretch of time. A cell leaves the window when all of it has: the
oldest is counted whole. Two attributes hold it, ``rm`` and ``rms`` for the quota of the code ``rm``:

    rm    text    "<newest cell>:<cells back>.<count>,..."  the newest cell, and the closed ones still in the window
    rms   number  the sum over all of them, the newest included

Within a cell an admission only adds: ``rm = :seen AND rms <= :room``, so that concurrent admissions do not disturb
each other. The first of a new cell writes both anew, pinned to both as it saw them. The newest cell only moves
forward: an instance whose clock is behind counts in the newest one there is, and what it counts leaves later.

An interval is measured on the clocks of the instances; ``CLOCK_TOLERANCE`` is how far they may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vecmeter.ledger.encoding import base36
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.model import LimitState, epoch_ms, from_epoch_ms
from vecmeter.ledger.quotas import RollingQuota

CLOCK_TOLERANCE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class RollingWindow:
    """A window as an item shows it. ``counts``: per cell; ``seen``: the two attributes as they are, None if absent.

    ``changed``: the counts are no longer what the attributes say.
    """

    quota: RollingQuota
    counts: Mapping[int, int]
    newest: int
    seen: tuple[str | None, int | None]
    changed: bool = False

    @classmethod
    def of(cls, quota: RollingQuota, item: Mapping[str, Any]) -> RollingWindow:
        text, total = item.get(quota.code), item.get(quota.code + "s")
        if text is None:
            return cls(quota, {}, 0, (text, total))
        newest_text, _, closed = text.partition(":")
        newest = int(newest_text, 36)
        counts = {}
        for entry in closed.split(",") if closed else ():
            back, count = entry.split(".")
            counts[newest - int(back, 36)] = int(count, 36)
        counts[newest] = (total or 0) - sum(counts.values())
        return cls(quota, counts, newest, (text, total))

    def without(self, amounts: Iterable[tuple[int, int]]) -> RollingWindow:
        """With amounts taken off closed cells that are still there: written when something is counted next."""
        counts, changed = dict(self.counts), False
        for cell, amount in amounts:
            if counts.get(cell, 0) >= amount:
                counts[cell], changed = counts[cell] - amount, True
        return replace(self, counts=counts, changed=changed) if changed else self

    def cell(self, now: datetime) -> int:
        """Where an admission counts now."""
        return max(self.newest, _cell(self.quota, now))

    def used(self, now: datetime) -> int:
        return sum(self._live(now).values())

    def leaves(self, cell: int) -> datetime:
        """When a cell is out of the window."""
        end_of_cell = from_epoch_ms((cell + 1) * self.quota.cell * 1000)
        return end_of_cell + timedelta(seconds=self.quota.seconds) + CLOCK_TOLERANCE

    def room_at(self, needed: int, limit: int, now: datetime) -> datetime:
        """When ``needed`` (at most the limit) will fit, if nothing else is admitted until then."""
        live = self._live(now)
        total, moment = sum(live.values()), now
        for cell in sorted(live):
            if total + needed <= limit:
                break
            total, moment = total - live[cell], self.leaves(cell)
        return moment

    def state(self, scope: str, scope_id: str, limit: int, now: datetime) -> LimitState:
        live = [cell for cell, count in self._live(now).items() if count]
        return LimitState(
            name=self.quota.name,
            scope=scope,
            scope_id=scope_id,
            limit=limit,
            used=self.used(now),
            resets_at=self.leaves(min(live)) if live else now,
            window_seconds=self.quota.seconds,
        )

    def count(self, change: Change, amount: int, limit: int, now: datetime) -> None:
        """Add ``amount`` if it fits; the caller has seen that it does."""
        text, total = self.seen
        code, sum_of = self.quota.code, self.quota.code + "s"
        same_cell = text is not None and self.cell(now) == self.newest and not self.changed
        if same_cell and (total or 0) + amount <= limit:
            # Still the newest cell, and all that is counted leaves room.
            change.require(f"#{code} = :{code} AND #{sum_of} <= :{code}_room", code, sum_of)
            change.values |= {f":{code}": text, f":{code}_room": limit - amount, f":{code}_amount": amount}
            change.add(f"#{sum_of} :{code}_amount")
            return
        live, cell = self._live(now), self.cell(now)
        self._pin(change)
        change.set(f"#{code} = :{code}_new, #{sum_of} = :{code}_sum", code, sum_of)
        change.values |= {f":{code}_new": _text(live, cell), f":{code}_sum": sum(live.values()) + amount}

    def correct(self, change: Change, difference: int, counted_at: datetime) -> None:
        """Take back from the cell of an admission, or from none when it has left or holds less.

        Never from a newer cell: that would let the older one, when it leaves, take with it what is still inside.
        """
        self.correct_cell(change, difference, _cell(self.quota, counted_at))

    def correct_cell(self, change: Change, difference: int, cell: int) -> None:
        """The same of a cell that is known."""
        if not difference or self.counts.get(cell, 0) + difference < 0 or cell not in self.counts:
            return
        code, sum_of = self.quota.code, self.quota.code + "s"
        change.require(f"#{code} = :{code}", code)
        # Never below what the closed cells hold: the newest one's count is the rest.
        closed = sum(count for other, count in self.counts.items() if other != self.newest)
        change.require(f"#{sum_of} >= :{code}_floor")
        change.values |= {
            f":{code}": self.seen[0],
            f":{code}_amount": difference,
            f":{code}_floor": closed - difference,
        }
        change.add(f"#{sum_of} :{code}_amount", sum_of)
        if cell != self.newest:
            counts = {**self.counts, cell: self.counts[cell] + difference}
            change.set(f"#{code} = :{code}_new", code)
            change.values[f":{code}_new"] = _text(counts, self.newest)

    def _pin(self, change: Change) -> None:
        (text, total), code, sum_of = self.seen, self.quota.code, self.quota.code + "s"
        if text is None:
            change.require(f"attribute_not_exists(#{code})", code)
            return
        change.require(f"#{code} = :{code} AND #{sum_of} = :{code}_seen", code, sum_of)
        change.values |= {f":{code}": text, f":{code}_seen": total}

    def _live(self, now: datetime) -> dict[int, int]:
        return {cell: count for cell, count in self.counts.items() if self.leaves(cell) > now}


def _cell(quota: RollingQuota, moment: datetime) -> int:
    return epoch_ms(moment) // (quota.cell * 1000)


def _text(counts: Mapping[int, int], newest: int) -> str:
    closed = [(newest - cell, count) for cell, count in sorted(counts.items()) if count and cell != newest]
    return base36(newest) + ":" + ",".join(f"{base36(back)}.{base36(count)}" for back, count in closed)
