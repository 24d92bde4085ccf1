"""Limits on what is stored: never over, never refused while there is room, and always what the rows themselves say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import Store, fresh_database, in_threads, index_of, raised, vector
from vecmeter.errors import (
    CollectionNotFoundError,
    CostExceedsLimitError,
    LimitExceededError,
    VectorExistsError,
    VectorNotFoundError,
)
from vecmeter.vectors import stock
from vecmeter.vectors.migrations import runner
from vecmeter.vectors.migrations.runner import apply, migrate
from vecmeter.vectors.model import Collection, IndexType, Metric, Patch
from vecmeter.vectors.stock import CollectionLimits
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.terms import Terms
from vecmeter_local.postgres import PostgresServer

Open = Callable[..., Store]
WRITERS = 8
# 3 numbers, an id of 2 characters, {}.
ONE = 3 * 4 + 2 + 2


def up_to(**limits: int) -> Terms:
    return Terms(limits=limits)


def batch(first: int, count: int, **fields: Any) -> list[Any]:
    return [vector(f"v{number:05d}", **fields) for number in range(first, first + count)]


def rows_say(store: Store, collection: Collection) -> tuple[int, int]:
    """Vectors and bytes, added up here from what the table holds."""
    records, _ = table_names(collection.collection_id)
    found = store.rows(f"SELECT id, document, metadata::text FROM vecmeter.{records}")
    size = sum(
        len(f"{id}{document or ''}{metadata}".encode()) + 4 * collection.dimension for id, document, metadata in found
    )
    return len(found), size


def account_says(store: Store, collection: Collection) -> tuple[int, int]:
    used = store.database.run(lambda connection: stock.read_used(connection, collection))
    return used.own_vectors, used.own_bytes


def refusal(work: Callable[[], Any]) -> dict[str, Any]:
    """What a write is refused with: the only violated policy, in its numbers."""
    with pytest.raises(LimitExceededError) as refused:
        work()
    assert refused.value.retry_after == stock.RETRY_AFTER_SECONDS
    [policy] = refused.value.violated
    assert (policy.resets_at, policy.window_seconds) == (None, 0)
    return {name: getattr(policy, name) for name in ("name", "scope", "limit", "used", "remaining")}


# --- the account ---


def random_write(store: Store, collection: Collection, rng: random.Random) -> None:
    ids = [f"é{rng.randrange(30)}" for _ in range(rng.randrange(1, 8))]
    document, metadata = "ü" * rng.randrange(20), {"n": rng.randrange(10**6), "even": rng.random() < 0.5}
    namespace = rng.choice(["", "other"])
    fields = {
        "document": rng.choice([None, document]),
        "metadata": rng.choice([None, metadata]),
        "namespace": namespace,
    }
    kind, records = rng.randrange(6), store.records
    try:
        if kind < 3:
            records.upsert(collection, [vector(id, **fields) for id in ids])
        elif kind == 3:
            records.add(collection, vector(ids[0], **fields))
        elif kind == 4:
            records.patch(collection, namespace, ids[0], Patch(set=metadata, unset=["even"]))
        elif rng.random() < 0.7:
            records.delete_ids(collection, namespace, ids, dry_run=False)
        else:
            records.delete_matching(collection, namespace, {"even": True}, dry_run=False)
    except (VectorExistsError, VectorNotFoundError):
        pass  # nothing is written


def test_the_account_is_what_the_rows_say_whatever_is_written_by_whom(open_store: Open) -> None:
    stores = [open_store() for _ in range(WRITERS)]
    collection = stores[0].create(index=index_of(IndexType.NONE))

    def work(number: int) -> None:
        rng = random.Random(number)
        for round in range(60):
            random_write(stores[number], collection, rng)
            if round % 20 == 10 and number == 0:
                stores[0].database.run(stock.fold)

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(WRITERS)])) == []
    assert account_says(stores[0], collection) == rows_say(stores[0], collection)
    stores[0].database.run(stock.fold)
    assert stores[0].rows("SELECT count(*) FROM vecmeter.stock_changes") == [(0,)]
    assert account_says(stores[0], collection) == rows_say(stores[0], collection)
    assert stores[0].collections.size(collection).stored_bytes == rows_say(stores[0], collection)[1]


def test_counting_anew_changes_nothing_that_is_right_and_mends_what_is_not(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, batch(0, 5, document="text"))
    corrected = lambda: store.maintenance.recount_stock([collection])["collections"][0]["corrected"]  # noqa: E731
    assert corrected() == {"vectors": 0, "bytes": 0}
    store.rows("UPDATE vecmeter.stock SET vectors = vectors - 2, bytes = bytes + 7")
    assert corrected() == {"vectors": 2, "bytes": -7}
    assert account_says(store, collection) == rows_say(store, collection)


def test_collections_from_before_the_account_are_counted_when_it_is_introduced(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    before = [path for path in Path(runner.__file__).parent.glob("*.sql") if path.name < "0004"]
    for path in before:
        (tmp_path / path.name).write_text(path.read_text())
    with fresh_database(postgres_server, None) as dsn:
        apply(dsn, tmp_path)
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "INSERT INTO vecmeter.collections (project_id, name, dimension, metric, index_type, index_m, "
                "index_ef_construction, index_storage) VALUES ('acme', 'things', 3, 'cosine', 'none', 16, 128, 'half')"
            )
            connection.execute(OLD_TABLES)
        migrate(dsn)
        store = Store(dsn)
        collection = store.collections.get("acme", "things")
        assert account_says(store, collection) == rows_say(store, collection) == (2, 2 * 12 + 5 + 2 + 2 + 8)
        store.records.upsert(collection, [vector("a", document="longer than before")])
        assert account_says(store, collection) == rows_say(store, collection)
        store.close()


OLD_TABLES = b"""
    CREATE TABLE vecmeter.records_1 (
        record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, namespace text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL, version bigint NOT NULL DEFAULT 1, document text,
        metadata jsonb NOT NULL DEFAULT '{}', updated_at timestamptz NOT NULL DEFAULT now(), UNIQUE (namespace, id)
    );
    CREATE TABLE vecmeter.vectors_1 (record_id bigint PRIMARY KEY, namespace text, embedding vector(3) NOT NULL);
    INSERT INTO vecmeter.records_1 (namespace, id, document, metadata) VALUES ('', 'a', 'short', '{}'),
        ('', 'b', NULL, '{"k": 1}');
    INSERT INTO vecmeter.vectors_1 SELECT record_id, '', '[1,2,3]' FROM vecmeter.records_1;
