"""A month of usage as a file: one line per record (CSV, JSON lines), or per day, key, project and operation (FOCUS).

FOCUS is the FinOps Open Cost and Usage Specification, 1.2: its mandatory columns, the conditional ones that apply, and
our own with ``x_``. Each line has a position in an order of its own, so that pages put together are the file.
Money is whole micro-USD inside and decimal USD outside; the sum of the lines is the sum of the records.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.ledger.model import Operation, UsageRecord
from vecmeter.ledger.reports import Selection, UsageReports, export_position
from vecmeter.ledger.rollups import DAY
from vecmeter.ledger.totals import Group, Totals

_MONTH_FORM = "%Y-%m"
# Spreadsheets take a cell that begins so for a formula. See OWASP, "CSV injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_RECORD_COLUMNS = tuple(field.name for field in dataclasses.fields(UsageRecord) if field.name != "micro_usd")


class ExportFormat(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    FOCUS = "focus"

    @property
    def media_type(self) -> str:
        return "application/x-ndjson" if self is ExportFormat.JSONL else "text/csv; charset=utf-8"

    @property
    def extension(self) -> str:
        return "focus.csv" if self is ExportFormat.FOCUS else self.value


class Line(NamedTuple):
    """A line with its end. ``position``: where it stands, to go on after it."""

    position: str
    text: str


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month (UTC): [start, end)."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, moment: datetime) -> Month:
        start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
        return cls(start, (start + 31 * DAY).replace(day=1))

    @classmethod
    def parse(cls, text: str) -> Month:
        """The month that ``2026-11`` names. Raises ValueError."""
        try:
            moment = datetime.strptime(text, _MONTH_FORM).replace(tzinfo=UTC)
        except ValueError:
            moment = None
        if moment is None or f"{moment:{_MONTH_FORM}}" != text or not 2000 <= moment.year <= 9000:
            raise ValueError("must be a month like 2026-11")
        return cls.of(moment)

    def __str__(self) -> str:
        return f"{self.start:{_MONTH_FORM}}"


@dataclass(frozen=True, slots=True)
class Export:
    """A month of somebody's usage in one format."""

    reports: UsageReports
    selection: Selection
    month: Month
    format: ExportFormat

    def check(self, horizon: datetime) -> None:
        """Raises InvalidRequestError: records of the month are gone. ``horizon``: before it they are."""
        if self.format is not ExportFormat.FOCUS and self.month.start < horizon:
            message = "is past the retention of records; the format focus goes back further"
            raise InvalidRequestError(f"month {message}.", (Violation("month", message),))

    @property
    def header(self) -> str:
        """The first line of the file; empty for JSON lines."""
        if self.format is ExportFormat.JSONL:
            return ""
        names = _FOCUS_COLUMNS if self.format is ExportFormat.FOCUS else (*_RECORD_COLUMNS, "cost_usd")
        return _csv_line(names)

    def lines(self, after: str = "") -> Iterator[Line]:
        """The lines below the header, after the position of the last one seen."""
        if self.format is ExportFormat.FOCUS:
            return self._focus(after)
        return self._records(after, _csv_record if self.format is ExportFormat.CSV else _json_record)

    def _records(self, after: str, line: Callable[[UsageRecord], str]) -> Iterator[Line]:
        records = self.reports.records_onwards(self.selection, self.month.start, self.month.end, after=after)
        for record in records:
            if self.selection.covers(Group(record.project_id, record.operation, record.endpoint)):
                yield Line(export_position(record), line(record))

    def _focus(self, after: str) -> Iterator[Line]:
        # All of an earlier day stands before ``after``; it need not be read.
        first = self.month.start + (int(after[:2]) - 1) * DAY if after else self.month.start
        for day, portions in self.reports.days(self.selection, first, self.month.end):
            charges: defaultdict[Charge, Totals] = defaultdict(Totals)
            for _, key, group, totals in portions:
                charges[Charge(day, *key, group.project_id or "", group.operation)].merge(totals)
            for charge in sorted(charges, key=lambda charge: charge.position):
                totals = charges[charge]
                if charge.position > after and (totals.requests or totals.micro_usd):
                    yield Line(charge.position, _focus_line(self.month, charge, totals))


class Charge(NamedTuple):
    """What a line of FOCUS is about."""

    day: datetime
    user_id: str
    api_key_id: str
    project_id: str
    operation: Operation

    @property
    def position(self) -> str:
        return f"{self.day:%d}|" + "|".join(self[1:])


def object_name(month: Month, form: ExportFormat) -> str:
    """Where a month is stored: always the same place."""
    return f"usage/{month}/usage-{month}.{form.extension}"


def usd(micro_usd: int) -> str:
    """Micro-USD as decimal USD, exactly: ``0.000005``."""
    return f"{micro_usd // 1_000_000}.{micro_usd % 1_000_000:06}"


def _plain(record: UsageRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _RECORD_COLUMNS}
    values["started_at"] = record.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return values


def _csv_record(record: UsageRecord) -> str:
    values = _plain(record)
    values["extra"] = json.dumps(record.extra, separators=(",", ":")) if record.extra else None
    values["had_filter"] = "true" if record.had_filter else "false"
    return _csv_line((*values.values(), usd(record.micro_usd)))


def _json_record(record: UsageRecord) -> str:
    values = {name: value for name, value in _plain(record).items() if value is not None}
    # Decimal, so that readers with exact numbers keep the sum exact.
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return f'{text[:-1]},"cost_usd":{usd(record.micro_usd)}}}\n'


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


_FOCUS_COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_Tokens",
    "x_Vectors",
)


def _focus_line(month: Month, charge: Charge, totals: Totals) -> str:
    cost = usd(totals.micro_usd)
    operation = charge.operation.value
    values: dict[str, Any] = {
        "BilledCost": cost,
        "BillingAccountId": charge.user_id,
        "BillingAccountName": charge.user_id,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _moment(month.end),
        "BillingPeriodStart": _moment(month.start),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{operation} requests of {charge.api_key_id}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _moment(charge.day + timedelta(days=1)),
        "ChargePeriodStart": _moment(charge.day),
        "ConsumedQuantity": totals.requests,
        "ConsumedUnit": "Requests",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": "Vecmeter",
        "ListCost": cost,
        "PricingCategory": "Standard",
        "PricingQuantity": totals.requests,
        "PricingUnit": "Requests",
        "ProviderName": "Vecmeter",
        "PublisherName": "Vecmeter",
        "ResourceId": charge.api_key_id,
        "ResourceName": charge.api_key_id,
        "ResourceType": "API key",
        "ServiceCategory": "Databases",
        "ServiceName": "Vecmeter",
        "SkuId": f"vecmeter-{operation}",
        "SubAccountId": charge.project_id or None,
        "SubAccountName": charge.project_id or None,
        "Tags": json.dumps({"vecmeter/operation": operation}),
        "x_Tokens": totals.tokens,
        "x_Vectors": totals.vectors,
    }
    return _csv_line(values.get(name) for name in _FOCUS_COLUMNS)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
