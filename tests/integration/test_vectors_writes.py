"""Writes say what they did, do all of it or nothing, and do not touch more than they must."""

from __future__ import annotations

from array import array

import pytest

from tests.fixtures.vectors import Store, numbers, vector
from vecmeter.errors import InvalidRequestError, VectorExistsError, VectorNotFoundError
from vecmeter.vectors.model import Collection, IndexDefinition, Metric, Patch, Query, Storage, Vector
from vecmeter.vectors.tables import table_names


def stored(store: Store, collection: Collection, id: str, namespace: str = "") -> tuple[int, object, object]:
    [found] = store.records.fetch(collection, namespace, [id])
    return found.version, found.document, found.metadata


def vector_row(store: Store, collection: Collection, id: str) -> tuple[object, ...]:
    """Where the row of a vector's numbers lies, and who wrote it: both change with every update of it."""
    records, vectors = table_names(collection.collection_id)
    [row] = store.rows(
        f"SELECT v.ctid::text, v.xmin::text FROM vecmeter.{vectors} v JOIN vecmeter.{records} r USING (record_id) "
        "WHERE r.id = %s",
        [id],
    )
    return tuple(row)


def test_a_batch_says_for_each_id_whether_it_was_inserted_or_updated(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("b")])
    written = store.records.upsert(collection, [vector("c"), vector("b"), vector("a")])
    assert [(w.id, w.inserted, w.version) for w in written] == [("c", True, 1), ("b", False, 2), ("a", True, 1)]


def test_the_last_of_several_with_one_id_in_a_batch_wins_and_counts_once(store: Store) -> None:
    collection = store.create()
    batch = [vector("a", document="first"), vector("b"), vector("a", 3.0, 2.0, 1.0, document="last")]
    written = store.records.upsert(collection, batch)
    assert [(w.id, w.version) for w in written] == [("a", 1), ("b", 1)]
    [found] = store.records.fetch(collection, "", ["a"])
    assert (found.document, found.numbers) == ("last", [3.0, 2.0, 1.0])


def test_one_id_in_two_namespaces_of_a_batch_is_two_vectors(store: Store) -> None:
    collection = store.create()
    batch = [vector("a", namespace="x", document="x"), vector("a", namespace="y", document="y"), vector("a")]
    assert [w.inserted for w in store.records.upsert(collection, batch)] == [True, True, True]
    assert [stored(store, collection, "a", namespace)[1] for namespace in ("x", "y", "")] == ["x", "y", None]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Vector(id="bad", numbers=array("f", [1.0, 2.0])), id="wrong dimension"),
        pytest.param(vector("bad", metadata={"a": "\x00"}), id="U+0000 in metadata"),
        pytest.param(vector("bad\x00"), id="U+0000 in the id"),
        pytest.param(vector("bad", document="\x00"), id="U+0000 in the document"),
        pytest.param(Vector(id="bad", numbers=array("f", [1.0, 2.0, float("nan")])), id="not a number"),
        pytest.param(Vector(id="bad", numbers=array("f")), id="no numbers"),
    ],
)
def test_a_batch_with_one_vector_that_postgresql_refuses_writes_none(store: Store, bad: Vector) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("old", document="kept")])
    with pytest.raises(InvalidRequestError):
        store.records.upsert(collection, [vector("new"), vector("old", document="lost"), bad, vector("z")])
    assert store.records.list_ids(collection, "", prefix="", after="", limit=10) == ["old"]
    assert stored(store, collection, "old") == (1, "kept", {})
    assert store.record_ids(collection)[0] == store.record_ids(collection)[1]


