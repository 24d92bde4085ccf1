"""Maintenance gives a collection the indexes the policy wants, one for each large namespace among them, and takes them
back; searches go on all the while and find everything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.fixtures.vectors import (
    DRY_RUN,
    Matrix,
    Store,
    as_numbers,
    clustered,
    in_threads,
    index_of,
    nearest,
    raised,
    recall,
    write_all,
)
from vecmeter.errors import CollectionNotFoundError
from vecmeter.vectors.index_builds import RETIRED_SECONDS
from vecmeter.vectors.model import Collection, IndexType, Plan, Query, Storage, Vector
from vecmeter.vectors.tables import table_names

ROWS = clustered(3000, 16)
OF_NAMESPACES = {"large": 1700, "medium": 600, "small": 300, "": 400}

Open = Callable[..., Store]


def vectors_of(namespace: str, start: int, count: int) -> list[Vector]:
    chosen = range(start, start + count)
    return [Vector(id=f"v{at}", numbers=as_numbers(ROWS[at]), namespace=namespace) for at in chosen]


def filled(store: Store, name: str = "things", **options: Any) -> Collection:
    """3,000 vectors, of which two namespaces are above the exact threshold of 500."""
    collection = store.create(name, dimension=16, **options)
    start = 0
    for namespace, count in OF_NAMESPACES.items():
        write_all(store, collection, vectors_of(namespace, start, count))
        start += count
    return collection


def built(store: Store, collection: Collection) -> dict[str, Any]:
    """The figures of a run for one collection."""
    [figure] = store.maintenance.build_indexes([collection])["collections"]
    store.clock[0] += 3600
    return dict(figure)


def current(store: Store, collection: Collection) -> Collection:
    return store.collections.get(collection.project_id, collection.name)


def namespaces(collection: Collection) -> list[str | None]:
    return sorted((one.namespace for one in collection.hnsw), key=str)


def there(store: Store, collection: Collection) -> int:
    """How many HNSW indexes the table has, of any state."""
    _, vectors = table_names(collection.collection_id)
    listed = "SELECT count(*) FROM pg_indexes WHERE tablename = %s AND indexdef LIKE '%%USING hnsw%%'"
    return int(store.rows(listed, [vectors])[0][0])


def age_retired(store: Store) -> None:
    """As if they had been retired long ago."""
    store.rows(
        "UPDATE vecmeter.hnsw_indexes SET changed_at = now() - %s * interval '1 second' WHERE state = 'retired'",
        [RETIRED_SECONDS + 1],
    )


def assert_finds_everything(store: Store, collection: Collection, rows: Matrix = ROWS) -> None:
    start = 0
    for namespace, count in OF_NAMESPACES.items():
        chosen = range(start, start + count)
        for at in chosen[:: max(1, count // 20)]:
            query = Query(numbers=as_numbers(rows[at]), namespace=namespace)
            wanted = [f"v{position}" for position in nearest(collection.metric, rows, rows[at], chosen, 10)]
            assert recall(store.ids(collection, query), wanted) >= 0.9
        start += count


# --- what is built ---


def test_large_namespaces_get_indexes_of_their_own_and_their_searches_take_them(store: Store) -> None:
    collection = filled(store)
    figure = built(store, collection)
    assert figure["action"] == "built"
    assert [(one["action"], one["namespace"], one["vectors"]) for one in figure["indexes"]] == [
        ("build", None, 3000),
        ("build", "large", 1700),
        ("build", "medium", 600),
    ]
    assert all(one["memory_bytes"] > 0 and "note" not in one for one in figure["indexes"])
    ready = current(store, collection)
    assert namespaces(ready) == [None, "large", "medium"]
    assert [one.vectors for one in sorted(ready.hnsw, key=lambda one: one.index_id)] == [3000, 1700, 600]
    numbers = as_numbers(ROWS[0])
    plans = {name: store.searcher.search(ready, Query(numbers=numbers, namespace=name)).plan for name in OF_NAMESPACES}
    assert plans == {"large": Plan.PARTIAL, "medium": Plan.PARTIAL, "small": Plan.EXACT, "": Plan.EXACT}
    assert_finds_everything(store, ready)
    again = built(store, collection)
    assert (again["action"], again["indexes"]) == ("none", [])


def test_the_largest_namespaces_come_first_under_the_ceiling(open_store: Open) -> None:
    store = open_store(most_namespaces=1)
    collection = filled(store)
    built(store, collection)
    assert namespaces(current(store, collection)) == [None, "large"]


def test_a_dry_run_says_what_would_be_done_and_why_and_does_nothing(store: Store) -> None:
    collection = filled(store)
    [planned] = store.maintenance.build_indexes([collection], DRY_RUN)["collections"]
    assert planned["action"] == "planned"
    assert [(one["namespace"], one["reason"]) for one in planned["indexes"]] == [
        (None, "1000 vectors or more"),
        ("large", "500 vectors or more in the namespace"),
        ("medium", "500 vectors or more in the namespace"),
    ]
    assert there(store, collection) == 0
    assert store.rows("SELECT count(*) FROM vecmeter.hnsw_indexes") == [(0,)]
    built(store, collection)
    assert store.maintenance.build_indexes([collection], DRY_RUN)["collections"][0]["action"] == "none"


def test_more_memory_than_a_build_may_take_is_said_in_the_figures(store: Store) -> None:
    store.builds = replace(store.builds, most_memory=2**20)
    store.maintain()
    figure = built(store, filled(store))
    assert all("1048576 bytes" in one["note"] for one in figure["indexes"])
    assert namespaces(current(store, store.collections.list_all()[0])) == [None, "large", "medium"]


# --- what is taken back ---


def test_what_has_shrunk_below_half_is_retired_first_and_dropped_when_nobody_knows_it(store: Store) -> None:
    collection = filled(store)
    built(store, collection)
    ready = current(store, collection)
    store.records.delete_ids(ready, "medium", [f"v{at}" for at in range(1700, 2060)], dry_run=False)
    figure = built(store, collection)
    assert [(one["action"], one["namespace"], one["vectors"]) for one in figure["indexes"]] == [
        ("retire", "medium", 240)
    ]
    after = current(store, collection)
    assert namespaces(after) == [None, "large"]
    assert there(store, collection) == 3, "an instance may know it yet"
    assert built(store, collection)["action"] == "none"
    age_retired(store)
    assert [one["action"] for one in built(store, collection)["indexes"]] == ["drop"]
    assert there(store, collection) == 2
    assert store.rows("SELECT count(*) FROM vecmeter.hnsw_indexes") == [(2,)]


def test_a_collection_that_wants_no_index_any_more_loses_them_all(store: Store) -> None:
    collection = filled(store)
    built(store, collection)
    store.collections.change("acme", "things", lambda c: replace(c, index=replace(c.index, type=IndexType.NONE)))
    assert {one["reason"] for one in built(store, collection)["indexes"]} == {"none is wanted"}
    age_retired(store)
    built(store, collection)
    assert there(store, collection) == 0
    assert current(store, collection).hnsw == ()
    assert_finds_everything(store, current(store, collection))


# --- what is built anew ---


def test_a_changed_definition_is_built_before_the_old_index_is_retired(store: Store) -> None:
    collection = filled(store)
    built(store, collection)
    before = current(store, collection)
    wanted = index_of(m=8, ef_construction=64, storage=Storage.FLOAT)
    store.collections.change("acme", "things", lambda c: replace(c, index=wanted))
    figure = built(store, collection)
    assert [one["reason"] for one in figure["indexes"]] == ["float in place of half"] * 3
    after = current(store, collection)
    assert {(one.storage, one.m, one.ef_construction) for one in after.hnsw} == {(Storage.FLOAT, 8, 64)}
    assert {one.index_id for one in after.hnsw}.isdisjoint(one.index_id for one in before.hnsw)
    # Who knows the old definition yet, finds by the old indexes or, once they are gone, by the new ones.
    assert_finds_everything(store, before)
    age_retired(store)
    built(store, collection)
    assert there(store, collection) == 3
    assert_finds_everything(store, before)
    assert_finds_everything(store, after)


def test_a_set_that_has_doubled_is_built_anew(store: Store) -> None:
    collection = store.create(dimension=16)
    write_all(store, collection, vectors_of("", 0, 1200))
    built(store, collection)
    write_all(store, collection, vectors_of("", 1200, 1199))
    assert built(store, collection)["action"] == "none"
    write_all(store, collection, vectors_of("", 2399, 1))
    [step] = built(store, collection)["indexes"]
    assert (step["action"], step["reason"]) == ("build", "2400 vectors, 1200 when it was built")
    assert current(store, collection).hnsw[0].vectors == 2400


def test_a_failed_build_leaves_no_index_that_searches_would_take(store: Store) -> None:
    collection = filled(store)
    # Past the check of definitions: pgvector refuses it when it builds.
    store.rows("UPDATE vecmeter.collections SET index_ef_construction = 8")
    assert built(store, collection)["action"] == "failed"
    assert current(store, collection).hnsw == ()
    assert store.rows("SELECT state FROM vecmeter.hnsw_indexes") == [("building",)]
    store.rows("UPDATE vecmeter.collections SET index_ef_construction = 64")
    figure = built(store, collection)
    assert (figure["action"], len(figure["invalid_dropped"])) == ("built", 1)
    assert namespaces(current(store, collection)) == [None, "large", "medium"]


def test_what_a_run_built_before_it_died_is_taken_over(store: Store) -> None:
    collection = filled(store)
    built(store, collection)
    store.rows("UPDATE vecmeter.hnsw_indexes SET state = 'building' WHERE namespace = 'large'")
    assert namespaces(current(store, collection)) == [None, "medium"]
    [step] = built(store, collection)["indexes"]
    assert (step["action"], step["namespace"]) == ("take over", "large")
    assert namespaces(current(store, collection)) == [None, "large", "medium"]
    assert there(store, collection) == 3


# --- meanwhile ---


def test_searches_that_go_on_during_builds_rebuilds_and_drops_find_everything(open_store: Open) -> None:
    keeper, reader = open_store(), open_store()
    collection = filled(keeper)
    stop = threading.Event()

    def search() -> int:
        done = 0
        while not stop.is_set():
            known = reader.collections.get("acme", "things")
            at = (done * 37) % 2300
            namespace = "large" if at < 1700 else "medium"
            found = reader.search(known, Query(numbers=as_numbers(ROWS[at]), namespace=namespace, top_k=5))
            assert len(found) == 5
            assert found[0].id == f"v{at}"
            done += 1
            if done % 50 == 0:
                reader.clock[0] += 3600  # reads the definition again
        return done

    def keep() -> int:
        try:
            for storage in (Storage.HALF, Storage.FLOAT, Storage.HALF):
                keeper.collections.change(
                    "acme", "things", lambda c, s=storage: replace(c, index=replace(c.index, storage=s))
                )
                assert built(keeper, collection)["action"] == "built"
                age_retired(keeper)
                built(keeper, collection)
        finally:
            stop.set()
        return 0

    results = in_threads(search, keep)
    assert raised(results) == []
    assert int(results[0]) > 100  # type: ignore[call-overload]
    assert there(keeper, collection) == 3


def test_a_collection_dropped_during_builds_ends_in_not_found(open_store: Open) -> None:
    dropper, keeper, reader = open_store(), open_store(), open_store()
    stop = threading.Event()

    def drop() -> int:
        try:
            for _ in range(5):
                filled(dropper)
                dropper.collections.drop("acme", "things")
        finally:
            stop.set()
        return 0

    def keep() -> int:
        done = 0
        while not stop.is_set():
            for figure in keeper.maintenance.build_indexes(keeper.collections.list_all())["collections"]:
                assert figure["action"] in ("none", "built", "failed", "changed"), figure
                assert figure.get("error") in (None, "QueryCanceled"), figure
            done += 1
        return done

    def look() -> int:
        done = 0
        while not stop.is_set():
            for work in (
                lambda c: reader.search(c, Query(numbers=as_numbers(ROWS[0]), namespace="large")),
                reader.descriptions.plans,
                reader.descriptions.indexes,
                lambda c: reader.descriptions.namespaces(c, after=None, limit=10),
                lambda c: reader.collections.change("acme", "things", lambda before: replace(before, ef_search=50)),
                lambda c: reader.records.delete_ids(c, "large", ["v1"], dry_run=False),
            ):
                try:
                    reader.collections.use("acme", "things", work)
                except CollectionNotFoundError:
                    continue
                done += 1
        return done

    results = in_threads(drop, keep, look)
    assert raised(results) == []
    assert dropper.rows("SELECT count(*) FROM vecmeter.hnsw_indexes") == [(0,)]


NO_ROOM_FOR_WORKERS = """
    CREATE FUNCTION no_room() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('max_parallel_maintenance_workers')::int > 0 THEN
            RAISE EXCEPTION 'could not resize shared memory segment' USING ERRCODE = 'disk_full';
        END IF;
    END $$;
    CREATE EVENT TRIGGER no_room ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION no_room()
"""


def test_a_build_whose_workers_find_no_shared_memory_is_done_by_one_process(store: Store) -> None:
    collection = filled(store)
    store.rows(NO_ROOM_FOR_WORKERS)
    assert built(store, collection)["action"] == "built"
    assert namespaces(current(store, collection)) == [None, "large", "medium"]
