"""Whether an index is built at all: a binary one only where it finds enough, and none while a load goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fixtures.vectors import Store, as_numbers, clustered, index_of, numbers, write_all
from tests.integration.test_index_builds import ROWS, built, current, filled, namespaces, there
from vecmeter.vectors import texts
from vecmeter.vectors.index_builds import WAITING_SECONDS
from vecmeter.vectors.model import Collection, FieldType, FilterableField, IndexType, Metric, Query, Storage, Vector
from vecmeter.vectors.tables import table_names

# --- binary ---


class Measured:
    """Gives recalls instead of measuring them, and remembers whose were asked for."""

    def __init__(self, *recalls: float) -> None:
        self.recalls = list(recalls)
        self.asked: list[tuple[str | None, Storage]] = []

    def __call__(self, collection: Collection, namespace: str | None) -> float:
        [hnsw] = collection.hnsw
        assert hnsw.namespace == namespace
        self.asked.append((namespace, hnsw.storage))
        return self.recalls.pop(0)


def measuring(store: Store, *recalls: float) -> Measured:
    measured = Measured(*recalls)
    store.builds = replace(store.builds, measure=measured)
    store.maintain()
    return measured


def test_a_binary_index_that_finds_too_little_is_dropped_and_one_of_half_precision_built(store: Store) -> None:
    collection = filled(store, index=index_of(storage=Storage.BINARY))
    measured = measuring(store, 0.6, 0.97, 0.7)
    figure = built(store, collection)
    assert measured.asked == [(name, Storage.BINARY) for name in (None, "large", "medium")]
    assert [(one["namespace"], one["storage"], one.get("recall"), "refused" in one) for one in figure["indexes"]] == [
        (None, "binary", 0.6, True),
        ("large", "binary", 0.97, False),
        ("medium", "binary", 0.7, True),
        (None, "half", None, False),
        ("medium", "half", None, False),
    ]
    ready = current(store, collection)
    assert {(one.namespace, one.storage, one.recall) for one in ready.hnsw} == {
        (None, Storage.HALF, None),
        ("large", Storage.BINARY, 0.97),
        ("medium", Storage.HALF, None),
    }
    assert there(store, collection) == 3
    assert built(store, collection)["action"] == "none", "it is not tried again and again"
    states = {(one.namespace, one.storage, one.state, one.recall) for one in store.descriptions.indexes(ready)}
    assert (None, "binary", "refused", 0.6) in states
    # What satisfies is for the collection to say.
    measured.recalls = [0.6, 0.7]
    store.collections.change("acme", "things", lambda c: replace(c, target_recall=0.55))
    built(store, collection)
    assert {one.storage for one in current(store, collection).hnsw} == {Storage.BINARY}
    assert all(one.state != "refused" for one in store.descriptions.indexes(ready))


def test_the_recall_of_a_binary_index_is_measured_by_real_searches(store: Store) -> None:
    """All numbers are positive, so all signs are the same, and a binary index knows nothing."""
    collection = store.create(dimension=16, index=index_of(storage=Storage.BINARY))
    positive = abs(ROWS[:1500]) + 0.01
    write_all(store, collection, [Vector(id=f"v{at}", numbers=as_numbers(row)) for at, row in enumerate(positive)])
    refused, half = built(store, collection)["indexes"]
    assert refused["recall"] < 0.95
    assert half["storage"] == "half"
    ready = current(store, collection)
    assert [one.storage for one in ready.hnsw] == [Storage.HALF]


# --- while a collection is being loaded ---


def test_an_index_waits_while_its_collection_is_being_loaded_and_not_for_ever(store: Store) -> None:
    collection = filled(store)
    loads = iter(range(10, 20))

    def load(seconds: float) -> None:
        rows = clustered(600, 16)
        batch = next(loads)
        store.records.upsert(
            collection, [Vector(id=f"l{batch}-{at}", numbers=as_numbers(r)) for at, r in enumerate(rows)]
        )

    store.builds = replace(store.builds, look_seconds=10.0, sleep=load)
    store.maintain()
    for _ in range(2):
        figure = built(store, collection)
        assert (figure["action"], figure["reason"]) == ("put off", "it is being loaded")
        assert not store.maintenance.build_soon(collection)
    assert there(store, collection) == 0
    assert [one.state for one in store.descriptions.indexes(collection)] == ["waiting"]
    long_ago = f"UPDATE vecmeter.hnsw_indexes SET changed_at = now() - interval '{WAITING_SECONDS + 1} seconds'"
    store.rows(long_ago)
    assert built(store, collection)["action"] == "built"
    assert {one.state for one in store.descriptions.indexes(collection)} == {"ready"}


def test_an_index_is_built_when_the_load_has_ended(store: Store) -> None:
    collection = filled(store)
    waits: list[float] = []
    store.builds = replace(store.builds, look_seconds=3.0, sleep=waits.append)
    store.maintain()
    assert store.maintenance.build_soon(collection)
    assert waits == [3.0]
    store.clock[0] += 3600
    assert namespaces(current(store, collection)) == [None, "large", "medium"]
    built(store, collection)
    assert waits == [3.0], "nothing to build, nothing to wait for"


def test_what_slows_no_load_is_not_put_off_with_the_index_and_nothing_waits_where_none_is_wanted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "READ_AT_ONCE", 1)
    collection = filled(store)
    declared = (FilterableField("n", FieldType.NUMBER),)
    store.collections.change("acme", "things", lambda c: replace(c, text_search="english", filterable=declared))

    def load(seconds: float) -> None:
        rows = clustered(600, 16)
        changed = current(store, collection)
        store.records.upsert(changed, [Vector(id=f"l{at}", numbers=as_numbers(r)) for at, r in enumerate(rows)])

    store.builds = replace(store.builds, look_seconds=10.0, sleep=load)
    store.maintain()
    figure = built(store, collection)
    assert figure["action"] == "put off"
    assert [one["action"] for one in figure["indexes"]] == ["fill", "build"]
    assert current(store, collection).texts_ready
    assert [one.state for one in store.descriptions.indexes(collection)] == ["waiting"]
    store.collections.change("acme", "things", lambda c: replace(c, index=index_of(IndexType.NONE)))
    assert built(store, collection)["action"] == "none"
    assert store.descriptions.indexes(collection) == []


def test_words_and_fields_are_indexed_though_an_index_of_the_vectors_cannot_be_built(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "READ_AT_ONCE", 1)
    collection = filled(store)
    store.records.upsert(collection, [Vector(id="far", numbers=numbers(*[1.0] * 16), document="Dogs were running")])
    declared = (FilterableField("n", FieldType.NUMBER),)
    store.collections.change("acme", "things", lambda c: replace(c, text_search="english", filterable=declared))
    # Past the check of definitions: pgvector refuses it when it builds.
    store.rows("UPDATE vecmeter.collections SET index_ef_construction = 8")
    assert built(store, collection)["action"] == "failed"
    assert current(store, collection).texts_ready
    listed = "SELECT count(*) FROM pg_indexes WHERE tablename = %s AND indexname LIKE '%%_field_%%'"
    assert store.rows(listed, [table_names(collection.collection_id)[0]]) == [(1,)]
    assert current(store, collection).hnsw == ()


def test_where_half_precision_does_not_hold_a_number_the_index_is_of_float_and_says_why(store: Store) -> None:
    """The number was there before half precision was asked for, or came from an instance that did not know yet."""
    collection = filled(store, metric=Metric.L2, index=index_of(storage=Storage.FLOAT))
    far = Vector(id="far", numbers=numbers(*[1e6] * 16), namespace="large")
    store.records.upsert(collection, [far])
    changed = store.collections.change(
        "acme", "things", lambda c: replace(c, index=replace(c.index, storage=Storage.HALF))
    )
    figure = built(store, collection)
    assert figure["action"] == "built"
    told = [(one["namespace"], one["storage"], one.get("refused")) for one in figure["indexes"]]
    why = "half does not hold a number there is"
    assert told[:3] == [(None, "half", why), ("large", "half", why), ("medium", "half", None)]
    assert told[3:] == [(None, "float", None), ("large", "float", None)]
    ready = current(store, changed)
    assert {(one.namespace, one.storage) for one in ready.hnsw} == {
        (None, Storage.FLOAT),
        ("large", Storage.FLOAT),
        ("medium", Storage.HALF),
    }
    states = {(one.namespace, one.storage, one.state) for one in store.descriptions.indexes(ready)}
    assert (None, "half", "refused") in states
    assert built(store, collection)["action"] == "none", "it is not tried again and again"
    assert store.ids(ready, Query(numbers=far.numbers, namespace="large", top_k=1)) == ["far"]
    # An index that serves is left to serve, whatever its definition would rather have.
    store.collections.change("acme", "things", lambda c: replace(c, index=replace(c.index, storage=Storage.FLOAT)))
    built(store, collection)
    store.collections.change("acme", "things", lambda c: replace(c, index=replace(c.index, storage=Storage.HALF)))
    assert {one["action"] for one in built(store, collection)["indexes"]} == {"build"}
    assert {(one.namespace, one.storage) for one in current(store, collection).hnsw} == {
        (None, Storage.FLOAT),
        ("large", Storage.FLOAT),
        ("medium", Storage.HALF),
    }
