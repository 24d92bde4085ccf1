"""What reading by metadata and counting namespaces read of a large index: little."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from psycopg import sql

from tests.fixtures.vectors import PlanLog, Store
from vecmeter.http.pinecone.filters import native_filter
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import table_names

RECORDS = 20_000
# In the namespace "big", by the number of the record; another one holds as many that match nothing.
_FILL = """
    INSERT INTO {records} (namespace, id, metadata)
    SELECT CASE WHEN i <= {count} THEN 'big' ELSE 'n' || i % 10 END, lpad(i::text, 8, '0'),
           jsonb_build_object('rare', i % 1000, 'half', i % 2, 'genre', jsonb_build_array('g' || i % 500, 'all'))
    FROM generate_series(1, 2 * {count}) i
"""
_FILL_VECTORS = """
    INSERT INTO {vectors} (record_id, namespace, embedding) SELECT record_id, namespace, '[1,2,3]' FROM {records}
"""


@pytest.fixture
def filled(store: Store) -> Collection:
    collection = store.create(dimension=3)
    records, vectors = table_names(collection.collection_id)
    names = {"records": sql.Identifier("vecmeter", records), "vectors": sql.Identifier("vecmeter", vectors)}
    with store.database.connection() as connection:
        for statement in (_FILL, _FILL_VECTORS):
            connection.execute(sql.SQL(statement).format(**names, count=sql.Literal(RECORDS)))
        for table in names.values():
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(table))
    return collection


def rows_read(plan: str) -> int:
    """Rows of tables that scans looked at, those a filter threw away included; entries of indexes alone are not."""
    read, loops = 0.0, 0
    for line in plan.splitlines():
        if re.search(r"(?<!Bitmap Index )Scan (using \S+ )?on (records|vectors)_", line) and "never" not in line:
            found = re.search(r"actual rows=([\d.]+) loops=(\d+)", line)
            assert found, line
            loops = int(found[2])
            read += float(found[1]) * loops
        elif removed := re.search(r"Rows Removed by (?:Filter|Index Recheck): (\d+)", line):
            read += int(removed[1]) * loops
    return round(read)


CASES: list[tuple[dict[str, Any], int, int]] = [
    ({"rare": 77}, 100, 20),
    ({"genre": "g7"}, 100, 40),
    ({"genre": {"$in": ["g7", "g8"]}, "half": 1}, 100, 40),
    ({"genre": "none"}, 100, 0),
    ({"half": 1}, 3, 3),
    ({"half": 1}, 100, 100),
    ({"genre": "all"}, 100, 100),
    ({"genre": "all", "half": 1}, 100, 100),
]
"""A filter, a limit, and how many there are of a page."""


@pytest.mark.parametrize("statistics", ["DEFAULT", "1"])
def test_a_page_of_matches_reads_few_records_of_many(store: Store, filled: Collection, statistics: str) -> None:
    """With statistics of a target of 1, the planner takes every filter for one that lets one in a hundred through."""
    table = sql.Identifier("vecmeter", table_names(filled.collection_id)[0])
    with store.database.connection() as connection:
        target = sql.SQL(statistics)
        connection.execute(sql.SQL("ALTER TABLE {} ALTER metadata SET STATISTICS {}").format(table, target))
        connection.execute(sql.SQL("ANALYZE {}").format(table))
    log, most = PlanLog(store.database), 3_000 if statistics == "DEFAULT" else 7_000
    for filter, limit, found in CASES:
        for after in ("", f"{RECORDS // 2:08}"):
            read = partial(store.records.fetch_matching, filled, "big", native_filter(filter) or {})
            page, plans = log.of(partial(read, after=after, limit=limit))
            assert len(page) == (found if not after or found == limit else found // 2), filter
            assert sorted(one.id for one in page) == [one.id for one in page]
            [plan] = [plan for plan in plans if "records_" in plan]
            assert rows_read(plan) <= most, plan


def test_namespaces_are_counted_without_reading_the_vectors_of_each(store: Store, filled: Collection) -> None:
    log = PlanLog(store.database)
    for prefix, count in (("", 11), ("n", 10), ("big", 1), ("x", 0)):
        total, plans = log.of(partial(store.descriptions.count_namespaces, filled, prefix=prefix))
        assert total == count
        [plan] = [plan for plan in plans if "vectors_" in plan]
        assert rows_read(plan) <= 3 * count + 2, plan
