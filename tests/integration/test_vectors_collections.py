"""Collections come and go as a whole, and no instance is led astray by what it remembers of one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.fixtures.vectors import Store, in_threads, index_of, numbers, raised, vector
from vecmeter.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidRequestError,
    VectorNotFoundError,
    Violation,
)
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.definitions import DEFINITION_SECONDS
from vecmeter.vectors.model import (
    Collection,
    EmbedderDefinition,
    IndexDefinition,
    IndexType,
    Metric,
    Patch,
    Query,
    Storage,
    Written,
)
from vecmeter.vectors.tables import table_names

Open = Callable[..., Store]


def tables(store: Store) -> set[str]:
    """What there is beside the tables of all collections together."""
    rows = store.rows("SELECT relname FROM pg_class WHERE relnamespace = 'vecmeter'::regnamespace")
    return {name for (name,) in rows if "_" in name and name.split("_")[0] in ("records", "vectors")}


def test_a_definition_is_given_back_as_it_was_made(store: Store) -> None:
    index = IndexDefinition(type=IndexType.HNSW, m=24, ef_construction=77, storage=Storage.FLOAT)
    embedder = EmbedderDefinition(provider="built-in", model="m")
    made = store.collections.create("acme", "c", dimension=7, metric=Metric.L2, index=index, embedder=embedder)
    store.clock[0] += DEFINITION_SECONDS
    found = store.collections.get("acme", "c")
    assert found == made
    assert (found.project_id, found.name, found.dimension, found.metric) == ("acme", "c", 7, Metric.L2)
    assert (found.index, found.embedder, found.index_ready) == (index, embedder, False)


def test_a_name_is_taken_once_per_project(store: Store) -> None:
    first = store.create("c")
    with pytest.raises(CollectionExistsError):
        store.create("c", dimension=9)
    assert store.create("c", project="other").collection_id != first.collection_id
    assert store.create("C").name == "C"
    assert store.collections.get("acme", "c") == first


def test_of_concurrent_creations_of_one_name_exactly_one_succeeds(open_store: Open) -> None:
    stores = [open_store() for _ in range(6)]
    results = in_threads(*[lambda store=store: store.create("c") for store in stores])
    assert sum(isinstance(result, Collection) for result in results) == 1
    assert sum(isinstance(result, CollectionExistsError) for result in results) == 5
    assert len(stores[0].collections.list_all()) == 1


@pytest.mark.parametrize(
    ("dimension", "index", "path"),
    [
        (2001, IndexDefinition(storage=Storage.FLOAT), "index.type"),
        (4001, IndexDefinition(storage=Storage.HALF), "index.type"),
        (3, IndexDefinition(m=16, ef_construction=31), "index.ef_construction"),
    ],
)
def test_a_collection_whose_index_could_never_be_built_is_refused(
    store: Store, dimension: int, index: IndexDefinition, path: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        store.create(dimension=dimension, index=index)
    assert [violation.path for violation in refused.value.violations] == [path]
    assert store.collections.list_all() == []


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("metric", list(Metric))
def test_the_index_that_every_definition_asks_for_can_be_built(store: Store, metric: Metric, storage: Storage) -> None:
    store.index_from(1)
    for dimension, m, ef_construction in ((1, 2, 4), (3, 100, 200), (storage.max_indexed_dimension, 16, 128)):
        index = IndexDefinition(m=m, ef_construction=ef_construction, storage=storage)
        collection = store.create(f"c{dimension}", dimension=dimension, metric=metric, index=index)
        store.records.upsert(collection, [vector("a", *[1.0] * dimension)])
        assert store.build(collection).index_ready


def test_a_creation_that_fails_leaves_nothing_behind(store: Store) -> None:
    store.rows("CREATE TABLE vecmeter.vectors_1 ()")  # in the way of the first collection's second table
    before = tables(store)
    with pytest.raises(Exception, match="already exists"):
        store.create("c")
    assert tables(store) == before
    with pytest.raises(CollectionNotFoundError):
        store.collections.get("acme", "c")
    assert store.create("c").collection_id == 2


def test_dropping_removes_tables_indexes_and_definition(store: Store) -> None:
    kept, gone = store.create("kept"), store.create("gone")
    store.records.upsert(gone, [vector("a")])
    store.records.upsert(kept, [vector("a")])
    store.collections.drop("acme", "gone")
    assert all(name.split("_")[1] == str(kept.collection_id) for name in tables(store))
    assert [c.name for c in store.collections.list_all()] == ["kept"]
    for work in (lambda: store.collections.get("acme", "gone"), lambda: store.collections.drop("acme", "gone")):
        with pytest.raises(CollectionNotFoundError):
            work()
    assert store.collections.size(kept).count == 1


def test_a_page_lists_a_project_by_name(store: Store) -> None:
    names = ["b", "a", "Z", "a-b", "a.b", "z", "10", "9"]
    for name in names:
        store.create(name)
    store.create("a", project="other")
    listed, after = [], ""
    while page := store.collections.page("acme", after=after, limit=3):
        assert len(page) <= 3
        listed += [collection.name for collection in page]
        after = page[-1].name
    assert listed == sorted(names)
    assert store.collections.page("nobody", after="", limit=3) == []


def test_the_count_is_exact_after_every_write(store: Store) -> None:
    collection = store.create()
    count = lambda: store.collections.size(collection).count  # noqa: E731
    assert count() == 0
    store.records.upsert(collection, [vector(f"v{i}", namespace=str(i % 3)) for i in range(90)])
    assert count() == 90
    store.records.upsert(collection, [vector("v0", namespace="0"), vector("new")])
    assert count() == 91
    store.records.delete_matching(collection, "1", None, dry_run=False)
    assert count() == 61


def test_the_size_counts_both_tables_and_the_index(store: Store) -> None:
    collection = store.create(dimension=64)
    empty = store.collections.size(collection)
    store.records.upsert(collection, [vector(f"v{i}", *[float(i + 1)] * 63, 1.0) for i in range(1000)])
    full = store.collections.size(collection)
    assert (empty.index_bytes, full.index_bytes) == (0, 0)
    assert full.bytes - empty.bytes > 1000 * 64 * 4
    indexed = store.collections.size(store.build(collection))
    assert indexed.index_bytes > 1000 * 64 * 2
    assert indexed.bytes >= full.bytes + indexed.index_bytes


# --- what instances remember ---


def test_a_definition_is_read_once_in_a_while(open_store: Open) -> None:
    store, other = open_store(), open_store()
    collection = store.create(index=index_of(ef_construction=64))
    store.records.upsert(collection, [vector(f"v{i}", 1.0, float(i), 0.0) for i in range(1000)])
    other.collections.get("acme", "things")
    store.build(collection)
    assert not other.collections.get("acme", "things").index_ready, "it was read again too soon"
    other.clock[0] += DEFINITION_SECONDS
    assert other.collections.get("acme", "things").index_ready


def use(store: Store, work: Callable[[Collection], object]) -> object:
    return store.collections.use("acme", "things", work)


def checked(store: Store, values: tuple[float, ...]) -> Callable[[Collection], list[Written]]:
    """What the routes do: hold the numbers against the definition, then write them."""

    def work(collection: Collection) -> list[Written]:
        if violation := check_numbers(collection, numbers(*values), "vector"):
            raise InvalidRequestError(violation.message, (violation,))
        return store.records.upsert(collection, [vector("v", *values)])

    return work


def test_a_collection_made_anew_under_another_definition_is_seen_by_who_remembers_the_old_one(
    open_store: Open,
) -> None:
    here, there = open_store(), open_store()
    here.create(dimension=2)
    use(there, checked(there, (1.0, 0.0)))
    here.collections.drop("acme", "things")
    made = here.create(dimension=3, metric=Metric.L2)
    # A write of the new dimension, which the remembered definition does not allow.
    assert [w.inserted for w in use(there, checked(there, (3.0, 4.0, 0.0)))] == [True]  # type: ignore[attr-defined]
    # Again, for the search.
    here.collections.drop("acme", "things")
    made = here.create(dimension=2, metric=Metric.L2)
    here.records.upsert(made, [vector("w", 3.0, 4.0)])
    query = Query(numbers=numbers(0.0, 0.0))
    [match] = use(there, lambda collection: there.search(collection, query))  # type: ignore[misc]
    assert (match.id, match.distance) == ("w", 5.0)


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0)])
def test_what_neither_the_old_nor_the_new_definition_allows_is_refused_by_the_new_one(
    open_store: Open, values: tuple[float, ...]
) -> None:
    here, there = open_store(), open_store()
    here.create(dimension=2)
    use(there, checked(there, (1.0, 0.0)))
    here.collections.drop("acme", "things")
    here.create(dimension=5)
    with pytest.raises(InvalidRequestError) as refused:
        use(there, checked(there, values))
    assert refused.value.violations == (Violation("vector", f"has {len(values)} dimensions; the collection has 5"),)


def test_a_dropped_collection_is_missing_at_once_to_who_remembers_it(open_store: Open) -> None:
    here, there = open_store(), open_store()
    here.create()
    use(there, lambda c: there.records.upsert(c, [vector("a")]))
    here.collections.drop("acme", "things")
    works: list[Callable[[Collection], object]] = [
        lambda c: there.search(c, Query(numbers=numbers(1.0, 2.0, 3.0))),
        lambda c: there.search(c, Query(id="a", filter={"a": 1})),
        lambda c: there.records.upsert(c, [vector("a")]),
        lambda c: there.records.add(c, vector("a")),
        lambda c: there.records.patch(c, "", "a", Patch(set={"a": 1})),
        lambda c: there.records.fetch(c, "", ["a"]),
        lambda c: there.records.list_ids(c, "", prefix="", after="", limit=5),
        lambda c: there.records.delete_ids(c, "", ["a"], dry_run=False),
        lambda c: there.records.delete_ids(c, "", ["a"], dry_run=True),
        lambda c: there.records.delete_matching(c, "", None, dry_run=False),
        there.collections.size,
    ]
    remembered = dict(there.collections._remembered)
    for work in works:
        there.collections._remembered.update(remembered)
        with pytest.raises(CollectionNotFoundError):
            use(there, work)


def test_of_concurrent_drops_of_one_collection_exactly_one_succeeds(open_store: Open) -> None:
    stores = [open_store() for _ in range(4)]
    stores[0].create()

    def let_go() -> None:
        with psycopg.connect(stores[0].dsn) as holder:
            holder.execute("SELECT FROM vecmeter.collections FOR UPDATE")
            started.wait(30)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
            deadline = time.monotonic() + 30
            while stores[0].rows(waiting + " AND datname = current_database()") != [(4,)]:
                assert time.monotonic() < deadline, "not all of them wait"

    def drop(store: Store) -> None:
        started.wait(30)
        store.collections.drop("acme", "things")

    started = threading.Barrier(5)
    results = in_threads(let_go, *[lambda store=store: drop(store) for store in stores])
    assert results.count(None) == 2, results  # who let them go, and the one
    assert sum(isinstance(result, CollectionNotFoundError) for result in results) == 3


@pytest.mark.parametrize("again", [False, True])
def test_dropping_during_searches_and_writes_ends_them_in_not_found_only(open_store: Open, again: bool) -> None:
    """With ``again``, the collection is made anew each time, so that some find it and some do not."""
    stores = [open_store(exact_threshold=10) for _ in range(6)]
    dropper = stores[0]
    stop, requests = threading.Event(), threading.Semaphore(0)

    def made() -> Collection:
        collection = dropper.create(dimension=2)
        batch = [vector(f"v{i}", 1.0, i / 10, metadata={"even": i % 2 == 0}) for i in range(50)]
        dropper.records.upsert(collection, batch)
        return collection

    def drop() -> int:
        try:
            for _ in range(15 if again else 1):
                for _ in range(20):
                    assert requests.acquire(timeout=30)
                dropper.collections.drop("acme", "things")
                if again:
                    made()
        finally:
            stop.set()
        return 0

    def work(number: int) -> int:
        store, done = stores[number], 0
        tasks: list[Callable[[Collection], object]] = [
            lambda c: store.search(c, Query(numbers=numbers(1.0, 0.5), top_k=3)),
            lambda c: store.search(c, Query(numbers=numbers(1.0, 0.5), filter={"even": True})),
            lambda c: store.search(c, Query(id="v1", exact=True)),
            lambda c: store.records.upsert(c, [vector("v1", 1.0, 0.1)]),
            lambda c: store.records.delete_ids(c, "", ["v2"], dry_run=False),
            store.collections.size,
        ]
        while not stop.is_set():
            # There is no such vector where the collection is there again, and still empty.
            with contextlib.suppress(CollectionNotFoundError, VectorNotFoundError):
                use(store, tasks[done % len(tasks)])
            done += 1
            requests.release()
        return done

    made()
    results = in_threads(drop, *[lambda number=number: work(number) for number in range(1, 6)])
    assert raised(results) == []
    for store in stores:
        store.close()
    [(deadlocks,)] = dropper.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


WORKS: dict[str, Callable[[Store, Collection], object]] = {
    "exact": lambda s, c: s.search(c, Query(numbers=numbers(1.0, 0.5), exact=True)),
    "exact filtered": lambda s, c: s.search(c, Query(numbers=numbers(1.0, 0.5), filter={"a": 1}, exact=True)),
    "hnsw": lambda s, c: s.search(c, Query(numbers=numbers(1.0, 0.5))),
    "adaptive": lambda s, c: s.search(c, Query(numbers=numbers(1.0, 0.5), filter={"a": 1})),
    "by id": lambda s, c: s.search(c, Query(id="v1", include_vector=True)),
    "upsert": lambda s, c: s.records.upsert(c, [vector("v1", 1.0, 0.1)]),
    "delete": lambda s, c: s.records.delete_ids(c, "", ["v2"], dry_run=False),
    "fetch": lambda s, c: s.records.fetch(c, "", ["v1"]),
}


@pytest.mark.parametrize("work", list(WORKS))
@pytest.mark.parametrize("warm", [0, 8])
def test_every_statement_locks_records_before_vectors_as_dropping_does(open_store: Open, work: str, warm: int) -> None:
    store, looker = open_store(exact_threshold=10), open_store()
    collection = store.create(dimension=2)
    store.records.upsert(collection, [vector(f"v{i}", 1.0, i / 10, metadata={"a": i % 2}) for i in range(1000)])
    collection = store.build(collection)
    for _ in range(warm + 1):  # one at least, so that the namespace is known to be large
        WORKS[work](store, collection)
    records, vectors = table_names(collection.collection_id)
    with psycopg.connect(store.dsn) as dropper:
        dropper.execute(f"LOCK TABLE vecmeter.{records} IN ACCESS EXCLUSIVE MODE".encode())
        thread = threading.Thread(target=lambda: WORKS[work](store, collection))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        while looker.rows(waiting, [f"vecmeter.{records}"]) == [(0,)]:
            assert thread.is_alive()
        # Nobody who waits for the first table holds the second.
        dropper.execute(f"LOCK TABLE vecmeter.{vectors} IN ACCESS EXCLUSIVE MODE NOWAIT".encode())
        dropper.rollback()
        thread.join()
