"""The composition root: the only place where objects are wired to each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from vecmeter.breaker import Circuit, Circuits
from vecmeter.build_starts import FunctionBuilds, MaintenanceFunction, ThreadBuilds, lambda_client
from vecmeter.database_address import DatabaseAddress, database_address
from vecmeter.embedding.query_cache import QueryEmbeddings
from vecmeter.embedding.registry import Embedders
from vecmeter.ledger.access import Access, find_access
from vecmeter.ledger.admission import Admissions
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.audit import AuditLog
from vecmeter.ledger.crossing_search import CrossingSearch
from vecmeter.ledger.embeddings import EmbeddingStore
from vecmeter.ledger.events import create_event_bridge
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.metering import Ledger
from vecmeter.ledger.model import Clock
from vecmeter.ledger.outages import circuit_of_ledger
from vecmeter.ledger.policies import Policies
from vecmeter.ledger.prices import PriceList, Prices
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.reports import UsageReports
from vecmeter.ledger.rollups import Rollups
from vecmeter.ledger.storage_bills import StorageBills
from vecmeter.ledger.table import Table
from vecmeter.ledger.usage import UsageLog
from vecmeter.ledger.wire import create_wire
from vecmeter.settings import Settings
from vecmeter.vectors.bulk_writes import BulkWrites, StartBuild
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.descriptions import Descriptions
from vecmeter.vectors.history import History
from vecmeter.vectors.index_builds import IndexBuilds
from vecmeter.vectors.index_policy import Thresholds
from vecmeter.vectors.maintenance import Maintenance
from vecmeter.vectors.probing import Prober
from vecmeter.vectors.recall import Probe, measure_recall
from vecmeter.vectors.records import Records
from vecmeter.vectors.reindex import ReindexThresholds
from vecmeter.vectors.result_cache import ResultCache
from vecmeter.vectors.search import Searcher
from vecmeter.vectors.turns import Turns
from vecmeter.vectors.vacuum import VacuumThresholds


def utc_now() -> datetime:
    return datetime.now(UTC)


# Long enough to see a load whose batches take a second each.
LOOK_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything a request or a task may need, wired."""

    settings: Settings
    clock: Clock
    circuits: Circuits
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
    result_cache: ResultCache
    embedders: Embedders
    query_embeddings: QueryEmbeddings
    descriptions: Descriptions
    maintenance: Maintenance
    maintenance_function: MaintenanceFunction | None
    history: History
    bulk_writes: BulkWrites
    dsn: Callable[[], str]

    def close(self) -> None:
        """Close every connection, once builds begun by this process have ended."""
        self.bulk_writes.close()
        self.disconnect()

    def disconnect(self) -> None:
        """Close every connection; whoever needs one next opens a new one."""
        self.database.close()
        self.table.close()
        self.alerts.close()


def build_runtime(settings: Settings, clock: Clock = utc_now) -> Runtime:
    """Wire the objects; nothing connects before it is first used."""
    circuits, address = _circuits(settings), database_address(settings)
    database, turns = _database(settings, address, circuits.database), Turns(address.dsn, address.renew)
    collections = Collections(database)
    access = find_access()
    table = _table(settings, access, circuits.ledger)
    audit = AuditLog(table, clock, settings.audit_retention_days)
    projects = Projects(table, clock, audit)
    keys = Keys(table, clock, settings.key_environment, projects, audit)
    admissions = Admissions(table, keys, settings, clock)
    usage = UsageLog(table, settings.usage_retention_days, clock)
    rollups = Rollups(table, usage, clock, settings.rollup_retention_days)
    prices = Prices(table, PriceList.from_settings(settings), clock)
    alerts = _alerts(settings, table, clock, projects, access)
    searcher = Searcher(database, settings.exact_threshold_vectors)
    maintenance = _maintenance(settings, turns, collections, searcher)
    function = _maintenance_function(settings)
    bulk_writes = BulkWrites(settings.index_threshold_vectors, _start_builds(settings, function, maintenance))
    return Runtime(
        settings=settings,
        clock=clock,
        circuits=circuits,
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
        result_cache=ResultCache(database, settings.result_cache_mb * 2**20, settings.result_cache_seconds),
        embedders=Embedders(circuits.embedder),
        query_embeddings=_query_embeddings(settings, table, clock),
        descriptions=Descriptions(database, settings.exact_threshold_vectors),
        maintenance=maintenance,
        maintenance_function=function,
        history=History(turns),
        bulk_writes=bulk_writes,
        dsn=address.dsn,
    )


def _table(settings: Settings, access: Access, circuit: Circuit) -> Table:
    return Table(create_wire(2 * settings.database_pool_size + 8, access), settings.table_name, circuit=circuit)


def _alerts(settings: Settings, table: Table, clock: Clock, projects: Projects, access: Access) -> Alerts:
    bus = create_event_bridge(settings.event_bus_name, access) if settings.event_bus_name else None
    return Alerts(table, clock, settings.usage_retention_days, lambda project: projects.get(project).user_id, bus)


def _query_embeddings(settings: Settings, table: Table, clock: Clock) -> QueryEmbeddings:
    days = settings.embedding_cache_days
    return QueryEmbeddings(settings.embedding_cache_mb * 2**20, EmbeddingStore(table, days, clock) if days else None)


def _circuits(settings: Settings) -> Circuits:
    def circuit(name: str) -> Circuit:
        return Circuit(
            name,
            failures=settings.circuit_failures,
            window_seconds=settings.circuit_window_seconds,
            open_seconds=settings.circuit_open_seconds,
        )

    return Circuits(database=circuit("database"), embedder=circuit("embedder"), ledger=circuit_of_ledger())


def _database(settings: Settings, address: DatabaseAddress, circuit: Circuit) -> Database:
    return Database(
        address.dsn,
        renew_dsn=address.renew,
        circuit=circuit,
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


def _maintenance(settings: Settings, turns: Turns, collections: Collections, searcher: Searcher) -> Maintenance:
    return Maintenance(
        turns,
        collections,
        _index_builds(settings, searcher),
        Prober(searcher, settings.recall_sample),
        to_vacuum=VacuumThresholds(
            dead_percent=settings.vacuum_dead_percent, changed_percent=settings.vacuum_changed_percent
        ),
        to_reindex=ReindexThresholds(
            growth_percent=settings.reindex_growth_percent, bloat_percent=settings.reindex_bloat_percent
        ),
    )


def _maintenance_function(settings: Settings) -> MaintenanceFunction | None:
    name = settings.maintenance_function_name
    return MaintenanceFunction(name, lambda_client) if name else None


def _start_builds(
    settings: Settings, function: MaintenanceFunction | None, maintenance: Maintenance
) -> StartBuild | None:
    """By the maintenance function; in a server by threads. A function that knows of none leaves it to the schedule."""
    if function is not None:
        return FunctionBuilds(function)
    if settings.database_pool_size > 1:
        return ThreadBuilds(maintenance.build_soon)
    return None


@cache
def runtime() -> Runtime:
    """The runtime of this process, from its environment. Raises SettingsError naming every mistake."""
    return build_runtime(Settings.from_environment(os.environ))
