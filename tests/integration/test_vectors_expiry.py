"""What has expired is as good as deleted from that moment on, and swept away some time later."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.fixtures.vectors import FORCED, Store, in_threads, raised, vector
from vecmeter.errors import LimitExceededError, VectorExistsError, VectorNotFoundError, VersionConflictError
from vecmeter.vectors import stock
from vecmeter.vectors.model import Collection, Patch
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.terms import Terms

LATER = datetime(2100, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
Open = Callable[..., Store]


def expire(store: Store, collection: Collection, *ids: str) -> None:
    """As if time had gone by."""
    records, vectors = table_names(collection.collection_id)
    moved = store.rows(
        f"UPDATE vecmeter.{records} SET expires_at = '2001-01-01' WHERE id = ANY(%s) RETURNING record_id", [list(ids)]
    )
    store.rows(
        f"UPDATE vecmeter.{vectors} SET expires_at = '2001-01-01' WHERE record_id = ANY(%s)",
        [[row[0] for row in moved]],
    )


def ids(store: Store, collection: Collection) -> list[str]:
    return store.records.list_ids(collection, "", prefix="", after="", limit=1000)


def rows(store: Store, collection: Collection) -> list[tuple[int, int]]:
    """How many rows each table of the collection has."""
    records, vectors = table_names(collection.collection_id)
    return store.rows(f"SELECT (SELECT count(*) FROM vecmeter.{records}), (SELECT count(*) FROM vecmeter.{vectors})")


def differing(store: Store, collection: Collection) -> list[str]:
    """Ids of which the tables say different moments."""
    records, vectors = table_names(collection.collection_id)
    return store.rows(
        f"SELECT id FROM vecmeter.{records} r FULL JOIN vecmeter.{vectors} v USING (record_id) "
        "WHERE r.expires_at IS DISTINCT FROM v.expires_at"
    )


def account(store: Store, collection: Collection) -> tuple[int, int]:
    used = store.database.run(lambda connection: stock.read_used(connection, collection))
    return used.own_vectors, used.own_bytes


def corrected(store: Store, collection: Collection) -> dict[str, int]:
    """By how much the account was wrong."""
    found: dict[str, int] = store.maintenance.recount_stock([collection])["collections"][0]["corrected"]
    return found


def test_the_moment_comes_back_as_it_was_and_a_write_replaces_it(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", expires_at=LATER), vector("b")])
    expiry = lambda: [found.expires_at for found in store.records.fetch(collection, "", ["a", "b"])]  # noqa: E731
    assert expiry() == [LATER, None]
    store.records.upsert(collection, [vector("a"), vector("b", expires_at=LATER)])
    assert expiry() == [None, LATER]
    assert differing(store, collection) == []
    store.records.patch(collection, "", "a", Patch(set={"k": 1}))
    store.records.patch(collection, "", "b", Patch(set={"k": 1}))
    assert expiry() == [None, LATER], "a patch that does not name it leaves it"
    store.records.patch(collection, "", "a", Patch(expires_at=LATER))
    store.records.patch(collection, "", "b", Patch(expires_at=None))
    assert expiry() == [LATER, None]
    assert differing(store, collection) == []


def test_what_has_expired_is_nowhere(store: Store) -> None:
    collection = store.create()
    batch = [vector(id, metadata={"k": 1}, expires_at=LATER) for id in "abc"]
    store.records.upsert(collection, batch)
    expire(store, collection, "b")
    records = store.records
    assert ids(store, collection) == ["a", "c"]
    assert records.list_ids(collection, "", prefix="", after="a", limit=1) == ["c"]
    assert [found.id for found in records.fetch(collection, "", ["a", "b", "c"])] == ["a", "c"]
    assert records.count_matching(collection, "", {"k": 1}) == 2
    assert records.delete_matching(collection, "", {"k": 1}, dry_run=True) == 2
    assert records.delete_ids(collection, "", ["a", "b"], dry_run=True) == 1
    assert records.update_matching(collection, "", {"k": 1}, Patch(set={"k": 2})) == 2
    with pytest.raises(VectorNotFoundError):
        records.patch(collection, "", "b", Patch(expires_at=None))
    with pytest.raises(VectorNotFoundError):
        records.delete_one(collection, "", "b")
    assert records.delete_ids(collection, "", ["b"], dry_run=False) == 0
    assert records.delete_matching(collection, "", None, dry_run=False) == 2
    assert ids(store, collection) == []


def test_a_moment_that_has_passed_is_taken_and_hides_the_vector_at_once(store: Store) -> None:
    collection = store.create()
    [written] = store.records.upsert(collection, [vector("a", expires_at=LONG_AGO)])
    assert (written.inserted, written.version) == (True, 1)
    assert ids(store, collection) == []
    store.records.upsert(collection, [vector("a")])
    store.records.patch(collection, "", "a", Patch(expires_at=LONG_AGO))
    assert ids(store, collection) == []


@pytest.mark.parametrize("kind", ["upsert", "put", "add", "if_version"])
def test_a_write_in_the_place_of_what_has_expired_is_an_insert(store: Store, kind: str) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", document="old", metadata={"old": 1}, expires_at=LATER)])
    store.records.upsert(collection, [vector("a", document="old, too", metadata={"old": 1}, expires_at=LATER)])
    expire(store, collection, "a")
    new = vector("a", 3.0, 2.0, 1.0, document="new")
    match kind:
        case "upsert":
            [written] = store.records.upsert(collection, [new])
        case "put":
            written = store.records.put(collection, new)
        case "add":
            written = store.records.add(collection, new)
        case _:
            with pytest.raises(VersionConflictError):
                store.records.put(collection, vector("a", if_version=2))
            written = store.records.put(collection, vector("a", 3.0, 2.0, 1.0, document="new", if_version=0))
    assert (written.inserted, written.version) == (True, 1)
    [found] = store.records.fetch(collection, "", ["a"])
    assert (found.document, found.metadata, found.numbers, found.expires_at) == ("new", {}, [3.0, 2.0, 1.0], None)
    assert rows(store, collection) == [(1, 1)]
    assert account(store, collection)[0] == 1
    assert corrected(store, collection) == {"vectors": 0, "bytes": 0}
    with pytest.raises(VectorExistsError):
        store.records.add(collection, new)


def test_the_sweep_deletes_what_has_expired_and_gives_its_room_back(store: Store) -> None:
    collection, other = store.create(), store.create("other")
    store.records.upsert(collection, [vector(f"v{i:04}", expires_at=LATER) for i in range(1000)])
    store.records.upsert(collection, [vector(f"w{i:04}", document="words") for i in range(300)])
    store.records.upsert(collection, [vector(f"x{i:04}", expires_at=LONG_AGO) for i in range(250)])
    expire(store, collection, *[f"v{i:04}" for i in range(1, 1000)])
    full = Terms(limits={"max_vectors": 1550})
    with pytest.raises(LimitExceededError):
        store.records.add(collection, vector("new"), full)
    figures = store.maintenance.purge_expired([collection, other])["collections"]
    assert [(figure["collection"], figure.get("deleted", 0)) for figure in figures] == [("things", 1249), ("other", 0)]
    assert rows(store, collection) == [(301, 301)]
    assert len(ids(store, collection)) == 301
    assert account(store, collection)[0] == 301
    assert corrected(store, collection) == {"vectors": 0, "bytes": 0}
    assert store.records.add(collection, vector("new"), full).inserted


def test_the_sweep_waits_for_nobody_and_leaves_what_a_writer_has_in_hand(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", expires_at=LONG_AGO), vector("b", expires_at=LONG_AGO)])
    records, _ = table_names(collection.collection_id)
    impatient = Store(store.dsn + "&options=-c%20lock_timeout%3D2000")
    with psycopg.connect(store.dsn) as writer:
        writer.execute(f"SELECT FROM vecmeter.{records} WHERE id = 'a' FOR UPDATE".encode())
        assert impatient.maintenance.purge_expired([collection])["collections"][0]["deleted"] == 1
    assert store.maintenance.purge_expired([collection])["collections"][0]["deleted"] == 1
    assert rows(store, collection) == [(0, 0)]


def test_the_sweep_reads_an_index(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector(f"v{i}") for i in range(1000)])
    store.records.upsert(collection, [vector("gone", expires_at=LONG_AGO)])
    store.maintenance.vacuum_analyze([collection], FORCED)
    records, _ = table_names(collection.collection_id)
    plan = store.rows(f"EXPLAIN SELECT record_id FROM vecmeter.{records} WHERE expires_at <= now() LIMIT 1000")
    assert f"{records}_expires_at" in str(plan)


def test_writers_readers_and_sweeps_at_once_leave_the_account_right(open_store: Open) -> None:
    stores = [open_store() for _ in range(6)]
    collection = stores[0].create()

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(60):
            if number < 2:
                stores[number].maintenance.purge_expired([collection])
                continue
            batch = [
                vector(f"v{i}", expires_at=rng.choice([None, LONG_AGO, LATER]), document="x" * rng.randrange(9))
                for i in rng.sample(range(12), 4)
            ]
            stores[number].records.upsert(collection, batch)
            stores[number].records.delete_ids(collection, "", [f"v{rng.randrange(12)}"], dry_run=False)

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(6)])) == []
    assert corrected(stores[0], collection) == {"vectors": 0, "bytes": 0}
    [(records, vectors)] = rows(stores[0], collection)
    assert records == vectors


def test_a_vector_is_gone_at_its_moment_and_not_before(store: Store) -> None:
    collection = store.create()
    [(now,)] = store.rows("SELECT now()")
    moment = now + timedelta(milliseconds=300)
    store.records.upsert(collection, [vector("a", expires_at=moment)])
    seen = []
    while True:
        found = bool(store.records.fetch(collection, "", ["a"]))
        [(now,)] = store.rows("SELECT clock_timestamp()")
        seen.append(found)
        if not found:
            break
    assert now >= moment
    assert any(seen), "nobody looked before its moment"
