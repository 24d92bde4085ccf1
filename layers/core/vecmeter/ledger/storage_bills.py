"""What projects pay for what they store: one usage record per project and hour.

The record's id is made of project and hour, so the first one of an hour stands, however often it is billed. Its key is
none that anybody has: storage belongs to a project, whoever wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime

from vecmeter.errors import ProjectNotFoundError
from vecmeter.ledger.model import Clock, Operation, Status, UsageRecord, epoch_ms
from vecmeter.ledger.prices import PriceList, PriceSource
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.totals import hour_of
from vecmeter.ledger.usage import UsageLog

ENDPOINT = "storage"


class StorageBills:
    """Bills stored bytes by the hour, where the price list has a price for them."""

    def __init__(self, usage: UsageLog, projects: Projects, prices: PriceSource, clock: Clock) -> None:
        self._usage = usage
        self._projects = projects
        self._prices = prices
        self._clock = clock

    @property
    def wanted(self) -> bool:
        return self._prices.current().storage_gb_hour > 0

    def bill(self, bytes_by_project: Mapping[str, int]) -> int:
        """Make sure that each project's present hour is billed; returns of how many. Raises LedgerUnavailableError."""
        return len([self._usage.keep(record) for record in self._records(bytes_by_project)])

    def unbilled(self, bytes_by_project: Mapping[str, int]) -> list[UsageRecord]:
        """What ``bill`` would add. Raises LedgerUnavailableError."""
        return [record for record in self._records(bytes_by_project) if not self._usage.has(record)]

    def _records(self, bytes_by_project: Mapping[str, int]) -> Iterator[UsageRecord]:
        prices, hour = self._prices.current(), hour_of(self._clock())
        for project_id, stored in bytes_by_project.items():
            try:
                user_id = self._projects.get(project_id).user_id
            except ProjectNotFoundError:
                continue  # being deleted
            if stored and prices.storage_gb_hour:
                yield _record(project_id, user_id, stored, hour, prices)


def storage_key(project_id: str) -> str:
    """What stands for a key in the records of a project's storage; longer than any key's id."""
    return f"key_storage{_digest(project_id)}"


def _record(project_id: str, user_id: str, stored: int, hour: datetime, prices: PriceList) -> UsageRecord:
    return UsageRecord(
        request_id=_digest(f"{project_id}#{epoch_ms(hour)}"),
        started_at=hour,
        api_key_id=storage_key(project_id),
        user_id=user_id,
        project_id=project_id,
        operation=Operation.COLLECTION,
        endpoint=ENDPOINT,
        status=Status.SUCCESS,
        requests=0,
        micro_usd=prices.storage_micro_usd(stored),
        price_version=prices.version,
        extra={"stored_bytes": stored},
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
