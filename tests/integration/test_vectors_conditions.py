"""``if_version``: a write takes place in the place of just that version, or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.fixtures.vectors import Store, in_threads, vector
from vecmeter.errors import VectorNotFoundError, VersionConflictError
from vecmeter.vectors import stock
from vecmeter.vectors.model import Collection, Patch, Written

THREADS = 6


def violations(error: pytest.ExceptionInfo[VersionConflictError]) -> list[tuple[str, str]]:
    return [(violation.path, violation.message) for violation in error.value.violations]


def everything(store: Store, collection: Collection) -> object:
    """All that a write may leave: the vectors, the receipts, the account."""
    ids = store.records.list_ids(collection, "", prefix="", after="", limit=100)
    receipts = store.rows("SELECT count(*) FROM vecmeter.receipts")
    used = store.database.run(lambda connection: stock.read_used(connection, collection))
    return store.records.fetch(collection, "", ids), receipts, used


def test_a_batch_with_conditions_that_hold_is_written(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a"), vector("b")])
    batch = [vector("b", if_version=1), vector("new", if_version=0), vector("a"), vector("c")]
    assert [(w.id, w.version) for w in store.records.upsert(collection, batch)] == [
        ("b", 2), ("new", 1), ("a", 2), ("c", 1)
    ]  # fmt: skip


def test_every_condition_that_does_not_hold_is_named_and_nothing_of_the_batch_is_written(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a"), vector("b")])
    store.records.upsert(collection, [vector("b")])
    before = everything(store, collection)
    batch = [
        vector("free", document="new"),
        vector("a", if_version=1, document="new"),
        vector("b", if_version=1),
        vector("missing", if_version=3),
        vector("a", namespace="n", if_version=1),
        vector("b", if_version=0),
    ]
    with pytest.raises(VersionConflictError) as refused:
        store.records.upsert(collection, batch)
    # Of the two for b the last counts.
    assert sorted(violations(refused)) == [
        ("vectors.3.if_version", "is 3; there is no such vector"),
        ("vectors.4.if_version", "is 1; there is no such vector"),
        ("vectors.5.if_version", "is 0; the stored version is 2"),
    ]
    assert everything(store, collection) == before


def test_put_patch_and_delete_of_another_version_change_nothing(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", metadata={"k": 1})])
    store.records.upsert(collection, [vector("a", metadata={"k": 1})])
    before = everything(store, collection)
    for wrong in (1, 3, 7):
        for work in (
            lambda v: store.records.put(collection, vector("a", if_version=v)),
            lambda v: store.records.patch(collection, "", "a", Patch(set={"k": 2}, if_version=v)),
            lambda v: store.records.delete_one(collection, "", "a", if_version=v),
        ):
            with pytest.raises(VersionConflictError) as refused:
                work(wrong)
            assert violations(refused) == [("if_version", f"is {wrong}; the stored version is 2")]
    assert everything(store, collection) == before
    assert store.records.put(collection, vector("a", if_version=2)).version == 3
    assert store.records.patch(collection, "", "a", Patch(set={"k": 2}, if_version=3)) == 4
    store.records.delete_one(collection, "", "a", if_version=4)
    for missing in (
        lambda: store.records.patch(collection, "", "a", Patch(set={"k": 2}, if_version=4)),
        lambda: store.records.delete_one(collection, "", "a", if_version=4),
    ):
        with pytest.raises(VectorNotFoundError):
            missing()


def test_of_concurrent_writers_with_one_version_exactly_one_wins_each_round(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(THREADS)]
    collection = stores[0].create()

    def work(number: int, round: int) -> Written:
        if number % 3 == 2:
            changed = Patch(set={"by": number}, if_version=round) if round else None
            if changed:
                version = stores[number].records.patch(collection, "", "a", changed)
                return Written(id="a", namespace="", version=version, inserted=False)
        batch = [vector("a", metadata={"by": number}, if_version=round), vector(f"of {number}")]
        return stores[number].records.upsert(collection, batch)[0]

    for round in range(15):
        results = in_threads(*[lambda n=number, r=round: work(n, r) for number in range(THREADS)])
        [winner] = [number for number, result in enumerate(results) if isinstance(result, Written)]
        assert [type(r) for r in results if not isinstance(r, Written)] == [VersionConflictError] * (THREADS - 1)
        [found] = stores[0].records.fetch(collection, "", ["a"])
        assert (found.version, found.metadata) == (round + 1, {"by": winner})


def round_trips(store: Store, work: Callable[[], object]) -> int:
    with tempfile.TemporaryFile("w+") as trace:
        store.database.run(lambda connection: connection.pgconn.trace(trace.fileno()))
        work()
        store.database.run(lambda connection: connection.pgconn.untrace())
        trace.seek(0)
        return len(re.findall(r"\tF\t\d+\t(?:Sync|Query)\b", trace.read()))


def test_a_write_without_conditions_is_one_round_trip(store: Store) -> None:
    collection = store.create()
    batch = [vector("a"), vector("b", expires_at=datetime(2100, 1, 1, tzinfo=UTC))]
    for _ in range(8):  # by the last of them the statements are prepared
        trips = {
            "upsert": round_trips(store, lambda: store.records.upsert(collection, batch)),
            "add": round_trips(store, lambda: store.records.add(collection, vector("c"))),
            "delete one": round_trips(store, lambda: store.records.delete_one(collection, "", "c")),
            "delete matching": round_trips(
                store, lambda: store.records.delete_matching(collection, "", {"k": 1}, dry_run=False)
            ),
        }
    assert trips == dict.fromkeys(trips, 1)