def test_an_upsert_replaces_document_and_metadata_as_a_whole(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", document="d", metadata={"x": 1, "y": 2})])
    store.records.upsert(collection, [vector("a", metadata={"x": 3})])
    assert stored(store, collection, "a") == (2, None, {"x": 3})


def test_what_was_acknowledged_is_seen_by_the_next_read_of_another_process(open_store: type[Store]) -> None:
    writer, reader = open_store(), open_store()
    collection = writer.create()
    for round in range(20):
        query = Query(numbers=numbers(float(round + 1), 1.0, 0.0))
        reader.search(reader.collections.get("acme", "things"), query)
        writer.records.upsert(collection, [vector(f"v{round}", float(round + 1), 1.0, 0.0)])
        assert reader.ids(reader.collections.get("acme", "things"), query)[0] == f"v{round}"
        writer.records.delete_ids(collection, "", [f"v{round}"], dry_run=False)
        assert reader.ids(reader.collections.get("acme", "things"), query) == []


def test_add_refuses_an_id_that_exists_and_writes_nothing(store: Store) -> None:
    collection = store.create()
    assert store.records.add(collection, vector("a", document="first")).version == 1
    before = vector_row(store, collection, "a")
    with pytest.raises(VectorExistsError):
        store.records.add(collection, vector("a", 3.0, 3.0, 3.0, document="second"))
    assert stored(store, collection, "a") == (1, "first", {})
    assert vector_row(store, collection, "a") == before
    assert store.records.add(collection, vector("a", namespace="other")).inserted


def test_an_id_that_was_deleted_can_be_inserted_again(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a"), vector("b")])
    store.records.delete_ids(collection, "", ["a"], dry_run=False)
    assert store.records.add(collection, vector("a")).version == 1
    assert store.record_ids(collection)[0] == store.record_ids(collection)[1]


def test_patch_sets_and_removes_fields_and_leaves_the_others(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", document="d", metadata={"keep": 1, "change": 1, "drop": 1})])
    version = store.records.patch(
        collection,
        "",
        "a",
        Patch(set={"change": {"deep": [1]}, "new": None, "both": 2}, unset=["drop", "both", "missing"]),
    )
    assert version == 2
    assert stored(store, collection, "a") == (2, "d", {"keep": 1, "change": {"deep": [1]}, "new": None, "both": 2})


def test_patch_of_a_missing_vector_says_so(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", namespace="elsewhere")])
    with pytest.raises(VectorNotFoundError):
        store.records.patch(collection, "", "a", Patch(set={"x": 1}))


def test_patch_beyond_the_limit_of_metadata_changes_nothing(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a", metadata={"text": "ä" * 20_000})])
    with pytest.raises(InvalidRequestError) as refused:
        store.records.patch(collection, "", "a", Patch(set={"more": "x" * 1000}))
    assert [violation.path for violation in refused.value.violations] == ["set"]
    assert stored(store, collection, "a") == (1, None, {"text": "ä" * 20_000})
    # The connection is as good as before, and what fits is taken.
    assert store.records.patch(collection, "", "a", Patch(set={"more": "x" * 1000}, unset=["text"])) == 2


def test_changes_of_metadata_and_documents_leave_the_vectors_table_alone(store: Store) -> None:
    collection = store.create()
    batch = [vector(f"v{i}", float(i + 1), 1.0, 0.5) for i in range(1000)]
    store.records.upsert(collection, batch)
    collection = store.build(collection)
    size = store.collections.size(collection).index_bytes
    before = vector_row(store, collection, "v7")
    for round in range(5):
        store.records.patch(collection, "", "v7", Patch(set={"round": round}))
        changed = [Vector(id=v.id, numbers=v.numbers, metadata={"round": round}, document=f"{round}") for v in batch]
        assert not any(w.inserted for w in store.records.upsert(collection, changed))
    assert vector_row(store, collection, "v7") == before
    _, vectors = table_names(collection.collection_id)
    assert len(store.rows(f"SELECT DISTINCT xmin::text FROM vecmeter.{vectors}")) == 1, "the rows of the first insert"
    assert store.collections.size(collection).index_bytes == size


def test_an_upsert_of_other_numbers_is_found_by_them_and_no_longer_by_the_old(store: Store) -> None:
    collection = store.create(dimension=2)
    store.records.upsert(collection, [vector("a", 1.0, 0.0), vector("b", 0.0, 1.0)])
    store.records.upsert(collection, [vector("a", 0.0, -1.0)])
    assert store.ids(collection, Query(numbers=numbers(1.0, 0.0), top_k=2)) == ["a", "b"]
    assert store.ids(collection, Query(numbers=numbers(0.0, 1.0), top_k=1)) == ["b"]
    assert store.search(collection, Query(numbers=numbers(0.0, -1.0), top_k=1))[0].distance == pytest.approx(
        0, abs=1e-6
    )


def test_delete_by_ids_counts_what_existed_and_leaves_the_rest(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a"), vector("b"), vector("c"), vector("a", namespace="other")])
    wanted = ["a", "b", "missing", "a"]
    assert store.records.delete_ids(collection, "", wanted, dry_run=True) == 2
    assert len(store.records.list_ids(collection, "", prefix="", after="", limit=9)) == 3, "a dry run deletes nothing"
    assert store.records.delete_ids(collection, "", wanted, dry_run=False) == 2
    assert store.records.list_ids(collection, "", prefix="", after="", limit=9) == ["c"]
    assert store.records.list_ids(collection, "other", prefix="", after="", limit=9) == ["a"]
    assert store.records.delete_ids(collection, "", wanted, dry_run=False) == 0
    assert store.record_ids(collection)[0] == store.record_ids(collection)[1]


def test_delete_by_filter_and_of_all_stay_within_the_namespace(store: Store) -> None:
    collection = store.create()
    for namespace in ("x", "y"):
        batch = [vector(f"v{i}", namespace=namespace, metadata={"even": i % 2 == 0}) for i in range(10)]
        store.records.upsert(collection, batch)
    delete = store.records.delete_matching
    assert delete(collection, "x", {"even": True}, dry_run=True) == 5
    assert delete(collection, "x", {"even": True}, dry_run=False) == 5
    assert store.records.list_ids(collection, "x", prefix="", after="", limit=99) == ["v1", "v3", "v5", "v7", "v9"]
    assert delete(collection, "x", None, dry_run=True) == 5
    assert delete(collection, "x", None, dry_run=False) == 5
    assert store.records.list_ids(collection, "x", prefix="", after="", limit=99) == []
    assert len(store.records.list_ids(collection, "y", prefix="", after="", limit=99)) == 10
    assert store.record_ids(collection)[0] == store.record_ids(collection)[1]


def test_a_wrong_filter_deletes_nothing(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a")])
    for wrong in ({"$or": []}, {"a": {"$gt": True}}, {"$and": []}):
        with pytest.raises(InvalidRequestError):
            store.records.delete_matching(collection, "", wrong, dry_run=False)
    assert store.records.list_ids(collection, "", prefix="", after="", limit=9) == ["a"]


def test_a_batch_of_a_thousand_vectors_is_one_write(store: Store) -> None:
    collection = store.create(dimension=256)
    batch = [Vector(id=f"v{i}", numbers=array("f", [float(i + 1)] * 256)) for i in range(1000)]
    written = store.records.upsert(collection, batch)
    assert [w.id for w in written] == [v.id for v in batch]
    assert all(w.inserted for w in written)
    assert store.collections.size(collection).count == 1000


def test_metadata_nested_too_deep_for_postgresql_is_refused_as_a_fault_of_the_request(store: Store) -> None:
    collection = store.create()
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    # The server's limit is lowered instead of nesting deeper, which Python's own recursion limit would end first.
    store.database.run(lambda connection: connection.execute("SET max_stack_depth = '100kB'"))
    with pytest.raises(InvalidRequestError):
        store.records.upsert(collection, [vector("a", metadata={"deep": deep})])
    assert store.records.upsert(collection, [vector("a")])[0].inserted


def test_numbers_beyond_half_precision_are_refused_once_there_is_an_index_of_it(store: Store) -> None:
    collection = store.create(metric=Metric.L2, index=IndexDefinition(storage=Storage.HALF))
    store.records.upsert(collection, [vector(f"v{i}", float(i), 0.0, 0.0) for i in range(1000)])
    store.build(collection)
    with pytest.raises(InvalidRequestError):
        store.records.upsert(collection, [vector("new"), vector("big", 70_000.0, 0.0, 0.0)])
    assert store.collections.size(collection).count == 1000
