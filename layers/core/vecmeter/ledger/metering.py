"""The ledger as a request meets it: ``with ledger.admit(demand) as hold: ...; hold.settle(outcome)``.

A request is accounted in two steps, both of which may be repeated by anyone: its record is kept, unless it has one
already; then its hold is released, and the counters move from what it reserved to what the record says. A function
may die between any two steps: the hold is still there then, and the next admission of the key finds it dead and does
the same two steps, with ``unknown`` as the record of a request that left none.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Self

from vecmeter.errors import CostExceedsLimitError, LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.admission import Admissions
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.allotments import Parent
from vecmeter.ledger.demands import Admission, Crowded, Demand
from vecmeter.ledger.holds import HoldMark
from vecmeter.ledger.model import ApiKey, Clock, Cost, LimitState, Operation, Status, UsageRecord
from vecmeter.ledger.outages import insisting
from vecmeter.ledger.prices import PriceList, PriceSource
from vecmeter.ledger.quotas import DEFAULT_ALERT_THRESHOLD_PCT
from vecmeter.ledger.usage import UsageLog
from vecmeter.settings import Settings

# Dead holds one admission accounts for, so that a request waits for a few calls at most.
BURIED_AT_ONCE = 3

_logger = logging.getLogger("vecmeter.ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request turned out to have done. ``vectors``: written, deleted or returned; bytes of the response body.

    ``replayed``: it was answered as an earlier request with its key was, and did and takes nothing itself. ``cache``:
    ``hit``, ``miss`` or ``stale`` of a search, None where there is no cache; a hit takes what the search would take.
    """

    vectors: int = 0
    collection: str | None = None
    namespace: str | None = None
    response_bytes: int = 0
    had_filter: bool = False
    replayed: bool = False
    cache: str | None = None


