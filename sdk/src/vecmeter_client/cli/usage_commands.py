"""``vecmeter usage``, ``costs`` and ``alerts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vecmeter_client import to_dict
from vecmeter_client.cli.invocation import Command, Group, Invocation, pass_invocation
from vecmeter_client.cli.output import cell, table
from vecmeter_client.cli.parameters import hours_option, key_id_option, owner_option

_TOTALS = (
    "total_requests",
    "refused_requests",
    "total_tokens",
    "total_vectors",
    "success_rate",
    "avg_duration_ms",
    "cost_usd",
)
_ALERT_COLUMNS = ("created_at", "scope", "scope_id", "limit_name", "threshold_pct", "percentage", "used", "limit")

_days = click.option("--days", type=click.IntRange(min=1), default=30, show_default=True, help="How far back.")


@click.command(cls=Command)
@click.option("--all", "everybody", is_flag=True, help="Of everybody the key may see; takes the role admin.")
@hours_option
@key_id_option
@owner_option
@pass_invocation
def usage(invocation: Invocation, /, everybody: bool, hours: int, key_id: str | None, user: str | None) -> None:
    """Show what the key has used; with --all what others have, and --project, --key-id, --user choose whom."""
    client = invocation.client()
    if everybody:
        report = client.admin.usage(hours=hours, api_key_id=key_id, project_id=invocation.project_option, user_id=user)
    elif key_id or user or invocation.project_option:
        raise click.UsageError("--project, --key-id and --user choose among everybody's: say --all.")
    else:
        report = client.usage(hours=hours)
    invocation.out.document(report, human=_report(to_dict(report)))


def _report(report: Mapping[str, Any]) -> str:
    operations: Mapping[str, Mapping[str, Any]] = report.get("by_operation") or {}
    rows = [[name, *(cell(totals.get(column)) for column in _TOTALS)] for name, totals in operations.items()]
    rows.append(["total", *(cell(report.get(column)) for column in _TOTALS)])
    titles = ["operation", *(column.removeprefix("total_").removesuffix("_requests") for column in _TOTALS)]
    return f"{cell(report.get('start'))} to {cell(report.get('end'))}\n{table(titles, rows)}"


@click.group(cls=Group)
def costs() -> None:
    """What was spent, in US dollars by the price list."""


@costs.command("own")
@_days
@pass_invocation
def own(invocation: Invocation, /, days: int) -> None:
    """What the key itself has cost."""
    report = invocation.client().costs(days=days)
    head = f"today {cell(report.today_usd)}   this month {cell(report.month_usd)}   prices {report.price_version}"
    invocation.out.document(report, human=f"{head}\n{_by_day(to_dict(report))}")


@costs.command("daily")
@_days
@owner_option
@key_id_option
@pass_invocation
def daily(invocation: Invocation, /, days: int, user: str | None, key_id: str | None) -> None:
    """Day by day; with --project only of the project. Takes the role admin."""
    report = invocation.client().admin.costs_daily(
        days=days, user_id=user, project_id=invocation.project_option, api_key_id=key_id
    )
    head = f"total {cell(report.total_usd)}   this month at this rate {cell(report.projection_month_usd)}"
    invocation.out.document(report, human=f"{head}\n{_by_day(to_dict(report))}")


@costs.command("top")
@_days
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="How many users.")
@pass_invocation
def top(invocation: Invocation, /, days: int, limit: int) -> None:
    """The users who cost most. Takes the role admin."""
    users = invocation.client().admin.costs_top_users(days=days, limit=limit)
    invocation.out.items(users, ("user_id", "requests", "cost_usd", "share_pct"))


def _by_day(content: Mapping[str, Any]) -> str:
    rows = [[cell(day.get(column)) for column in ("date", "requests", "cost_usd")] for day in content["days"]]
    return table(["date", "requests", "cost_usd"], rows)


@click.command(cls=Command)
@hours_option
@key_id_option
@owner_option
@pass_invocation
def alerts(invocation: Invocation, /, hours: int, key_id: str | None, user: str | None) -> None:
    """List alerts: limits that came near; with --project only of the project. Takes the role admin."""
    found = invocation.client().admin.alerts(
        hours=hours, api_key_id=key_id, project_id=invocation.project_option, user_id=user
    )
    invocation.out.items(found, _ALERT_COLUMNS)
