"""Which tables of a collection are to be vacuumed or analyzed, by what PostgreSQL's statistics count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import class_row

from vecmeter.vectors.connection import Connection
from vecmeter.vectors.long_statements import execute_long
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import SCHEMA, table_names
from vecmeter.vectors.turns import Orders

# Fewer rows are not worth it, whatever part they are; as autovacuum has it.
_LEAST_ROWS = 50
# Inserted since the last vacuum: pages that index-only scans, which count namespaces, must look into yet.
_LEAST_INSERTED, _INSERTED_PERCENT = 1000, 20

_COUNTS: LiteralString = """
    SELECT relname AS "table", n_live_tup AS live_tuples, n_dead_tup AS dead_tuples,
           n_mod_since_analyze AS changed_since_analyze, n_ins_since_vacuum AS inserted_since_vacuum
    FROM pg_stat_user_tables WHERE schemaname = 'vecmeter' AND relname = ANY(%s) ORDER BY relname
"""
_VACUUM: LiteralString = "VACUUM (ANALYZE) {}"
_ANALYZE: LiteralString = "ANALYZE {}"


class Remedy(StrEnum):
    VACUUM = "vacuum"
    ANALYZE = "analyze"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumThresholds:
    """Percent of a table's rows: dead ones from which it is vacuumed, changed ones from which it is analyzed."""

    dead_percent: int = 10
    changed_percent: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """Rows of a table as the statistics know them, which may be seconds late."""

    table: str
    live_tuples: int
    dead_tuples: int
    changed_since_analyze: int
    inserted_since_vacuum: int

    @property
    def dead_ratio(self) -> float:
        return self.dead_tuples / max(1, self.live_tuples + self.dead_tuples)


def judge(counts: TableCounts, thresholds: VacuumThresholds, *, force: bool = False) -> tuple[Remedy, str]:
    """What a table needs, and why."""
    if force:
        return Remedy.VACUUM, "it is forced"
    live, dead = max(1, counts.live_tuples), f"{100 * counts.dead_ratio:.0f} % of its rows are dead"
    many_are_dead = 100 * counts.dead_ratio >= thresholds.dead_percent
    if many_are_dead and counts.dead_tuples >= _LEAST_ROWS:
        return Remedy.VACUUM, dead
    if counts.inserted_since_vacuum >= _LEAST_INSERTED + live * _INSERTED_PERCENT / 100:
        return Remedy.VACUUM, f"{counts.inserted_since_vacuum} rows were inserted since it was vacuumed"
    if counts.changed_since_analyze >= _LEAST_ROWS + live * thresholds.changed_percent / 100:
        return Remedy.ANALYZE, f"{counts.changed_since_analyze} rows were changed since it was analyzed"
    if many_are_dead:
        return Remedy.NONE, f"{dead}, but fewer than {_LEAST_ROWS}"
    return Remedy.NONE, f"{dead}, less than {thresholds.dead_percent} %"


def vacuum_tables(
    connection: Connection, tables: Sequence[str], thresholds: VacuumThresholds, orders: Orders
) -> dict[str, Any]:
    """Vacuum or analyze those of the tables that need it, or say which and why."""
    told, dead_before = [], 0
    for counts in _read(connection, tables):
        remedy, reason = judge(counts, thresholds, force=orders.force)
        dead_before += counts.dead_tuples
        told.append(
            {
                "table": counts.table,
                "action": remedy.value,
                "reason": reason,
                "live_tuples": counts.live_tuples,
                "dead_tuples": counts.dead_tuples,
                "dead_ratio": round(counts.dead_ratio, 3),
                "changed_since_analyze": counts.changed_since_analyze,
                "inserted_since_vacuum": counts.inserted_since_vacuum,
            }
        )
        if remedy is not Remedy.NONE and not orders.dry_run:
            text = _VACUUM if remedy is Remedy.VACUUM else _ANALYZE
            name = sql.Identifier(SCHEMA, counts.table)
            execute_long(connection, sql.SQL(text).format(name).as_bytes(None), orders.ends_at)
    remedies = {str(table["action"]) for table in told} - {Remedy.NONE.value}
    figures: dict[str, Any] = {"action": _action(remedies, orders), "tables": told, "dead_tuples_before": dead_before}
    if remedies and not orders.dry_run:
        figures["dead_tuples_after"] = sum(counts.dead_tuples for counts in _read(connection, tables))
    return figures


def tables_of(collection: Collection) -> list[str]:
    """All there may be."""
    return [*table_names(collection.collection_id), f"texts_{collection.collection_id}"]


def _action(remedies: set[str], orders: Orders) -> str:
    if not remedies:
        return "none"
    if orders.dry_run:
        return "planned"
    return "vacuumed" if Remedy.VACUUM.value in remedies else "analyzed"


def _read(connection: Connection, tables: Sequence[str]) -> list[TableCounts]:
    return connection.cursor(row_factory=class_row(TableCounts)).execute(_COUNTS, [list(tables)]).fetchall()
