"""Indexes are built when it is time and replaced while they serve; what interrupted runs left is removed."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.cut_line import cut_line
from tests.fixtures.vectors import (
    FORCED,
    INDEX_THRESHOLD,
    Store,
    as_numbers,
    clustered,
    hnsw_index,
    in_threads,
    index_of,
    numbers,
    raised,
    vector,
    write_all,
)
from vecmeter.errors import CollectionNotFoundError
from vecmeter.vectors.model import Collection, IndexType, Metric, Plan, Query, Storage, Vector
from vecmeter.vectors.tables import table_names

ROWS = clustered(2000, 16)


def filled(store: Store, name: str = "things", count: int = INDEX_THRESHOLD, **options: Any) -> Collection:
    collection = store.create(name, dimension=16, **options)
    write_all(store, collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(ROWS[:count])])
    return collection


def figure(figures: dict[str, Any], name: str = "things") -> dict[str, Any]:
    [found] = [f for f in figures["collections"] if f["collection"] == name]
    return dict(found)


def indexes(store: Store, collection: Collection) -> dict[str, bool]:
    """The HNSW indexes there are, and whether each may be used."""
    return dict(
        store.rows(
            "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am am ON am.oid = c.relam WHERE am.amname = 'hnsw' AND i.indrelid = %s::regclass",
            [f"vecmeter.{table_names(collection.collection_id)[1]}"],
        )
    )


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


@contextmanager
def builds_held_up(store: Store, collection: Collection) -> Iterator[None]:
    """A transaction that wrote to the table: a concurrent build waits for it after having made its index, invalid."""
    _, vectors = table_names(collection.collection_id)
    with psycopg.connect(store.dsn) as holder:
        holder.execute(f"UPDATE vecmeter.{vectors} SET namespace = namespace WHERE record_id = 0".encode())
        yield
        holder.rollback()


def is_building(store: Store) -> bool:
    progress = (
        "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase LIKE 'waiting%'"
    )
    return bool(store.rows(progress))


def begun(store: Store, collection: Collection) -> str:
    """The name of an index that a run has begun to build; it got no further than to write it down."""
    store.rows(
        "INSERT INTO vecmeter.hnsw_indexes (collection_id, storage, m, ef_construction) VALUES (%s, 'half', 16, 128)",
        [collection.collection_id],
    )
    return hnsw_index(store, collection)


def leave_an_invalid_index(store: Store, collection: Collection, statement: str) -> None:
    """Cancel a concurrent build half-way, as a time-out would."""
    with builds_held_up(store, collection), psycopg.connect(store.dsn, autocommit=True) as builder:
        errors: list[Exception] = []

        def build() -> None:
            try:
                builder.execute(statement.encode())
            except psycopg.errors.QueryCanceled as error:
                errors.append(error)

        thread = threading.Thread(target=build)
        thread.start()
        until(lambda: is_building(store))
        builder.cancel_safe()
        thread.join()
        assert errors


# --- when to build ---


def test_an_index_is_built_at_the_threshold_and_not_below(store: Store) -> None:
    collection = filled(store, count=INDEX_THRESHOLD - 1)
    refused = figure(store.maintenance.build_indexes([collection]))
    assert (refused["action"], refused["reason"]) == ("none", f"fewer than {INDEX_THRESHOLD} vectors")
    assert indexes(store, collection) == {}
    store.records.upsert(collection, [vector("last", *[1.0] * 16)])
    assert figure(store.maintenance.build_indexes([collection]))["action"] == "built"
    assert indexes(store, collection) == {hnsw_index(store, collection): True}
    assert figure(store.maintenance.build_indexes([collection]))["action"] == "none", "it is there"


def test_a_collection_that_wants_no_index_gets_none(store: Store) -> None:
    collection = filled(store, index=index_of(IndexType.NONE))
    assert figure(store.maintenance.build_indexes([collection]))["action"] == "none"
    assert indexes(store, collection) == {}


def test_the_index_is_made_as_the_collection_defines_it(store: Store) -> None:
    collection = filled(store, metric=Metric.L2, index=index_of(m=7, ef_construction=33, storage=Storage.FLOAT))
    store.build(collection)
    [(definition,)] = store.rows("SELECT pg_get_indexdef(%s::regclass)", [f"vecmeter.{hnsw_index(store, collection)}"])
    assert "USING hnsw (embedding vector_l2_ops)" in definition
    assert "m='7'" in definition
    assert "ef_construction='33'" in definition


def test_writes_and_searches_go_on_while_an_index_is_built(store: Store) -> None:
    collection = filled(store)
    with builds_held_up(store, collection):
        thread = threading.Thread(target=lambda: store.maintenance.build_indexes([collection]))
        thread.start()
        until(lambda: is_building(store))
        assert store.records.upsert(collection, [vector("meanwhile", *[1.0] * 16)])[0].inserted
        assert store.ids(collection, Query(numbers=numbers(*[1.0] * 16), top_k=1)) == ["meanwhile"]
        assert store.records.delete_ids(collection, "", ["v0"], dry_run=False) == 1
    thread.join()
    store.clock[0] += 3600
    ready = store.collections.get("acme", "things")
    assert ready.index_ready
    assert store.ids(ready, Query(numbers=numbers(*[1.0] * 16), top_k=1)) == ["meanwhile"]


# --- what interrupted runs leave ---


@pytest.mark.parametrize("task", ["build_indexes", "reindex_hnsw"])
def test_what_an_interrupted_build_left_is_removed_and_built_anew(store: Store, task: str) -> None:
    collection = filled(store)
    name = begun(store, collection)
    _, vectors = table_names(collection.collection_id)
    statement = f"CREATE INDEX CONCURRENTLY {name} ON vecmeter.{vectors} USING hnsw (embedding vector_cosine_ops)"
    leave_an_invalid_index(store, collection, statement)
    assert indexes(store, collection) == {name: False}
    assert not store.collections.get("acme", "things").index_ready
    done = figure(getattr(store.maintenance, task)([collection]))
    assert done["invalid_dropped"] == [name]
    assert len(indexes(store, collection)) == (1 if task == "build_indexes" else 0)
    assert figure(store.maintenance.build_indexes([collection]))["invalid_dropped"] == []
    assert indexes(store, collection) == {hnsw_index(store, collection): True}
    assert store.rows("SELECT state FROM vecmeter.hnsw_indexes") == [("ready",)]


def test_what_an_interrupted_reindex_left_is_removed_and_the_index_served_all_the_while(store: Store) -> None:
    collection = store.build(filled(store))
    name = hnsw_index(store, collection)
    leave_an_invalid_index(store, collection, f"REINDEX INDEX CONCURRENTLY vecmeter.{name}")
    assert indexes(store, collection) == {name: True, f"{name}_ccnew": False}
    done = figure(store.maintenance.reindex_hnsw([collection], FORCED))
    assert (done["action"], done["invalid_dropped"]) == ("reindexed", [f"{name}_ccnew"])
    assert indexes(store, collection) == {name: True}


def test_a_build_whose_function_died_goes_on_and_is_left_alone(store: Store) -> None:
    collection = filled(store)
    with tempfile.TemporaryDirectory(prefix="vecmeter-line-") as folder, cut_line(Path(folder), store.dsn) as line:
        dying = store.maintained_over(line.dsn)
        with builds_held_up(store, collection):
            errors: list[object] = []
            thread = threading.Thread(
                target=lambda: errors.extend(in_threads(lambda: dying.build_indexes([collection])))
            )
            thread.start()
            until(lambda: is_building(store))
            line.sever()
            thread.join()
            assert len(errors) == 1
            busy = figure(store.maintenance.build_indexes([collection]))
            assert (busy["action"], busy["reason"]) == ("none", "busy")
        until(lambda: indexes(store, collection) == {hnsw_index(store, collection): True})
        until(lambda: figure(store.maintenance.build_indexes([collection])).get("reason") != "busy")
        assert indexes(store, collection) == {hnsw_index(store, collection): True}


# --- several at once ---


@pytest.mark.parametrize("task", ["build_indexes", "reindex_hnsw", "vacuum_analyze"])
def test_two_runs_at_once_do_not_do_the_same_work(open_store: Callable[..., Store], task: str) -> None:
    first, second = open_store(), open_store()
    busy, free = filled(first, "busy"), filled(first, "free")
    with builds_held_up(first, busy):
        thread = threading.Thread(target=lambda: first.maintenance.build_indexes([busy]))
        thread.start()
        until(lambda: is_building(first))
        figures = getattr(second.maintenance, task)([busy, free])
        of_busy = figure(figures, "busy")
        assert (of_busy["action"], of_busy["reason"]) == ("none", "busy")
        assert of_busy["working"]["command"] == "CREATE INDEX CONCURRENTLY"
        assert of_busy["working"]["phase"].startswith("waiting")
        assert "reason" not in figure(figures, "free") or figure(figures, "free")["reason"] != "busy"
    thread.join()
    assert indexes(first, busy) == {hnsw_index(first, busy): True}


def test_a_collection_can_be_dropped_while_its_index_is_built(store: Store) -> None:
    collection, other = filled(store), filled(store, "zzz")
    with psycopg.connect(store.dsn) as holder:
        # An old snapshot holds the build up, and does not lock the table against dropping.
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1 FROM vecmeter.collections")
        figures: list[Any] = []
        thread = threading.Thread(target=lambda: figures.append(store.maintenance.build_indexes([collection])))
        thread.start()
        until(lambda: is_building(store))
        started = time.monotonic()
        store.collections.drop("acme", "things")
        assert time.monotonic() - started < 5
        thread.join()
        holder.rollback()
    assert figure(figures[0])["action"] in ("failed", "none")
    with pytest.raises(CollectionNotFoundError):
        store.collections.get("acme", "things")
    assert figure(store.maintenance.build_indexes([other]), "zzz")["action"] == "built"


# --- reindex ---


def test_during_a_reindex_searches_use_the_index_and_miss_nothing(open_store: Callable[..., Store]) -> None:
    writer, reader = open_store(exact_threshold=10), open_store(exact_threshold=10)
    collection = writer.build(filled(writer))
    written, stop = clustered(2000, 16, seed=1)[INDEX_THRESHOLD:], threading.Event()

    def search() -> list[bool]:
        found = []
        while not stop.is_set():
            position = len(found) % INDEX_THRESHOLD
            result = reader.searcher.search(collection, Query(numbers=as_numbers(ROWS[position]), top_k=3))
            assert (result.plan, len(result.matches)) == (Plan.HNSW, 3)
            found.append(result.matches[0].id == f"v{position}")
        return found

    def write() -> list[bool]:
        for number, row in enumerate(written):
            writer.records.upsert(collection, [Vector(id=f"w{number}", numbers=as_numbers(row))])
        return []

    def reindex() -> list[bool]:
        try:
            for _ in range(4):
                assert figure(reindexer.maintenance.reindex_hnsw([collection], FORCED))["action"] == "reindexed"
        finally:
            stop.set()
        return []

    reindexer = open_store()
    results = in_threads(search, write, reindex)
    assert raised(results) == []
    during = results[0]
    after = [
        writer.ids(collection, Query(numbers=as_numbers(row), top_k=1)) == [f"w{number}"]
        for number, row in enumerate(written)
    ]
    # An HNSW index finds almost all; a missing index, or one without what was written meanwhile, would not.
    for found in (during, after):
        assert sum(found) >= 0.99 * len(found) > 10  # type: ignore[arg-type]


def test_a_reindexed_index_counts_as_built_of_what_there_is_by_then(store: Store) -> None:
    """Also where nobody knows of how many it was built, as before indexes were catalogued."""
    collection = store.build(filled(store))
    for known in (INDEX_THRESHOLD, None):
        store.rows("UPDATE vecmeter.hnsw_indexes SET vectors = %s", [known])
        write_all(store, collection, [Vector(id=f"w{i}", numbers=as_numbers(row)) for i, row in enumerate(ROWS)])
        assert figure(store.maintenance.reindex_hnsw([collection], FORCED))["action"] == "reindexed"
        assert [one.vectors for one in store.descriptions.indexes(collection)] == [INDEX_THRESHOLD + len(ROWS)]
        assert figure(store.maintenance.build_indexes([collection]))["action"] == "none"


def test_a_reindex_of_a_collection_without_an_index_does_nothing(store: Store) -> None:
    collection = filled(store)
    assert figure(store.maintenance.reindex_hnsw([collection], FORCED))["action"] == "none"
    assert indexes(store, collection) == {}


# --- failures ---


def test_what_fails_for_one_collection_does_not_keep_the_others_from_their_turn(store: Store) -> None:
    broken = filled(store, "broken")
    # Past the check of definitions: pgvector refuses it when it builds.
    store.rows("UPDATE vecmeter.collections SET index_ef_construction = 8")
    good, gone = filled(store, "good"), filled(store, "gone")
    store.collections.drop("acme", "gone")
    figures = store.maintenance.build_indexes([broken, gone, good])
    failed = figure(figures, "broken")
    assert (failed["action"], failed["error"]) == ("failed", "InvalidParameterValue")
    assert (figure(figures, "gone")["action"], figure(figures, "gone")["reason"]) == ("none", "dropped meanwhile")
    assert figure(figures, "good")["action"] == "built"
    # The lock of the failed one is free again, and what its build left is removed by the next run.
    assert store.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert figure(store.maintenance.build_indexes([broken]), "broken")["action"] == "failed"
    assert len(indexes(store, broken)) <= 1
