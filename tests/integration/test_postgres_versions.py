"""What is promised holds on the PostgreSQL of the local stack and on the older one that Aurora runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from tests.fixtures.vectors import (
    FORCED,
    Store,
    as_numbers,
    clustered_with_labels,
    in_threads,
    nearest,
    raised,
    recall,
    write_all,
)
from vecmeter.vectors.migrations import runner
from vecmeter.vectors.migrations.runner import apply, migrate, migration_names
from vecmeter.vectors.model import (
    Collection,
    FieldType,
    FilterableField,
    IndexDefinition,
    Metric,
    Mode,
    Plan,
    Query,
    Storage,
    Vector,
)

ROWS, LABELS = clustered_with_labels(2500, 16)
WORDS = ("harbour", "lantern", "orchard", "granite", "violin")


def filled(store: Store, count: int = 2500, **options: Any) -> Collection:
    """Two namespaces, one of them above the exact threshold of 500; a field, and documents."""
    collection = store.create(dimension=16, **options)
    declared = (FilterableField("n", FieldType.NUMBER),)
    collection = store.collections.change(
        "acme", "things", lambda c: replace(c, text_search="english", filterable=declared)
    )
    write_all(
        store,
        collection,
        [
            Vector(
                id=f"v{at}",
                numbers=as_numbers(ROWS[at]),
                namespace="small" if at % 10 == 0 else "",
                metadata={"n": at, "label": LABELS[at]},
                document=f"the {WORDS[at % 5]} of number {at}",
            )
            for at in range(count)
        ],
    )
    return collection


def of_namespace(namespace: str) -> list[int]:
    return [at for at in range(2500) if (at % 10 == 0) == (namespace == "small")]


# --- migrations ---


def test_migrations_bring_an_empty_database_up_to_date_once_whoever_is_at_it(empty_anywhere: str) -> None:
    results = in_threads(*[lambda: migrate(empty_anywhere)] * 3)
    assert raised(results) == []
    assert sorted(name for result in results for name in result) == migration_names()  # type: ignore[union-attr]
    assert migrate(empty_anywhere) == []


def test_migrations_bring_collections_of_the_first_release_up_to_date(empty_anywhere: str, tmp_path: Path) -> None:
    """With vectors and an index, made as that release made them."""
    [first] = [name for name in migration_names() if name.startswith("0001")]
    (tmp_path / first).write_text((Path(runner.__file__).parent / first).read_text())
    apply(empty_anywhere, tmp_path)
    with psycopg.connect(empty_anywhere, autocommit=True) as connection:
        connection.execute(FIRST_RELEASE.encode())
    assert migrate(empty_anywhere) == [name for name in migration_names() if name != first]
    store = Store(empty_anywhere)
    [collection] = store.collections.list_all()
    assert [one.storage for one in collection.hnsw] == [Storage.HALF]
    assert store.collections.size(collection).count == 600
    assert store.records.upsert(collection, [Vector(id="v1", numbers=as_numbers(ROWS[0][:3]))])[0].version == 2
    found = store.searcher.search(collection, Query(numbers=as_numbers(ROWS[0][:3]), top_k=3))
    assert (found.plan, found.matches[0].id) == (Plan.HNSW, "v1")
    store.close()


FIRST_RELEASE = """
    INSERT INTO vecmeter.collections (
        project_id, name, dimension, metric, index_type, index_m, index_ef_construction, index_storage
    ) VALUES ('acme', 'old', 3, 'cosine', 'hnsw', 16, 64, 'half');
    CREATE TABLE vecmeter.records_1 (
        record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, namespace text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL, version bigint NOT NULL DEFAULT 1, document text,
        metadata jsonb NOT NULL DEFAULT '{}', updated_at timestamptz NOT NULL DEFAULT now(), UNIQUE (namespace, id)
    );
    CREATE INDEX records_1_metadata ON vecmeter.records_1 USING gin (metadata jsonb_path_ops) WITH (fastupdate = off);
    CREATE TABLE vecmeter.vectors_1 (
        record_id bigint PRIMARY KEY, namespace text COLLATE "C" NOT NULL, embedding vector(3) NOT NULL
    );
    CREATE INDEX vectors_1_namespace ON vecmeter.vectors_1 (namespace);
    INSERT INTO vecmeter.records_1 (namespace, id) SELECT '', 'v' || n FROM generate_series(1, 600) n;
    INSERT INTO vecmeter.vectors_1 SELECT record_id, '', ARRAY[1, sin(record_id), cos(record_id)]::vector
    FROM vecmeter.records_1;
    CREATE INDEX vectors_1_hnsw ON vecmeter.vectors_1
    USING hnsw ((l2_normalize(embedding)::halfvec(3)) halfvec_cosine_ops) WITH (m = 16, ef_construction = 64);
