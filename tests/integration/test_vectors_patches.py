"""Changes of vectors: of what is named and nothing else, all or nothing; and the words of documents, kept true."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import psycopg
import pytest

from tests.fixtures.texts import create_texts
from tests.fixtures.vectors import MAX_METADATA_BYTES, PROJECT, Store, in_threads, numbers, raised, vector
from vecmeter.errors import InvalidRequestError, LimitExceededError, VectorNotFoundError
from vecmeter.vectors.model import Collection, Patch, Query
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.terms import DefinitionChanged, Terms

Open = Callable[..., Store]
THREADS = 6


def row_of(store: Store, table: str) -> list[tuple[str, str]]:
    """Where each row lies, and who wrote it: both change with every update of it."""
    return store.rows(f"SELECT ctid::text, xmin::text FROM vecmeter.{table} ORDER BY record_id")


def words(store: Store, collection: Collection) -> dict[str, tuple[str, int]]:
    number = collection.collection_id
    found = store.rows(
        f"SELECT r.id, t.terms::text, t.length FROM vecmeter.records_{number} r "
        f"FULL JOIN vecmeter.texts_{number} t USING (record_id)"
    )
    return {id: (terms, length) for id, terms, length in found}


def test_a_patch_changes_what_it_names_and_leaves_the_rest(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", document="d", metadata={"k": 1}), vector("b", document="d")])
    patch = lambda **what: store.records.patch(collection, "", "a", Patch(**what))  # noqa: E731
    stored = lambda: store.records.fetch(collection, "", ["a"])[0]  # noqa: E731
    before = stored()
    assert patch(document="new") == 2
    assert stored() == replace(before, version=2, document="new")
    assert patch(numbers=numbers(3.0, 2.0, 1.0), set={"k": 2}) == 3
    assert stored() == replace(before, version=3, document="new", numbers=[3.0, 2.0, 1.0], metadata={"k": 2})
    assert store.ids(collection, Query(numbers=numbers(3.0, 2.0, 1.0), top_k=1)) == ["a"]
    assert patch(document=None, unset=["k"]) == 4
    assert stored() == replace(before, version=4, document=None, numbers=[3.0, 2.0, 1.0], metadata={})
    assert [found.version for found in store.records.fetch(collection, "", ["b"])] == [1]


def test_a_patch_of_metadata_touches_neither_numbers_nor_words(store: Store) -> None:
    collection = create_texts(store, "english")
    store.records.upsert(collection, [vector("a", document="some words"), vector("b", document="others")])
    _, vectors = table_names(collection.collection_id)
    tables = (vectors, f"texts_{collection.collection_id}")
    before = [row_of(store, table) for table in tables]
    store.records.patch(collection, "", "a", Patch(set={"k": 1}))
    assert store.records.update_matching(collection, "", {"k": 1}, Patch(set={"k": 2})) == 1
    # The same document once more, with other metadata.
    store.records.upsert(collection, [vector("a", document="some words", metadata={"k": 3})])
    store.records.patch(collection, "", "a", Patch(document="some words"))
    assert [row_of(store, table) for table in tables] == before


def test_words_are_kept_true_by_every_write(store: Store) -> None:
    collection = create_texts(store, "english")
    records = store.records
    records.upsert(collection, [vector("a", document="cats and cats"), vector("b"), vector("c", document="the")])
    assert words(store, collection) == {"a": ("'cat':1,3", 2), "b": ("", 0), "c": ("", 0)}
    records.upsert(collection, [vector("a"), vector("b", document="dogs")])
    records.add(collection, vector("d", document="a bird"))
    assert words(store, collection) == {"a": ("", 0), "b": ("'dog':1", 1), "c": ("", 0), "d": ("'bird':2", 1)}
    records.patch(collection, "", "b", Patch(document=None))
    records.patch(collection, "", "c", Patch(document="fish fishes"))
    assert words(store, collection) == {"a": ("", 0), "b": ("", 0), "c": ("'fish':1,2", 2), "d": ("'bird':2", 1)}
    records.delete_ids(collection, "", ["c"], dry_run=False)
    records.delete_one(collection, "", "b")
    assert words(store, collection).keys() == {"a", "d"}
    records.delete_matching(collection, "", None, dry_run=False)
    assert words(store, collection) == {}


def test_concurrent_writers_leave_the_words_of_the_last_document(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = create_texts(stores[0], "simple")

    def work(number: int) -> None:
        rng, records = random.Random(number), stores[number].records
        for _ in range(50):
            id, document = f"v{rng.randrange(3)}", rng.choice([None, f"word{number}", "x y x"])
            match rng.randrange(4):
                case 0:
                    records.delete_ids(collection, "", [id], dry_run=False)
                case 1:
                    with suppress(VectorNotFoundError):
                        records.patch(collection, "", id, Patch(document=document))
                case _:
                    records.upsert(collection, [vector(id, document=document)])

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(THREADS)])) == []
    number = collection.collection_id
    wrong = f"""
        SELECT r.id, r.document, t.terms FROM vecmeter.records_{number} r
        FULL JOIN vecmeter.texts_{number} t USING (record_id)
        WHERE t.terms IS DISTINCT FROM to_tsvector('simple', coalesce(r.document, ''))
    """
    assert stores[0].rows(wrong) == []


@pytest.mark.parametrize("language", [None, "simple"])
def test_a_write_by_a_definition_that_is_old_does_nothing_and_is_done_by_the_new_one(
    open_store: Open, language: str | None
) -> None:
    store, other = open_store(), open_store()
    old = create_texts(store, "english")
    store.records.upsert(old, [vector("a", document="cats", metadata={"k": 1})])
    other.collections.get(PROJECT, "texts")  # it remembers
    store.collections.change(PROJECT, "texts", lambda c: replace(c, text_search=language))
    writes: list[Callable[[Collection], object]] = [
        lambda c: other.records.upsert(c, [vector("b", document="cats")]),
        lambda c: other.records.add(c, vector("c", document="cats")),
        lambda c: other.records.put(c, vector("a", document="dogs", metadata={"k": 1}, if_version=1)),
        lambda c: other.records.patch(c, "", "a", Patch(document="fishes")),
        lambda c: other.records.update_matching(c, "", {"k": 1}, Patch(set={"k": 2})),
        lambda c: other.records.delete_ids(c, "", ["b"], dry_run=False),
    ]
    for write in writes:
        receipts = store.rows("SELECT count(*) FROM vecmeter.receipts")
        with pytest.raises((DefinitionChanged, psycopg.errors.UndefinedTable)):
            write(old)
        assert store.rows("SELECT count(*) FROM vecmeter.receipts") == receipts
        other.collections.use(PROJECT, "texts", write)
    assert [one.document for one in store.records.fetch(old, "", ["a", "b", "c"])] == ["fishes", "cats"]
    if language:
        assert words(store, old) == {"a": ("'fishes':1", 1), "c": ("'cats':1", 1)}


def test_an_update_by_filter_changes_what_it_lets_through_and_says_how_many(store: Store) -> None:
    collection = store.create()
    for namespace in ("", "other"):
        batch = [vector(f"v{i}", namespace=namespace, metadata={"even": i % 2 == 0, "i": i}) for i in range(6)]
        store.records.upsert(collection, batch)
    assert store.records.count_matching(collection, "", {"even": True}) == 3
    assert store.records.update_matching(collection, "", {"even": True}, Patch(set={"x": "y"}, unset=["i"])) == 3
    found = {one.id: (one.version, one.metadata) for one in store.records.fetch(collection, "", ["v0", "v1", "v2"])}
    assert found == {
        "v0": (2, {"even": True, "x": "y"}),
        "v1": (1, {"even": False, "i": 1}),
        "v2": (2, {"even": True, "x": "y"}),
    }
    assert store.records.count_matching(collection, "other", {"x": "y"}) == 0
    assert store.records.update_matching(collection, "", {"even": 7}, Patch(set={"x": "z"})) == 0


def test_an_update_that_makes_the_metadata_of_one_too_large_changes_none(store: Store) -> None:
    collection = store.create()
    near = "ä" * ((MAX_METADATA_BYTES - len('{"k":1,"t":""}')) // 2)
    store.records.upsert(
        collection, [vector("a", metadata={"k": 1}), vector("b", metadata={"k": 1, "t": near}), vector("c")]
    )
    before = store.records.fetch(collection, "", ["a", "b", "c"])
    with pytest.raises(InvalidRequestError) as refused:
        store.records.update_matching(collection, "", {"k": 1}, Patch(set={"more": 1}))
    [violation] = refused.value.violations
    assert violation.path == "set"
    assert violation.message == f"makes the metadata of 'b' {MAX_METADATA_BYTES + 9} bytes long; " + (
        f"at most {MAX_METADATA_BYTES} are allowed"
    )
    assert store.records.fetch(collection, "", ["a", "b", "c"]) == before
    assert store.records.update_matching(collection, "", {"k": 1}, Patch(set={"k": 2})) == 2, "to the byte it fits"


def test_an_update_needs_room_for_what_it_adds(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector(id, metadata={"k": 1}) for id in "abc"])
    store.records.upsert(collection, [vector("d")])
    used = 3 * (3 * 4 + 1 + len('{"k": 1}')) + 3 * 4 + 1 + len("{}")
    full = Terms(limits={"max_storage_bytes": used + 2})
    update = lambda text: store.records.update_matching(collection, "", {"k": {"$exists": True}}, Patch(set=text), full)  # noqa: E731
    with pytest.raises(LimitExceededError):
        update({"k": 22})
    assert [one.version for one in store.records.fetch(collection, "", list("abc"))] == [1, 1, 1]
    assert update({"k": 2}) == 3
    assert store.maintenance.recount_stock([collection])["collections"][0]["corrected"] == {"vectors": 0, "bytes": 0}


def test_concurrent_updates_by_filter_upserts_and_deletes_do_not_deadlock(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()
    order = [f"v{i}" for i in range(100)]

    def work(number: int) -> None:
        rng, records = random.Random(number), stores[number].records
        for round in range(15):
            rng.shuffle(mine := list(order))
            match number % 3:
                case 0:
                    records.update_matching(collection, "", {"all": True}, Patch(set={f"by {number}": round}))
                case 1:
                    records.upsert(collection, [vector(id, metadata={"all": True}) for id in mine[:50]])
                case _:
                    records.delete_ids(collection, "", mine[:20], dry_run=False)
                    records.upsert(collection, [vector(id, metadata={"all": True}) for id in mine[:20]])

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(THREADS)])) == []
    records, vectors = stores[0].record_ids(collection)
    assert records == vectors
    for store in stores:
        store.close()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert stores[0].rows(deadlocks) == [(0,)]
