"""What takes longer than the function that began it goes on in the database, is done once, and disturbs nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import FORCED, Store, as_numbers, clustered, hnsw_index, in_threads, raised, write_all
from tests.integration.test_maintenance_indexes import ROWS, builds_held_up, figure, filled, indexes, is_building, until
from vecmeter.vectors import texts
from vecmeter.vectors.index_rows import serving
from vecmeter.vectors.long_statements import LeftRunning, execute_long
from vecmeter.vectors.model import Collection, FieldType, FilterableField, Plan, Query, Vector
from vecmeter.vectors.turns import Orders

Open = Callable[..., Store]

# A maintenance function in the middle of a rebuild.
REBUILDING = """
import sys
from tests.fixtures.vectors import FORCED, Store
store = Store(sys.argv[1])
store.maintenance.reindex_hnsw(store.collections.list_all(), FORCED)
"""


def soon(seconds: float = 2.5) -> Orders:
    return replace(FORCED, ends_at=time.monotonic() + seconds)


def relation(store: Store, collection: Collection) -> int:
    [(number,)] = store.rows("SELECT %s::regclass::oid", [f"vecmeter.{hnsw_index(store, collection)}"])
    return int(number)


# --- one statement ---


def test_a_statement_is_left_to_the_database_when_its_time_is_up(store: Store) -> None:
    store.rows("CREATE TABLE done (at timestamptz)")
    slow = b"INSERT INTO done SELECT clock_timestamp() FROM pg_sleep(1.5)"
    with psycopg.connect(store.dsn, autocommit=True) as connection:
        started = time.monotonic()
        with pytest.raises(LeftRunning):
            execute_long(connection, slow, started + 0.3)
        assert time.monotonic() - started < 1.2
        assert connection.closed
    assert store.rows("SELECT count(*) FROM done") == [(0,)]
    until(lambda: store.rows("SELECT count(*) FROM done") == [(1,)])


def test_a_statement_that_ends_in_time_or_fails_does_so_as_any_other(store: Store) -> None:
    with psycopg.connect(store.dsn, autocommit=True) as connection:
        execute_long(connection, b"CREATE TABLE there ()", time.monotonic() + 30)
        with pytest.raises(psycopg.errors.DuplicateTable):
            execute_long(connection, b"CREATE TABLE there ()")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            execute_long(connection, b"SELECT pg_terminate_backend(pg_backend_pid())")


# --- a run ---


def test_a_rebuild_whose_function_is_out_of_time_goes_on_and_is_not_done_twice(store: Store) -> None:
    collection, other = store.build(filled(store)), store.build(filled(store, "other"))
    before, of_other = relation(store, collection), relation(store, other)
    with builds_held_up(store, collection):
        figures = store.maintenance.reindex_hnsw([collection, other], soon())
        left = figure(figures)
        assert (left["action"], left["reason"]) == ("goes on", "time is up")
        assert figure(figures, "other")["action"] == "put off"
        assert figures["put_off"] == 2
        busy = figure(store.maintenance.reindex_hnsw([collection], FORCED))
        assert (busy["action"], busy["reason"]) == ("none", "busy")
        assert busy["working"]["command"] == "REINDEX CONCURRENTLY"
    until(lambda: indexes(store, collection) == {hnsw_index(store, collection): True})
    until(lambda: relation(store, collection) != before)
    until(lambda: figure(store.maintenance.reindex_hnsw([collection])).get("reason") != "busy")
    rebuilt = relation(store, collection)
    assert figure(store.maintenance.reindex_hnsw([collection]))["action"] == "none", "it is written down as built"
    assert relation(store, collection) == rebuilt
    assert relation(store, other) == of_other


def test_a_rebuild_whose_process_is_killed_ends_in_the_database_and_the_next_run_takes_note(store: Store) -> None:
    collection = store.build(filled(store))
    more = [Vector(id=f"w{at}", numbers=as_numbers(row)) for at, row in enumerate(clustered(300, 16))]
    write_all(store, collection, more)
    before = relation(store, collection)
    with builds_held_up(store, collection):
        process = subprocess.Popen([sys.executable, "-c", REBUILDING, store.dsn])
        until(lambda: is_building(store), 60)
        process.kill()
        process.wait()
        assert figure(store.maintenance.reindex_hnsw([collection], FORCED))["reason"] == "busy"
        assert figure(store.maintenance.build_indexes([collection]))["reason"] == "busy"
        [(busy,)] = store.rows("SELECT count(*) FROM pg_stat_progress_create_index")
        assert busy == 1
    until(lambda: relation(store, collection) != before)
    until(lambda: figure(store.maintenance.reindex_hnsw([collection])).get("reason") != "busy")
    with store.maintenance._turns.connect() as connection:
        [index] = serving(connection, collection)
    assert index.built_vectors == 1300
    assert indexes(store, collection) == {hnsw_index(store, collection): True}
    assert store.rows("SELECT rebuilding FROM vecmeter.hnsw_indexes") == [(None,)]


def test_a_rebuild_that_was_cancelled_leaves_the_old_index_and_nothing_else(store: Store) -> None:
    collection = store.build(filled(store))
    before = relation(store, collection)
    with builds_held_up(store, collection):
        store.maintenance.reindex_hnsw([collection], soon())
        store.rows(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()"
        )
    until(lambda: figure(store.maintenance.reindex_hnsw([collection])).get("reason") != "busy")
    assert indexes(store, collection) == {hnsw_index(store, collection): True}
    assert relation(store, collection) == before
    assert store.rows("SELECT rebuilding, vectors FROM vecmeter.hnsw_indexes") == [(None, 1000)]


def test_a_build_that_goes_on_is_taken_over_by_the_next_run(store: Store) -> None:
    collection = filled(store)
    with builds_held_up(store, collection):
        assert figure(store.maintenance.build_indexes([collection], soon()))["action"] == "goes on"
    until(lambda: figure(store.maintenance.build_indexes([collection])).get("reason") != "busy")
    assert indexes(store, collection) == {hnsw_index(store, collection): True}
    assert store.rows("SELECT state FROM vecmeter.hnsw_indexes") == [("ready",)]
    assert figure(store.maintenance.build_indexes([collection]))["action"] == "none"


def test_nothing_is_begun_that_there_is_no_time_for(store: Store) -> None:
    collection = filled(store)
    for task in ("vacuum_analyze", "reindex_hnsw", "build_indexes", "probe_recall", "tune_ef_search", "purge_expired"):
        figures = getattr(store.maintenance, task)([collection], soon(0.5))
        assert figures["put_off"] == 1
        assert figure(figures)["action"] == "put off"
    assert indexes(store, collection) == {}


def test_reading_documents_for_their_words_goes_on_where_it_was_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "READ_AT_ONCE", 1)
    monkeypatch.setattr(texts, "_READ_AT_A_TIME", 10)
    collection = store.create()
    rows = clustered(35, 3)
    some = [Vector(id=f"v{at}", numbers=as_numbers(row), document=f"word{at} dogs") for at, row in enumerate(rows)]
    store.records.upsert(collection, some)
    collection = store.collections.change("acme", "things", lambda c: replace(c, text_search="english"))
    read: list[int] = []
    for _ in range(9):
        with psycopg.connect(store.dsn, autocommit=True) as connection:
            done = texts.fill(connection, collection, lambda: True)
        [(count,)] = store.rows(f"SELECT count(*) FROM vecmeter.texts_{collection.collection_id}")
        read.append(count)
        if done:
            break
    assert read == [10, 20, 30, 35, 35]
    store.clock[0] += 3600
    assert store.collections.get("acme", "things").texts_ready
    # A table made anew is read from its beginning.
    changed = store.collections.change("acme", "things", lambda c: replace(c, text_search="german"))
    with psycopg.connect(store.dsn, autocommit=True) as connection:
        assert texts.fill(connection, changed)
    assert store.rows(f"SELECT count(*) FROM vecmeter.texts_{collection.collection_id}") == [(35,)]


# --- beside others ---


def test_searches_that_never_stop_lose_no_match_during_rebuilds_and_vacuums(open_store: Open) -> None:
    """Each by the index, while vectors are replaced."""
    writer, reader, keeper = (open_store(exact_threshold=10) for _ in range(3))
    collection = writer.build(filled(writer))
    rows, stop = ROWS[:1000], threading.Event()
    plans: set[Plan] = set()

    def search() -> list[bool]:
        found = []
        while not stop.is_set():
            at = (len(found) * 37) % 1000
            result = reader.searcher.search(collection, Query(numbers=as_numbers(rows[at]), top_k=5))
            plans.add(result.plan)
            assert len(result.matches) == 5
            found.append(result.matches[0].id == f"v{at}")
        return found

    def write() -> list[bool]:
        at = 0
        while not stop.is_set():
            at += 1
            writer.records.upsert(collection, [Vector(id="extra", numbers=as_numbers(rows[at % 1000] + 50.0))])
        return []

    def look_after() -> list[bool]:
        try:
            for _ in range(3):
                assert figure(keeper.maintenance.reindex_hnsw([collection], FORCED))["action"] == "reindexed"
                assert figure(keeper.maintenance.vacuum_analyze([collection], FORCED))["action"] == "vacuumed"
        finally:
            stop.set()
        return []

    results = in_threads(search, write, look_after)
    assert raised(results) == []
    found: Any = results[0]
    assert plans == {Plan.HNSW}
    assert sum(found) >= 0.99 * len(found) > 10


def test_a_change_of_the_texts_and_an_index_of_a_field_do_not_wait_for_each_other(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else PostgreSQL would end one of the two: a change that fails, or an index that is left invalid."""
    store, other = open_store(), open_store()
    collection = filled(store, count=200)
    declared = (FilterableField("n", FieldType.NUMBER),)
    store.collections.change("acme", "things", lambda c: replace(c, filterable=declared))
    asked, change_language = threading.Event(), texts.change_language

    def asking(*arguments: Any) -> bool:
        asked.set()
        return change_language(*arguments)

    monkeypatch.setattr(texts, "change_language", asking)
    results: dict[int, Any] = {}
    works = (
        lambda: store.maintenance.build_indexes([collection]),
        lambda: other.collections.change("acme", "things", lambda c: replace(c, text_search="english")),
    )
    with psycopg.connect(store.dsn) as holder:
        # What the building of the index waits for, in the middle of its work.
        records = f"vecmeter.records_{collection.collection_id}"
        holder.execute(f"UPDATE {records} SET metadata = metadata WHERE record_id = 0".encode())
        threads = [
            threading.Thread(target=lambda at=at, work=work: results.update({at: work()}))
            for at, work in enumerate(works)
        ]
        threads[0].start()
        until(lambda: is_building(store))
        threads[1].start()
        assert asked.wait(10)
        # Longer than PostgreSQL takes to look for a deadlock.
        threading.Event().wait(1.5)
        holder.rollback()
    for thread in threads:
        thread.join()
    assert [one["action"] for one in figure(results[0])["indexes"]] == ["build"]
    assert results[1].text_search == "english"


def test_a_change_of_the_texts_gives_up_behind_an_index_that_takes_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_WAIT_SECONDS", 0.2)
    collection = filled(store, count=10)
    with psycopg.connect(store.dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s, %s)", [texts.RECORDS_LOCK, collection.collection_id])
        with pytest.raises(Exception, match="is being built"):
            store.collections.change("acme", "things", lambda c: replace(c, text_search="english"))
    assert store.collections.change("acme", "things", lambda c: replace(c, text_search="english")).text_search