"""


# --- writes and searches ---


def test_writes_tell_what_happened_and_are_read_at_once(store_anywhere: Store) -> None:
    store, collection = store_anywhere, store_anywhere.create()
    first = store.records.upsert(collection, [Vector(id="a", numbers=as_numbers(ROWS[0][:3]), metadata={"k": 1})])
    again = store.records.upsert(collection, [Vector(id="a", numbers=as_numbers(ROWS[1][:3]))])
    assert [(one.inserted, one.version) for one in (*first, *again)] == [(True, 1), (False, 2)]
    assert store.ids(collection, Query(numbers=as_numbers(ROWS[1][:3]), top_k=1)) == ["a"]
    assert store.records.delete_ids(collection, "", ["a", "b"], dry_run=False) == 1


def test_searches_by_every_plan_find_what_there_is(store_anywhere: Store) -> None:
    store = store_anywhere
    collection = store.build(filled(store))
    rng = np.random.default_rng(3)
    plans, found = set(), []
    filters: tuple[tuple[dict[str, Any] | None, Any], ...] = (
        (None, lambda at: True),
        ({"n": {"$lt": 700}}, lambda at: at < 700),
        ({"n": {"$in": list(range(1000))}}, lambda at: at < 1000),
        ({"label": {"$in": [1, 2, 3]}}, lambda at: LABELS[at] in (1, 2, 3)),
    )
    for namespace in ("", "small"):
        for filter, passes in filters:
            among = [at for at in of_namespace(namespace) if passes(at)]
            for at in rng.integers(0, 2500, 8):
                row = (ROWS[at] + 0.1 * rng.normal(size=16)).astype(np.float32)
                result = store.searcher.search(
                    collection, Query(numbers=as_numbers(row), namespace=namespace, filter=filter)
                )
                assert len(result.matches) == min(10, len(among))
                truth = nearest(Metric.COSINE, ROWS, row, among, 10)
                found.append(recall([m.id for m in result.matches], [f"v{position}" for position in truth]))
                plans.add(result.plan)
    assert plans == {Plan.EXACT, Plan.HNSW, Plan.ADAPTIVE}
    assert sum(found) / len(found) >= 0.95


def test_searches_by_words_and_by_both_find_documents(store_anywhere: Store) -> None:
    store = store_anywhere
    collection = filled(store, 200)
    by_words = store.searcher.search(collection, Query(text="lanterns", mode=Mode.TEXT, include_document=True))
    assert {match.document.split()[1] for match in by_words.matches if match.document} == {"lantern"}
    both = Query(text="lanterns", numbers=as_numbers(ROWS[1]), mode=Mode.HYBRID, top_k=3)
    assert store.searcher.search(collection, both).matches[0].id == "v1"


# --- maintenance ---


def test_indexes_are_built_rebuilt_vacuumed_measured_and_tuned_while_searches_go_on(store_anywhere: Store) -> None:
    store = store_anywhere
    reader = Store(store.dsn)
    collection = filled(store, index=IndexDefinition(storage=Storage.FLOAT))
    stop = threading.Event()

    def search() -> int:
        searches = 0
        while not stop.is_set():
            at = (searches * 37) % 2500
            query = Query(numbers=as_numbers(ROWS[at]), namespace="small" if at % 10 == 0 else "", top_k=3)
            assert reader.ids(reader.collections.get("acme", "things"), query)[0] == f"v{at}"
            searches += 1
            reader.clock[0] += 1
        return searches

    def look_after() -> int:
        try:
            tasks = ("build_indexes", "vacuum_analyze", "reindex_hnsw", "probe_recall", "tune_ef_search")
            for task in tasks:
                orders = () if task == "build_indexes" else (FORCED,)
                [figure] = getattr(store.maintenance, task)([collection], *orders)["collections"]
                assert figure["action"] in ("built", "vacuumed", "reindexed", "probed", "tuned"), figure
        finally:
            stop.set()
        return 0

    results = in_threads(search, look_after)
    assert raised(results) == []
    assert results[0] > 10  # type: ignore[operator]
    store.clock[0] += 3600
    tuned = store.collections.get("acme", "things")
    assert (len(tuned.hnsw), tuned.tuned_ef_search) == (1, 40)
    reader.close()
