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
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from vecmeter.errors import LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.admission import Admission, Admissions, Demand
from vecmeter.ledger.holds import HoldMark
from vecmeter.ledger.model import ApiKey, Clock, Cost, LimitState, Operation, Status, UsageRecord
from vecmeter.ledger.prices import PriceList
from vecmeter.ledger.usage import UsageLog
from vecmeter.settings import Settings

# Dead holds one admission accounts for, so that a request waits for a few calls at most.
BURIED_AT_ONCE = 3

_logger = logging.getLogger("vecmeter.ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request turned out to have done. ``vectors``: written, deleted or returned; bytes of the response body."""

    vectors: int = 0
    collection: str | None = None
    namespace: str | None = None
    response_bytes: int = 0
    had_filter: bool = False


class Ledger:
    """Admits requests and keeps account of them."""

    def __init__(
        self,
        admissions: Admissions,
        usage: UsageLog,
        prices: PriceList,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._admissions = admissions
        self._usage = usage
        self._prices = prices
        self._tracking = settings.usage_tracking_enabled
        self._clock = clock

    def admit(self, demand: Demand) -> Hold:
        """Let a request run, counted, or raise why it may not (see ``Admissions.admit``)."""
        started = time.perf_counter()
        if not self._tracking:
            return Hold(self, self._admissions.authorize(demand), self._prices, started)
        try:
            admission = self._admissions.admit(demand)
        except LimitExceededError:
            self._record_refusal(demand)
            raise
        self._bury(admission.key, admission.dead_holds[:BURIED_AT_ONCE])
        return Hold(self, admission, self._prices, started)

    def authorize(self, demand: Demand) -> Admission:
        """Check the key and count nothing: looking at one's own meter is free."""
        return self._admissions.authorize(demand)

    def price(self, operation: Operation, *, tokens: int = 0, vectors: int = 0) -> int:
        return self._prices.micro_usd(operation, tokens=tokens, vectors=vectors)

    def settle(self, admission: Admission, record: UsageRecord) -> bool:
        """Account for an admitted request. Returns whether the ledger took it all.

        The work is done by now: when the ledger fails here, the request does not.
        """
        if not self._tracking:
            return True
        return self._account(record, admission.mark, repeated=admission.repeated)

    def bury(self, api_key_id: str) -> int:
        """Account for the requests of a key that never settled; returns how many. For keys that are used no more."""
        key, marks = self._admissions.dead(api_key_id)
        return self._bury(key, marks)

    def _bury(self, key: ApiKey, marks: Sequence[HoldMark]) -> int:
        """Until the ledger fails: what is left is found again."""
        done = itertools.takewhile(lambda mark: self._account(self._unknown(key, mark), mark, repeated=True), marks)
        return sum(1 for _ in done)

    def _account(self, record: UsageRecord, mark: HoldMark, *, repeated: bool) -> bool:
        """The record first: a hold without a record is found and accounted again, a record lost would be lost."""
        try:
            kept = self._usage.keep(record)
        except LedgerUnavailableError:
            _log_unwritten(record)
            return False
        actual = Cost(requests=kept.requests, tokens=kept.tokens, vectors=kept.vectors, micro_usd=kept.micro_usd)
        try:
            self._admissions.settle(record.api_key_id, mark, actual, repeated=repeated)
        except LedgerUnavailableError:
            _logger.warning("hold left to expire")
            return False
        return True

    def _record_refusal(self, demand: Demand) -> None:
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
            price_version=self._prices.version,
        )


class Hold:
    """An admitted request in flight. Left without ``settle`` it is accounted as a failure that cost nothing."""

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
            micro_usd=self._prices.micro_usd(demand.operation, tokens=tokens, vectors=vectors),
        )

    def settle(self, outcome: Outcome) -> bool:
        """Account for a request that succeeded, once the response's bytes are known. False: the ledger failed."""
        return self._finish(Status.SUCCESS, self.cost(outcome.vectors), outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
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
        )
        return self._ledger.settle(admission, record)


def _log_unwritten(record: UsageRecord) -> None:
    """All that is in the record, so that it can be kept later from the log."""
    _logger.error("usage record not written", extra={"usage_record": asdict(record)})
