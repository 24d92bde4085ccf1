"""The composition root: the only place where objects are wired to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from vecmeter.build_starts import FunctionBuilds, ThreadBuilds, lambda_client
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
from vecmeter.vectors.bulk_writes import BulkWrites, StartBuild
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.descriptions import Descriptions
from vecmeter.vectors.index_builds import IndexBuilds
from vecmeter.vectors.index_policy import Thresholds
from vecmeter.vectors.maintenance import Maintenance
from vecmeter.vectors.recall import Probe, measure_recall
from vecmeter.vectors.records import Records
from vecmeter.vectors.search import Searcher


def utc_now() -> datetime:
    return datetime.now(UTC)


# Long enough to see a load whose batches take a second each.
LOOK_SECONDS = 3.0


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
    descriptions: Descriptions
    maintenance: Maintenance
    bulk_writes: BulkWrites
    dsn: Callable[[], str]

    def close(self) -> None:
        """Close every connection, once builds begun by this process have ended."""
        self.bulk_writes.close()
        self.database.close()
        self.table.close()
        self.alerts.close()


def build_runtime(settings: Settings, clock: Clock = utc_now) -> Runtime:
    """Wire the objects; nothing connects before it is first used."""

    @cache
    def dsn() -> str:
        return database_dsn(settings)

    database = _database(settings, dsn)
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
    searcher = Searcher(database, settings.exact_threshold_vectors)
    maintenance = Maintenance(dsn, collections, _index_builds(settings, searcher))
    bulk_writes = BulkWrites(settings.index_threshold_vectors, _start_builds(settings, maintenance))
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
        records=Records(database, settings.max_metadata_bytes, bulk_writes.wrote),
        searcher=searcher,
        descriptions=Descriptions(database, settings.exact_threshold_vectors),
        maintenance=maintenance,
        bulk_writes=bulk_writes,
        dsn=dsn,
    )


def _database(settings: Settings, dsn: Callable[[], str]) -> Database:
    return Database(
        dsn,
        size=settings.database_pool_size,
        connect_timeout_seconds=settings.database_connect_timeout_seconds,
        statement_timeout_ms=settings.statement_timeout_ms,
        prepare_threshold=settings.prepare_threshold,
    )


def _index_builds(settings: Settings, searcher: Searcher) -> IndexBuilds:
    thresholds = Thresholds(
        collection=settings.index_threshold_vectors,
        namespace=settings.exact_threshold_vectors,
        most_namespaces=settings.max_namespace_indexes,
    )
    return IndexBuilds(
        thresholds=thresholds,
        most_memory=settings.index_build_memory_mb * 2**20,
        look_seconds=LOOK_SECONDS,
        measure=lambda collection, namespace: measure_recall(searcher, collection, Probe(namespace=namespace)).recall,
    )


def _start_builds(settings: Settings, maintenance: Maintenance) -> StartBuild | None:
    """By the maintenance function; in a server by threads. A function that knows of none leaves it to the schedule."""
    if settings.maintenance_function_name:
        return FunctionBuilds(settings.maintenance_function_name, lambda_client)
    if settings.database_pool_size > 1:
        return ThreadBuilds(maintenance.build_soon)
    return None


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
