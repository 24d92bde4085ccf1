"""A search of a namespace with an index of its own takes that one, whatever PostgreSQL's planner thinks of it."""

from __future__ import annotations

import pytest

from tests.fixtures.vectors import (
    PlanLog,
    Store,
    as_numbers,
    clustered,
    executed_scans,
    index_of,
    write_all,
)
from vecmeter.vectors.model import Metric, Plan, Query, Storage, Vector
from vecmeter.vectors.tables import hnsw_name

ROWS = clustered(2400, 16)


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("metric", list(Metric))
def test_its_own_index_answers_however_dear_it_looks(store: Store, metric: Metric, storage: Storage) -> None:
    collection = store.create(dimension=16, metric=metric, index=index_of(storage=storage))
    vectors = [Vector(id=f"v{at}", numbers=as_numbers(row), namespace=str(at % 4)) for at, row in enumerate(ROWS)]
    write_all(store, collection, vectors)
    store._measure = lambda collection, namespace: 1.0  # type: ignore[method-assign]
    store.index_from(1000)
    ready = store.build(collection)
    own, shared = ready.hnsw_of("1"), ready.hnsw_of(None)
    assert own is not None
    assert shared is not None
    names = [hnsw_name(collection.collection_id, one.index_id) for one in (own, shared)]
    log = PlanLog(store.database)
    query = Query(numbers=as_numbers(ROWS[5]), namespace="1")
    for few, many in ((names[0], names[1]), (names[1], names[0])):
        for name, tuples in ((few, 1), (many, 10**9)):
            store.rows("UPDATE pg_class SET reltuples = %s WHERE oid = %s::regclass", [tuples, f"vecmeter.{name}"])
        result, plans = log.of(lambda: store.searcher.search(ready, query))
        assert (result.plan, len(result.matches)) == (Plan.PARTIAL, 10)
        scans = set().union(*map(executed_scans, plans))
        assert names[0] in scans
        assert names[1] not in scans
    # So it is because no other can: with its own gone, an instance that knows of it yet compares all vectors.
    expected = store.ids(ready, query)
    store.rows(f"DROP INDEX vecmeter.{names[0]}")
    found, plans = log.of(lambda: store.ids(ready, query))
    assert names[1] not in set().union(*map(executed_scans, plans))
    if storage is not Storage.BINARY:
        assert found == expected