"""


# --- limits ---


def test_of_many_writers_at_once_exactly_the_limit_gets_in(open_store: Open) -> None:
    stores = [open_store() for _ in range(WRITERS)]
    collections = [stores[0].create(f"c{number}", index=index_of(IndexType.NONE)) for number in range(2)]
    terms, used_at_refusal = up_to(max_vectors=100), set()

    def work(number: int) -> int:
        done = 0
        for vectors in [batch(1000 * number + i, 1) for i in range(40)]:
            try:
                done += len(stores[number].records.upsert(collections[number % 2], vectors, terms))
            except LimitExceededError as refused:
                used_at_refusal.add(refused.violated[0].used)
        return done

    results = in_threads(*[lambda number=number: work(number) for number in range(WRITERS)])
    assert raised(results) == []
    assert sum(results) == 100  # type: ignore[arg-type]
    assert used_at_refusal == {100}, "there was room"
    assert sum(rows_say(stores[0], collection)[0] for collection in collections) == 100


def test_batches_of_any_size_fill_the_room_and_never_more(open_store: Open) -> None:
    stores = [open_store() for _ in range(WRITERS)]
    collection = stores[0].create(index=index_of(IndexType.NONE))
    terms, refusals = up_to(max_storage_bytes=20_000), []

    def work(number: int) -> None:
        rng = random.Random(number)
        for i in range(40):
            metadata = {"text": "x" * rng.randrange(300)}
            vectors = batch(1000 * number + 20 * i, rng.randrange(1, 12), metadata=metadata)
            size = sum(12 + len(v.id) + len(f'{{"text": "{metadata["text"]}"}}') for v in vectors)
            try:
                stores[number].records.upsert(collection, vectors, terms)
            except LimitExceededError as refused:
                refusals.append((refused.violated[0].used, size))
            if rng.random() < 0.3:
                stores[number].records.delete_ids(collection, "", [v.id for v in vectors], dry_run=False)

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(WRITERS)])) == []
    assert account_says(stores[0], collection) == rows_say(stores[0], collection)
    assert rows_say(stores[0], collection)[1] <= 20_000
    assert refusals
    assert all(used <= 20_000 < used + size for used, size in refusals), "more was stored, or there was room"


def test_a_vector_in_the_place_of_another_needs_no_room_and_bytes_only_the_difference(store: Store) -> None:
    collection = store.create()
    upsert = lambda id, document, terms: store.records.upsert(collection, [vector(id, document=document)], terms)  # noqa: E731
    terms = up_to(max_vectors=2, max_storage_bytes=2 * ONE + 10)
    upsert("v1", "12345", terms)
    upsert("v2", "12345", terms)
    assert upsert("v1", "54321", terms)[0].version == 2
    refused = refusal(lambda: upsert("v1", "543210", terms))
    assert refused == {
        "name": "max_storage_bytes", "scope": "project", "limit": 2 * ONE + 10, "used": 2 * ONE + 10, "remaining": 0
    }  # fmt: skip
    upsert("v1", "4321", terms)
    assert upsert("v2", "654321", terms)[0].version == 2
    assert refusal(lambda: upsert("v3", None, up_to(max_vectors=2)))["used"] == 2
    lower = up_to(max_vectors=1, max_storage_bytes=1)
    assert upsert("v2", "5", lower)[0].inserted is False, "what becomes less is let through above the limit"
    assert account_says(store, collection) == rows_say(store, collection)


def test_metadata_that_grows_needs_room_and_what_shrinks_gives_it_back(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("v1", metadata={"k": "12345"}), vector("v2")])
    full = up_to(max_storage_bytes=account_says(store, collection)[1])
    change = lambda text: store.records.patch(collection, "", "v1", Patch(set={"k": text}), on=full)  # noqa: E731
    assert refusal(lambda: change("123456"))["remaining"] == 0
    assert change("1234") == 2
    assert change("54321") == 3
    assert account_says(store, collection) == rows_say(store, collection)


def test_deleting_and_dropping_give_room_back_at_once(open_store: Open) -> None:
    store, another = open_store(), open_store()
    first, second = store.create("first"), store.create("second")
    terms = up_to(max_vectors=4)
    store.records.upsert(first, batch(0, 2), terms)
    store.records.upsert(second, batch(0, 2), terms)
    assert refusal(lambda: another.records.add(first, vector("new"), terms))["used"] == 4
    store.records.delete_ids(second, "", ["v00000"], dry_run=False, on=terms)
    assert another.records.add(first, vector("new"), terms).inserted
    assert refusal(lambda: another.records.add(first, vector("more"), terms))["used"] == 4
    store.collections.drop("acme", "second")
    another.records.upsert(first, batch(10, 1), terms)
    assert store.rows("SELECT count(*) FROM vecmeter.stock") == [(1,)]


def test_a_limit_acts_on_what_was_stored_before_there_was_one(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, batch(0, 50))
    assert refusal(lambda: store.records.add(collection, vector("new"), up_to(max_vectors=50)))["used"] == 50
    assert refusal(lambda: store.records.add(collection, vector("new"), up_to(max_vectors=20)))["used"] == 50
    assert store.records.add(collection, vector("new"), up_to(max_vectors=51)).inserted


def test_a_batch_that_can_never_fit_is_not_to_be_tried_again_and_a_limit_of_zero_is_closed(store: Store) -> None:
    collection = store.create()
    for terms in (up_to(max_vectors=4), up_to(max_vectors_per_collection=4), up_to(max_storage_bytes=70)):
        with pytest.raises(CostExceedsLimitError):
            store.records.upsert(collection, batch(0, 5), terms)
    assert refusal(lambda: store.records.add(collection, vector("v"), up_to(max_vectors=0)))["limit"] == 0
    assert rows_say(store, collection) == account_says(store, collection) == (0, 0)


def test_a_limit_per_collection_holds_for_each(store: Store) -> None:
    first, second = store.create("first"), store.create("second")
    terms = up_to(max_vectors_per_collection=2)
    for collection in (first, second):
        store.records.upsert(collection, batch(0, 2), terms)
        assert refusal(lambda c=collection: store.records.add(c, vector("new"), terms)) == {  # type: ignore[misc]
            "name": "max_vectors_per_collection", "scope": "collection", "limit": 2, "used": 2, "remaining": 0
        }  # fmt: skip


def test_a_collections_own_limit_is_kept_to_by_the_next_write_of_every_instance(open_store: Open) -> None:
    store, another = open_store(), open_store()
    collection = store.create()
    assert another.records.upsert(collection, batch(0, 3))
    assert store.collections.set_limits("acme", "things", max_vectors=3) == CollectionLimits(max_vectors=3)
    assert another.collections.get_limits("acme", "things") == CollectionLimits(max_vectors=3)
    for terms in (Terms(), up_to(max_vectors=100)):
        assert refusal(lambda t=terms: another.records.add(collection, vector("new"), t)) == {  # type: ignore[misc]
            "name": "max_vectors", "scope": "collection", "limit": 3, "used": 3, "remaining": 0
        }  # fmt: skip
    assert another.records.upsert(collection, batch(0, 3))[0].version == 2
    store.collections.set_limits("acme", "things", max_storage_bytes=1)
    with pytest.raises(CostExceedsLimitError):
        another.records.patch(collection, "", "v00000", Patch(set={"k": 1}))
    store.collections.set_limits("acme", "things")
    assert another.records.add(collection, vector("new")).inserted
    with pytest.raises(CollectionNotFoundError):
        store.collections.set_limits("acme", "missing", max_vectors=1)


def test_of_many_creations_at_once_exactly_the_limit_succeeds(open_store: Open) -> None:
    stores = [open_store() for _ in range(6)]
    create = lambda number: stores[number].collections.create(  # noqa: E731
        "acme", f"c{number}", **DEFINITION, on=up_to(max_collections=3)
    )
    results = in_threads(*[lambda number=number: create(number) for number in range(6)])
    refused = raised(results)
    assert [type(error) for error in refused] == [LimitExceededError] * 3
    assert len(stores[0].collections.list_all()) == 3
    assert stores[0].rows("SELECT count(*) FROM vecmeter.stock") == [(3,)]
    name = stores[0].collections.list_all()[0].name
    stores[0].collections.drop("acme", name)
    assert stores[1].collections.create("acme", "new", **DEFINITION, on=up_to(max_collections=3)).name == "new"
    assert stores[1].collections.create("other", "new", **DEFINITION, on=up_to(max_collections=1)).name == "new"


DEFINITION: dict[str, Any] = {"dimension": 3, "metric": Metric.COSINE, "index": index_of(), "embedder": None}


# --- what limits cost others ---


def test_a_refused_write_leaves_nothing_and_those_after_it_are_refused_before_their_work(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, batch(0, 10))
    records, _ = table_names(collection.collection_id)
    tables = ("receipts", "stock_changes", records)
    state = lambda: [store.rows(f"SELECT count(*) FROM vecmeter.{table}") for table in tables]  # noqa: E731
    numbers_given = f"SELECT last_value FROM vecmeter.{records}_record_id_seq"
    before = state()
    refusal(lambda: store.records.upsert(collection, batch(100, 5), up_to(max_vectors=10)))
    assert state() == before
    given = store.rows(numbers_given)
    for terms in (up_to(max_vectors=10), up_to(max_storage_bytes=10 * (ONE + 4))):
        refusal(lambda t=terms: store.records.upsert(collection, batch(100, 5), t))  # type: ignore[misc]
    assert (state(), store.rows(numbers_given)) == (before, given)


def test_writers_without_limits_wait_for_nobody(open_store: Open) -> None:
    store, limited = open_store(), open_store()
    collection = store.create()
    with psycopg.connect(store.dsn) as holder:
        stock.lock(holder, "acme")
        assert store.records.upsert(collection, batch(0, 3))[0].inserted
        assert store.records.delete_ids(collection, "", ["v00000"], dry_run=False) == 1
        writer = threading.Thread(target=lambda: limited.records.add(collection, vector("new"), up_to(max_vectors=9)))
        writer.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
        while store.rows(waiting) != [(1,)]:
            assert writer.is_alive(), "a writer under a limit takes its turn"
        other = store.create("other", project="globex")
        assert store.records.add(other, vector("a"), up_to(max_vectors=1)).inserted, "of another project"
        holder.rollback()
        writer.join()
    assert account_says(store, collection) == rows_say(store, collection) == (3, 2 * (ONE + 4) + ONE + 1)


def test_a_write_under_a_limit_folds_what_has_become_many_changes(store: Store) -> None:
    collection = store.create()
    for number in range(stock.FOLD_ABOVE + 1):
        store.records.upsert(collection, batch(number, 1))
    changes = lambda: store.rows("SELECT count(*) FROM vecmeter.stock_changes")[0][0]  # noqa: E731
    assert changes() == stock.FOLD_ABOVE + 1
    store.records.upsert(collection, batch(1000, 1), up_to(max_vectors=10_000))
    assert changes() == 0
    assert account_says(store, collection) == rows_say(store, collection)
