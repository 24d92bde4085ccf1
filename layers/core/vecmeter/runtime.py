"""The composition root: the only place where objects are wired to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from vecmeter.ledger.admission import Admissions
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.audit import AuditLog
from vecmeter.ledger.crossing_search import CrossingSearch
from vecmeter.ledger.events import create_event_bridge
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.metering import Ledger
from vecmeter.ledger.model import Clock
from vecmeter.ledger.policies import Policies
from vecmeter.ledger.prices import PriceList, Prices
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.reports import UsageReports
from vecmeter.ledger.rollups import Rollups
from vecmeter.ledger.signed import find_access
from vecmeter.ledger.storage_bills import StorageBills
from vecmeter.ledger.table import Table
from vecmeter.ledger.usage import UsageLog
from vecmeter.ledger.wire import create_wire
from vecmeter.settings import Settings
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.maintenance import Maintenance
from vecmeter.vectors.records import Records
from vecmeter.vectors.search import Searcher


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything a request or a task may need, wired."""

    settings: Settings
    clock: Clock
    table: Table
    audit: AuditLog
    projects: Projects
    keys: Keys
    usage: UsageLog
    rollups: Rollups
    reports: UsageReports
    alerts: Alerts
    crossings: CrossingSearch
    prices: Prices
    storage_bills: StorageBills
    policies: Policies
    ledger: Ledger
    database: Database
    collections: Collections
    records: Records
    searcher: Searcher
    maintenance: Maintenance
    dsn: Callable[[], str]

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
        self.table.close()
        self.alerts.close()


def build_runtime(settings: Settings, clock: Clock = utc_now) -> Runtime:
    """Wire the objects; nothing connects before it is first used."""

    @cache
    def dsn() -> str:
        return database_dsn(settings)

    database = Database(
        dsn,
        size=settings.database_pool_size,
        connect_timeout_seconds=settings.database_connect_timeout_seconds,
        statement_timeout_ms=settings.statement_timeout_ms,
        prepare_threshold=settings.prepare_threshold,
    )
    collections = Collections(database)
    access = find_access()
    table = Table(create_wire(2 * settings.database_pool_size + 8, access), settings.table_name)
    audit = AuditLog(table, clock, settings.audit_retention_days)
    projects = Projects(table, clock, audit)
    keys = Keys(table, clock, settings.key_environment, projects, audit)
    admissions = Admissions(table, keys, settings, clock)
    usage = UsageLog(table, settings.usage_retention_days, clock)
    rollups = Rollups(table, usage, clock, settings.rollup_retention_days)
    prices = Prices(table, PriceList.from_settings(settings), clock)
    bus = create_event_bridge(settings.event_bus_name, access) if settings.event_bus_name else None
    alerts = Alerts(table, clock, settings.usage_retention_days, lambda project: projects.get(project).user_id, bus)
    return Runtime(
        settings=settings,
        clock=clock,
        table=table,
        audit=audit,
        projects=projects,
        keys=keys,
        usage=usage,
        rollups=rollups,
        reports=UsageReports(rollups, usage, clock),
        alerts=alerts,
        crossings=CrossingSearch(alerts, usage.activity, keys, admissions.parents.items, settings, clock),
        policies=Policies(table, keys, admissions.parents.items, settings, clock),
        prices=prices,
        storage_bills=StorageBills(usage, projects, prices, clock),
        ledger=Ledger(admissions, usage, prices, alerts, settings, clock),
        database=database,
        collections=collections,
        records=Records(database, settings.max_metadata_bytes),
        searcher=Searcher(database, settings.exact_threshold_vectors),
        maintenance=Maintenance(dsn, collections, settings.index_threshold_vectors),
        dsn=dsn,
    )


@cache
def runtime() -> Runtime:
    """The runtime of this process, from its environment. Raises SettingsError naming every mistake."""
    return build_runtime(Settings.from_environment(os.environ))


def database_dsn(settings: Settings) -> str:
    """DATABASE_URL, or the DSN in the secret that DATABASE_SECRET_ARN names (the shape RDS gives its secrets)."""
    if settings.database_url:
        return settings.database_url
    import boto3  # only with a secret
    from psycopg.conninfo import make_conninfo

    answer = boto3.client("secretsmanager").get_secret_value(SecretId=settings.database_secret_arn)
    secret = json.loads(answer["SecretString"])
    return make_conninfo(
        host=secret["host"],
        port=secret.get("port", 5432),
        dbname=secret.get("dbname", "postgres"),
        user=secret["username"],
        password=secret["password"],
        sslmode="require",
    )
