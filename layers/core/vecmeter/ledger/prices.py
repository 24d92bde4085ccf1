"""What operations cost: price lists in micro-USD per million units, so that a single unit may cost less than one.

A cost is rounded up once per request: a list with a price never yields a free request by rounding.

Lists are stored and switched by the operator; the settings have the one that holds until then. A version never changes
its prices once it is written, and every record names the version it was billed by. An instance remembers the current
list for ``REMEMBER``: a switch acts everywhere within that time, and no request waits for a read of its own.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from vecmeter.errors import LedgerUnavailableError, PriceVersionExistsError
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Clock, Operation, epoch_ms, from_epoch_ms
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table
from vecmeter.settings import Settings

REMEMBER = timedelta(seconds=30)
# While the table does not answer, the list known last holds, and the table is asked again after this.
RETRY_AFTER = timedelta(seconds=5)
# Switches at the same moment that may get in the way of another.
_SWITCH_TRIES = 10

_MILLION = 1_000_000
_GB = 1_000_000_000
_PRICES = "PRICES"
_CURRENT = "CURRENT"
_RATES = {"search": "s", "request": "r", "vector_written": "w", "token": "t", "storage_gb_hour": "g"}
_logger = logging.getLogger("vecmeter.ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Micro-USD per million searches, other requests, vectors written and tokens; per million GB-hours stored.

    ``number`` counts the switches of the list: 0 is that of the settings.
    """

    version: str
    search: int
    request: int
    vector_written: int
    token: int
    storage_gb_hour: int = 0
    number: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> PriceList:
        return cls(
            version=settings.price_version,
            search=settings.price_search,
            request=settings.price_request,
            vector_written=settings.price_vector_written,
            token=settings.price_token,
            storage_gb_hour=settings.price_storage_gb_hour,
        )

    @property
    def rates(self) -> dict[str, int]:
        """The prices themselves."""
        return {name: getattr(self, name) for name in _RATES}

    def current(self) -> PriceList:
        """A list that never changes is its own source."""
        return self

    def numbered(self, number: int) -> PriceList:
        return self

    def micro_usd(self, operation: Operation, *, tokens: int = 0, vectors: int = 0, searches: int = 1) -> int:
        """The price of one request of ``operation`` with so many tokens, vectors written or searches, in micro-USD."""
        if operation is Operation.ADMIN:
            return 0
        base = searches * self.search if operation is Operation.SEARCH else self.request
        written = vectors if operation in (Operation.ADD, Operation.UPSERT, Operation.UPDATE) else 0
        millionths = base + written * self.vector_written + tokens * self.token
        return -(-millionths // _MILLION)

    def storage_micro_usd(self, stored_bytes: int) -> int:
        """The price of storing so many bytes for an hour, in micro-USD. A GB is 10^9 bytes."""
        return -(-stored_bytes * self.storage_gb_hour // (_GB * _MILLION))


class PriceSource(Protocol):
    """Where a request finds the list it is billed by, from its reservation to its settlement."""

    def current(self) -> PriceList: ...

    def numbered(self, number: int) -> PriceList: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A price list that became current, when, by whom and why."""

    prices: PriceList
    switched_at: datetime
    switched_by: str
    note: str | None


class Prices:
    """Stored price lists. Threads may share it.

    ``PRICES``/``CURRENT`` is the last switch, ``N#<number>`` each one before, ``V#<version>`` what a version costs.
    """

    def __init__(self, table: Table, default: PriceList, clock: Clock) -> None:
        self._table = table
        self.default = default
        self._clock = clock
        self._known: PriceList | None = None
        self._known_until: tuple[datetime, datetime] | None = None
        self._reading = threading.Lock()

    def current(self) -> PriceList:
        """The list that holds, at most ``REMEMBER`` old; older only while the table does not answer.

        Raises:
            LedgerUnavailableError: nothing is known yet and the table does not answer.
        """
        known, now = self._known, self._clock()
        if known is None:
            with self._reading:
                return self._known or self._renew(now)
        if self._is_fresh(now) or not self._reading.acquire(blocking=False):  # another thread is at it
            return known
        try:
            return self._renew(now)
        except LedgerUnavailableError:
            _logger.warning("price list not read; the last one known holds", extra={"price_version": known.version})
            self._known_until = (now, now + RETRY_AFTER)
            return known
        finally:
            self._reading.release()

    def last_switch(self) -> Switch | None:
        """The list that holds now, read now; None where it is that of the settings."""
        item = self._table.get(_PRICES, _CURRENT)
        return _from_item(item) if item else None

    def switches(self, *, before: int | None = None) -> Iterator[Switch]:
        """All switches, the newest first; those with numbers below ``before``."""
        last = self.last_switch()
        if last is None:
            return
        if before is None or last.prices.number < before:
            yield last
        high = min(last.prices.number, before or last.prices.number) - 1
        for item in self._table.query(_PRICES, between=(_number(1), _number(high)), newest_first=True):
            yield _from_item(item)

    def numbered(self, number: int) -> PriceList:
        """The list of a switch; a request in flight remembers it by this. Raises LedgerUnavailableError."""
        for known in (self._known, self.default):
            if known is not None and known.number == number:
                return known
        item = self._table.get(_PRICES, _number(number)) or self._table.get(_PRICES, _CURRENT)
        return _from_item(item).prices if item and item["n"] == number else self.default

    def switch(self, prices: PriceList, *, by: str, note: str | None) -> Switch:
        """Make a list the current one; the one that is already stays as it is.

        Args:
            prices: an empty ``version`` gets one made of the prices; ``number`` is given here.
            by: the API key that asked for it.

        Raises:
            PriceVersionExistsError: the version has other prices.
            LedgerUnavailableError: the table does not answer; repeating the call is harmless.
        """
        prices = replace(prices, version=prices.version or _version_of(prices))
        self._keep_version(prices)
        for _ in range(_SWITCH_TRIES):
            item = self._table.get(_PRICES, _CURRENT)
            if item is not None:
                last = _from_item(item)
                if last.prices.version == prices.version:
                    return last
                # Kept under its number before another takes its place; whoever was to do so may have died.
                self._keep({**item, "sk": _number(last.prices.number)})
            number = item["n"] + 1 if item else 1
            now = from_epoch_ms(epoch_ms(self._clock()))
            switch = Switch(prices=replace(prices, number=number), switched_at=now, switched_by=by, note=note)
            if self._take_place(switch):
                self._known = None
                return switch
        raise LedgerUnavailableError("The price list changes too fast; try again shortly.")

    def _take_place(self, switch: Switch) -> bool:
        number = switch.prices.number
        # nobody switched since it was read
        condition = "#n = :before" if number > 1 else "attribute_not_exists(pk)"
        values = {":n": number, ":switch": _content(switch)}
        try:
            self._table.update(
                _PRICES,
                _CURRENT,
                update="SET #n = :n, #c = :switch",
                condition=condition,
                names={"#n": "n", "#c": "c"},
                values=values | ({":before": number - 1} if number > 1 else {}),
                attempts=WRITE_ATTEMPTS,  # after a lost answer it fails, and the list found there is this one
            )
        except ConditionFailed:
            return False
        return True

    def _keep_version(self, prices: PriceList) -> None:
        if prices.version == self.default.version and prices.rates != self.default.rates:
            raise _exists(prices.version)
        item: Item = {"pk": _PRICES, "sk": f"V#{prices.version}", **_rates_item(prices)}
        kept = self._keep(item)
        if _rates_from(kept) != prices.rates:
            raise _exists(prices.version)

    def _keep(self, item: Item) -> Item:
        """Write an item that never changes, unless it is there; returns the one that is."""
        try:
            self._table.put_new(item)
        except ConditionFailed as there:
            return there.item or item
        return item

    def _is_fresh(self, now: datetime) -> bool:
        # A clock that was set back makes a list old, too.
        return self._known_until is not None and self._known_until[0] <= now < self._known_until[1]

    def _renew(self, now: datetime) -> PriceList:
        last = self.last_switch()
        self._known = last.prices if last else self.default
        self._known_until = (now, now + REMEMBER)
        return self._known


def _exists(version: str) -> PriceVersionExistsError:
    return PriceVersionExistsError(f"Version {version!r} has other prices, and records that were billed by them.")


def _version_of(prices: PriceList) -> str:
    """The same prices get the same version, so that a repeated call is the same call."""
    return f"p-{hashlib.sha256(repr(prices.rates).encode()).hexdigest()[:12]}"


def _number(number: int) -> str:
    return f"N#{number:010d}"


def _rates_item(prices: PriceList) -> Item:
    return {short: getattr(prices, name) for name, short in _RATES.items()}


def _rates_from(item: Item) -> dict[str, int]:
    return {name: item[short] for name, short in _RATES.items()}


def _content(switch: Switch) -> Item:
    return {
        "v": switch.prices.version,
        **_rates_item(switch.prices),
        "at": epoch_ms(switch.switched_at),
        "by": switch.switched_by,
        "no": switch.note,
    }


def _from_item(item: Item) -> Switch:
    content = item["c"]
    rates: dict[str, Any] = _rates_from(content)
    return Switch(
        prices=PriceList(version=content["v"], number=item["n"], **rates),
        switched_at=from_epoch_ms(content["at"]),
        switched_by=content["by"],
        note=content.get("no"),
    )