class Ledger:
    """Admits requests and keeps account of them."""

    def __init__(
        self,
        admissions: Admissions,
        usage: UsageLog,
        prices: PriceSource,
        alerts: Alerts,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._admissions = admissions
        self._usage = usage
        self._prices = prices
        self._tracking = settings.usage_tracking_enabled
        self._clock = clock
        self._alerts = alerts
        self._without_ledger = {
            True: timedelta(seconds=settings.outage_read_seconds),
            False: timedelta(seconds=settings.outage_write_seconds),
        }

    def admit(self, demand: Demand) -> Hold:
        """Let a request run, counted, or raise why it may not (see ``Admissions.admit``)."""
        started = time.perf_counter()
        prices = demand.prices or self._prices.current()
        demand = replace(demand, prices=prices)
        if not self._tracking:
            return Hold(self, self._admissions.authorize(demand), prices, started)
        try:
            admission = self._admit(demand)
        except LimitExceededError as refusal:
            self._record_refusal(demand, refusal)
            raise
        except LedgerUnavailableError:
            uncounted = self._uncounted(demand)
            if uncounted is None:
                raise
            admission = uncounted
        self._bury(admission.key, admission.dead_holds[:BURIED_AT_ONCE])
        return Hold(self, admission, prices, started)

    def _uncounted(self, demand: Demand) -> Admission | None:
        """For a request that may do without the ledger, which has just been found away."""
        reads = demand.operation in (Operation.SEARCH, Operation.FETCH)
        return self._admissions.admit_uncounted(demand, self._without_ledger[reads])

    def _admit(self, demand: Demand) -> Admission:
        try:
            return self._admissions.admit(demand)
        except Crowded as crowded:
            # What fills the places may be dead.
            if not sum(self.bury(api_key_id) for api_key_id in crowded.api_key_ids):
                raise crowded.refusal from None
        try:
            # Under another mark: the first one may be sealed.
            return self._admissions.admit(replace(demand, request_id=demand.request_id + "0"))
        except Crowded as crowded:
            raise crowded.refusal from None

    def authorize(self, demand: Demand) -> Admission:
        """Check the key and count nothing: looking at one's own meter is free."""
        return self._admissions.authorize(demand)

    def current_prices(self) -> PriceList:
        """The list to reckon a demand's cost by; give it along with the demand. Raises LedgerUnavailableError."""
        return self._prices.current()

    def price(self, operation: Operation, *, tokens: int = 0, vectors: int = 0) -> int:
        return self._prices.current().micro_usd(operation, tokens=tokens, vectors=vectors)

    def settle(self, admission: Admission, record: UsageRecord) -> bool:
        """Account for an admitted request. Returns whether the ledger took it all.

        The work is done by now: when the ledger fails here, the request does not.
        """
        if not self._tracking:
            return True
        if admission.uncounted:
            _log_unwritten(record)
            return False
        return self._account(
            admission.key, record, admission.mark, repeated=admission.repeated, project=admission.project
        )

    def replay(self, record: UsageRecord) -> bool:
        """Count and keep a request that was let through while the ledger was away, from the record in the log.

        Repeating it changes nothing. Returns whether it was not counted yet. Its key's rolling limits and its parents'
        limits are left alone: their windows are for admissions.
        """
        return self._admissions.count_late(record, self._usage.insertion(record))

    def bury(self, api_key_id: str) -> int:
        """Account for the requests of a key that never settled; returns how many. For keys that are used no more."""
        key, marks = self._admissions.dead(api_key_id)
        return self._bury(key, marks)

    def count_dead(self, api_key_id: str) -> int:
        """How many there are for ``bury`` to account for."""
        return len(self._admissions.dead(api_key_id)[1])

    def _bury(self, key: ApiKey, marks: Sequence[HoldMark]) -> int:
        """Until the ledger fails: what is left is found again."""
        done = itertools.takewhile(lambda mark: self._account_dead(key, mark), marks)
        return sum(1 for _ in done)

    def _account_dead(self, key: ApiKey, mark: HoldMark) -> bool:
        try:
            record = self._unknown(key, mark)
        except LedgerUnavailableError:
            return False
        return self._account(key, record, mark, repeated=True, project=self._admissions.project_of(mark))

    def _account(
        self, key: ApiKey, record: UsageRecord, mark: HoldMark, *, repeated: bool, project: Parent | None = None
    ) -> bool:
        """The record first: a hold without a record is found and accounted again, a record lost would be lost."""
        try:
            with insisting():
                kept = self._usage.keep(record)
        except LedgerUnavailableError:
            _log_unwritten(record)
            return False
        try:
            with insisting():
                item = self._admissions.settle(
                    key, mark, _cost_of(kept, mark.reserved), repeated=repeated, project=project
                )
        except LedgerUnavailableError:
            _logger.warning("hold left to expire")
            return False
        for limits, states, exact in self._admissions.standing(key, item, mark, project):
            self._alerts.observe(
                key,
                states,
                threshold_pct=limits.get("at", DEFAULT_ALERT_THRESHOLD_PCT),
                repeat_hourly=bool(limits.get("ar")),
                exact=exact,
            )
        return True

    def _record_refusal(self, demand: Demand, refusal: LimitExceededError) -> None:
        key = self._admissions.known_key(demand.credential)
        if key is None:
            return
        record = UsageRecord(
            request_id=demand.request_id,
            started_at=self._clock(),
            api_key_id=key.api_key_id,
            user_id=key.user_id,
            project_id=demand.project_id or key.project_id,
            operation=demand.operation,
            endpoint=demand.endpoint,
            status=Status.QUOTA_EXCEEDED,
            request_bytes=demand.request_bytes,
        )
        try:
            self._usage.write_refusal(record)
        except LedgerUnavailableError:
            _log_unwritten(record)
        self._alerts.observe_refusal(key, record.project_id, refusal.violated)

    def _unknown(self, key: ApiKey, mark: HoldMark) -> UsageRecord:
        return UsageRecord(
            request_id=mark.request_id,
            started_at=mark.started_at,
            api_key_id=key.api_key_id,
            user_id=key.user_id,
            project_id=mark.project_id or key.project_id,
            operation=mark.operation,
            endpoint="",
            status=Status.UNKNOWN,
            requests=mark.reserved.requests,
            tokens=mark.reserved.tokens,
            micro_usd=mark.reserved.micro_usd,
            price_version=self._prices.numbered(mark.price_number).version,
        )


class Hold:
    """An admitted request in flight. Left without ``settle`` it is accounted as a failure that cost nothing; by an
    error that says a limit is reached, as a refusal.
    """

    def __init__(self, ledger: Ledger, admission: Admission, prices: PriceList, started: float) -> None:
        self._ledger = ledger
        self._prices = prices
        self._started = started
        self._settled = False
        self.admission = admission

    @property
    def key(self) -> ApiKey:
        return self.admission.key

    @property
    def limits(self) -> tuple[LimitState, ...]:
        return self.admission.limits

    def cost(self, vectors: int) -> Cost:
        """What the request takes if it succeeds with so many vectors."""
        demand = self.admission.demand
        tokens = demand.cost.tokens
        return Cost(
            requests=demand.cost.requests,
            tokens=tokens,
            vectors=vectors,
            micro_usd=self._prices.micro_usd(
                demand.operation, tokens=tokens, vectors=vectors, searches=max(1, demand.cost.searches)
            ),
        )

    def settle(self, outcome: Outcome) -> bool:
        """Account for a request that succeeded, once the response's bytes are known. False: the ledger failed."""
        actual = Cost(requests=0) if outcome.replayed else self.cost(outcome.vectors)
        return self._finish(Status.SUCCESS, actual, outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settled:
            return
        if isinstance(error, LimitExceededError | CostExceedsLimitError):
            # Found by the work, which was undone: whoever is refused uses nothing.
            self._finish(Status.QUOTA_EXCEEDED, Cost(requests=0), Outcome())
        else:
            requests = self.admission.demand.cost.requests
            self._finish(Status.FAILURE, Cost(requests=requests), Outcome())

    def _finish(self, status: Status, actual: Cost, outcome: Outcome) -> bool:
        self._settled = True
        admission = self.admission
        record = UsageRecord(
            request_id=admission.demand.request_id,
            started_at=admission.started_at,
            api_key_id=admission.key.api_key_id,
            user_id=admission.key.user_id,
            project_id=admission.project_id,
            operation=admission.demand.operation,
            endpoint=admission.demand.endpoint,
            status=status,
            collection=outcome.collection,
            namespace=outcome.namespace,
            requests=actual.requests,
            tokens=actual.tokens,
            vectors=actual.vectors,
            request_bytes=admission.demand.request_bytes,
            response_bytes=outcome.response_bytes,
            duration_ms=(time.perf_counter() - self._started) * 1000,
            micro_usd=actual.micro_usd,
            price_version=self._prices.version,
            had_filter=outcome.had_filter,
            cache=outcome.cache,
            extra={"replayed": True} if outcome.replayed else {},
        )
        return self._ledger.settle(admission, record)


def _cost_of(record: UsageRecord, reserved: Cost) -> Cost:
    """What a request took, as its record says. A search that failed is no search, a vector not written no write."""
    searches, writes = reserved.searches, reserved.writes
    if record.status is Status.SUCCESS and record.operation in (Operation.ADD, Operation.UPSERT):
        writes = min(writes, record.vectors)
    if record.status is Status.FAILURE or not record.requests:
        searches = writes = 0
    return Cost(
        requests=record.requests,
        tokens=record.tokens,
        vectors=record.vectors,
        micro_usd=record.micro_usd,
        searches=searches,
        writes=writes,
    )


def _log_unwritten(record: UsageRecord) -> None:
    """All that is in the record, so that it can be kept later from the log."""
    _logger.error("usage record not written", extra={"usage_record": asdict(record)})
