"""Many processes at once: nothing is lost, doubled or orphaned, and nobody is told of a deadlock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.fixtures.vectors import Store, in_threads, index_of, raised, shuffled, vector
from vecmeter.errors import VectorExistsError
from vecmeter.vectors.model import Collection, Patch, Query, Written
from vecmeter.vectors.tables import table_names

THREADS = 8
Open = Callable[..., Store]


def deadlocks(store: Store) -> int:
    """How many the server has counted; sessions report theirs at the latest when they end."""
    [(count,)] = store.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(count)


def assert_two_sides_agree(store: Store, collection: Collection) -> None:
    records, vectors = store.record_ids(collection)
    assert records == vectors, (records - vectors, vectors - records)


def test_concurrent_upserts_of_the_same_ids_count_every_update(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()
    rounds, ids = 12, [f"v{i}" for i in range(40)]

    def work(number: int) -> list[Written]:
        rng, done = random.Random(number), []
        for round in range(rounds):
            rng.shuffle(ids_of_mine := list(ids))
            batch = [vector(id, float(number + 1), float(round + 1), 1.0, document=f"{number}") for id in ids_of_mine]
            done += stores[number].records.upsert(collection, batch)
        return done

    results = in_threads(*[lambda number=number: work(number) for number in range(THREADS)])
    assert raised(results) == []
    by_id: dict[str, list[int]] = {id: [] for id in ids}
    for written in results:
        for one in written:  # type: ignore[union-attr]
            by_id[one.id].append(one.version)
    # Each of the writes of an id got a version of its own, and one of them was the insert.
    assert all(sorted(versions) == list(range(1, THREADS * rounds + 1)) for versions in by_id.values())
    assert stores[0].collections.size(collection).count == len(ids)
    assert_two_sides_agree(stores[0], collection)
    [found] = stores[0].records.fetch(collection, "", ["v0"])
    assert found.document == str(int(found.numbers[0]) - 1), "document and numbers are of the same write"
    for store in stores:
        store.close()
    assert deadlocks(stores[0]) == 0


def test_concurrent_deletes_and_upserts_in_any_order_do_not_deadlock(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()
    ids = [f"v{i}" for i in range(200)]
    # Rows that lie in another order than their ids: without an order of locks, deletes take them as they lie.
    stores[0].records.upsert(collection, [vector(ids[i], metadata={"all": True}) for i in shuffled(200)])

    def work(number: int) -> None:
        rng = random.Random(number)
        for round in range(12):
            rng.shuffle(mine := list(ids))
            if number % 3 == 0:
                stores[number].records.delete_matching(collection, "", {"all": True}, dry_run=False)
            elif number % 3 == 1:
                stores[number].records.delete_ids(collection, "", mine, dry_run=False)
            for start in range(0, 200, 50):
                batch = [
                    vector(id, float(round + 1), 1.0, 1.0, metadata={"all": True}) for id in mine[start : start + 50]
                ]
                stores[number].records.upsert(collection, batch)

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(THREADS)])) == []
    assert_two_sides_agree(stores[0], collection)
    for store in stores:
        store.close()
    assert deadlocks(stores[0]) == 0


def test_concurrent_deletes_and_upserts_of_few_ids_leave_no_orphans(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()

    def work(number: int) -> None:
        rng = random.Random(number)
        for round in range(60):
            ids = [f"v{rng.randrange(6)}" for _ in range(3)]
            match rng.randrange(4):
                case 0:
                    stores[number].records.delete_ids(collection, "", ids, dry_run=False)
                case 1:
                    stores[number].records.delete_matching(collection, "", None, dry_run=False)
                case _:
                    stores[number].records.upsert(collection, [vector(id, float(round), 1.0, 2.0) for id in ids])

    assert raised(in_threads(*[lambda number=number: work(number) for number in range(THREADS)])) == []
    assert_two_sides_agree(stores[0], collection)
    records, _ = table_names(collection.collection_id)
    assert stores[0].rows(f"SELECT namespace, id FROM vecmeter.{records} GROUP BY 1, 2 HAVING count(*) > 1") == []


def test_of_concurrent_adds_of_one_id_exactly_one_succeeds(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()
    for round in range(10):
        results = in_threads(*[lambda s=store, r=round: s.records.add(collection, vector(f"v{r}")) for store in stores])
        assert sum(isinstance(result, Written) for result in results) == 1
        assert sum(isinstance(result, VectorExistsError) for result in results) == THREADS - 1
    assert_two_sides_agree(stores[0], collection)


def test_concurrent_patches_of_one_vector_lose_none(open_store: Open) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()
    stores[0].records.upsert(collection, [vector("a")])

    def work(number: int) -> list[int]:
        return [
            stores[number].records.patch(collection, "", "a", Patch(set={f"{number}-{round}": True}))
            for round in range(10)
        ]

    results = in_threads(*[lambda number=number: work(number) for number in range(THREADS)])
    assert raised(results) == []
    versions = [version for result in results for version in result]  # type: ignore[union-attr]
    assert sorted(versions) == list(range(2, THREADS * 10 + 2))
    [found] = stores[0].records.fetch(collection, "", ["a"])
    assert (found.version, len(found.metadata)) == (THREADS * 10 + 1, THREADS * 10)


@pytest.mark.parametrize("indexed", [False, True])
def test_searches_during_writes_see_whole_vectors_only(open_store: Open, indexed: bool) -> None:
    writer, reader = open_store(exact_threshold=10), open_store(exact_threshold=10)
    collection = writer.create(dimension=2, index=index_of())
    writer.records.upsert(collection, [vector(f"old{i}", 1.0, i / 1000, document="0") for i in range(1000)])
    if indexed:
        collection = writer.build(collection)
    done = False

    def write() -> None:
        nonlocal done
        for round in range(1, 40):
            batch = [vector(f"v{i}", -1.0, float(round), document=f"{round}") for i in range(20)]
            writer.records.upsert(collection, batch)
            writer.records.delete_ids(collection, "", ["v0", "v1"], dry_run=False)
        done = True

    def read() -> int:
        seen = 0
        while not done:
            query = Query(numbers=vector("", -1.0, 40.0).numbers, top_k=5, include_document=True, include_vector=True)
            for match in reader.search(collection, query):
                assert match.document is not None
                assert match.numbers is not None
                assert match.id.startswith("old") or match.numbers[1] == float(match.document)
                seen += 1
        return seen

    results = in_threads(write, read)
    assert raised(results) == []
    assert results[1], "nothing was read meanwhile"
