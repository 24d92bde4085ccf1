"""Costs by day and by user, and one's own. Whole micro-USD are summed, and made USD at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.usage_access import visible_usage
from admin_function.usage_schemas import (
    CostOut,
    CostsOut,
    DailyCostsOut,
    DailyCostsParameters,
    DayCostsOut,
    DaysParameters,
    TopUsersOut,
    TopUsersParameters,
    UserCostsOut,
)
from vecmeter.http.dependencies import CallDependency, render
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.export import Month
from vecmeter.ledger.model import Operation, Role
from vecmeter.ledger.quotas import COST_METERS
from vecmeter.ledger.reports import Selection, UsageReports
from vecmeter.ledger.rollups import DAY
from vecmeter.ledger.totals import KeyName, Totals, day_of

admin = APIRouter(tags=["costs"], prefix="/admin/costs", route_class=BusinessRoute)
own = APIRouter(tags=["own usage"], route_class=BusinessRoute)

_Day = defaultdict[Operation, Totals]
_Days = Mapping[datetime, _Day]


@admin.get("/daily", response_model=DailyCostsOut, operation_id="daily_costs")
def daily(query: Annotated[DailyCostsParameters, Query()], call: CallDependency) -> Response:
    """What each of the last days cost, and what the month will if it goes on so."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        selection = visible_usage(
            call.runtime,
            hold.key,
            api_key_id=query.api_key_id,
            project_id=query.project_id,
            user_id=query.user_id,
        )
        now = call.runtime.clock()
        month = Month.of(now)
        first = _first_day(now, query.days)
        days = _by_day(call.runtime.reports, selection, min(first, month.start), now)
        asked = {day: operations for day, operations in days.items() if day >= first}
        this_month = sum(_micro_usd(operations) for day, operations in days.items() if day >= month.start)
        answer = DailyCostsOut(
            days=_days_out(asked),
            total_usd=sum(map(_micro_usd, asked.values())) / 1_000_000,
            projection_month_usd=round(_projected(this_month, month, now) / 1_000_000, 6),
        )
        return call.respond(hold, answer)


@admin.get("/users/top", response_model=TopUsersOut, operation_id="top_users_by_cost")
def top_users(query: Annotated[TopUsersParameters, Query()], call: CallDependency) -> Response:
    """The users who cost most in the last days, of those one may see."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        selection = visible_usage(call.runtime, hold.key)
        now = call.runtime.clock()
        users: defaultdict[str, Totals] = defaultdict(Totals)
        first = _first_day(now, query.days)
        for portion in call.runtime.reports.portions(selection, first, now, by_day=True):
            users[portion.key.user_id].merge(portion.totals)
        whole = sum(totals.micro_usd for totals in users.values())
        ranked = sorted(users.items(), key=lambda entry: (-entry[1].micro_usd, entry[0]))[: query.limit]
        shown = [
            UserCostsOut(
                user_id=user_id,
                cost_usd=totals.micro_usd / 1_000_000,
                requests=totals.requests,
                share_pct=round(100 * totals.micro_usd / whole, 2) if whole else 0.0,
            )
            for user_id, totals in ranked
        ]
        return call.respond(hold, TopUsersOut(users=shown))


@own.get("/costs/me", response_model=CostsOut, operation_id="own_costs")
def own_costs(query: Annotated[DaysParameters, Query()], call: CallDependency) -> Response:
    """What the calling key cost today, this month and on each of the last days (UTC). Looking is free."""
    key = call.authorize().key
    _, counters = call.runtime.keys.get_with_counters(key.api_key_id)
    now = call.runtime.clock()
    today, month = (int(counters.get(meter.counter(now), 0)) / 1_000_000 for meter in COST_METERS)
    selection = Selection(key=KeyName(key.user_id, key.api_key_id))
    days = _by_day(call.runtime.reports, selection, _first_day(now, query.days), now)
    version = call.runtime.prices.current().version
    return render(CostsOut(today_usd=today, month_usd=month, price_version=version, days=_days_out(days)))


def _first_day(now: datetime, days: int) -> datetime:
    return day_of(now) - (days - 1) * DAY


def _by_day(reports: UsageReports, selection: Selection, first: datetime, now: datetime) -> _Days:
    """Every day from the first on, also those on which nothing was used."""
    days: dict[datetime, _Day] = {}
    day = first
    while day <= now:
        days[day] = defaultdict(Totals)
        day += DAY
    # To the millisecond that comes next, for that is how records are kept.
    for portion in reports.portions(selection, first, now + timedelta(milliseconds=1), by_day=True):
        days[day_of(portion.start)][portion.group.operation].merge(portion.totals)
    return days


def _days_out(days: _Days) -> list[DayCostsOut]:
    return [
        DayCostsOut(
            date=day.date(),
            cost_usd=_micro_usd(operations) / 1_000_000,
            requests=sum(totals.requests for totals in operations.values()),
            by_operation={
                operation.value: CostOut(cost_usd=totals.micro_usd / 1_000_000, requests=totals.requests)
                for operation, totals in sorted(operations.items())
                if totals.requests or totals.micro_usd
            },
        )
        for day, operations in sorted(days.items())
    ]


def _micro_usd(operations: _Day) -> int:
    return sum(totals.micro_usd for totals in operations.values())


def _projected(micro_usd: int, month: Month, now: datetime) -> float:
    return micro_usd * ((month.end - month.start) / max(now - month.start, timedelta(seconds=1)))
