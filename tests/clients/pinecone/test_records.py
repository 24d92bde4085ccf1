"""Records by the official client: upsert, fetch, list, update, delete, counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pinecone import Vector
from stack import MAJOR, Account

# What the default namespace is called in the counts of an index.
DEFAULT = "__default__" if MAJOR >= 10 else ""

FORMS: list[tuple[str, list[Any]]] = [
    ("pairs", [("a", [1.0, 0.0, 0.5]), ("b", [0.0, 1.0, 0.5])]),
    ("triples", [("a", [1.0, 0.0, 0.5], {"n": 1}), ("b", [0.0, 1.0, 0.5], {"n": 2})]),
    ("objects", [Vector("a", [1.0, 0.0, 0.5], metadata={"n": 1}), Vector("b", [0.0, 1.0, 0.5])]),
    (
        "dictionaries",
        [{"id": "a", "values": [1.0, 0.0, 0.5], "metadata": {"n": 1}}, {"id": "b", "values": [0.0, 1, 0.5]}],
    ),
]
METADATA = {
    "text": "ü",
    "number": 1.5,
    "whole": 2026,
    "yes": True,
    "no": False,
    "genres": ["comedy", "drama"],
    "empty": "",
}


@pytest.mark.parametrize(("form", "vectors"), FORMS, ids=[form for form, _ in FORMS])
def test_vectors_in_any_form_are_fetched_as_they_were_upserted(
    index: Any, namespace: str, form: str, vectors: list[Any]
) -> None:
    assert index.upsert(vectors=vectors, namespace=namespace).upserted_count == 2
    found = index.fetch(ids=["a", "b"], namespace=namespace)
    assert {id_: vector.values for id_, vector in found.vectors.items()} == {"a": [1.0, 0.0, 0.5], "b": [0.0, 1.0, 0.5]}
    assert (found.vectors["a"].metadata or {}) == ({} if form == "pairs" else {"n": 1})


def test_metadata_of_every_type_comes_back_as_it_was(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 2, 3], METADATA)], namespace=namespace)
    back = index.fetch(ids=["a"], namespace=namespace).vectors["a"].metadata
    assert back == METADATA
    assert (back["yes"], back["no"]) == (True, False)


def test_metadata_that_is_none_is_left_out(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 2, 3], {"kept": 1, "none": None})], namespace=namespace)
    index.update(id="a", set_metadata={"kept": None, "added": 2}, namespace=namespace)
    assert index.fetch(ids=["a"], namespace=namespace).vectors["a"].metadata == {"kept": 1, "added": 2}


def test_upserting_an_id_again_replaces_the_record(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 2, 3], {"old": True})], namespace=namespace)
    assert index.upsert(vectors=[("a", [3, 2, 1], {"new": True})], namespace=namespace).upserted_count == 1
    found = index.fetch(ids=["a"], namespace=namespace).vectors["a"]
    assert (found.values, found.metadata) == ([3, 2, 1], {"new": True})
    assert count(index, namespace) == 1


def test_a_thousand_vectors_are_one_request(index: Any, namespace: str) -> None:
    assert index.upsert(vectors=many(1000), namespace=namespace).upserted_count == 1000
    assert count(index, namespace) == 1000


def test_batches_sent_at_once_are_all_written(index: Any, namespace: str) -> None:
    answer = index.upsert(
        vectors=many(1000), namespace=namespace, batch_size=100, max_concurrency=4, show_progress=False
    )
    assert (answer.upserted_count, answer.successful_batch_count, answer.errors) == (1000, 10, [])
    assert count(index, namespace) == 1000


def test_a_batch_with_one_bad_vector_says_so_and_the_others_are_written(index: Any, namespace: str) -> None:
    vectors = [*many(30), ("bad", [1.0, 2.0])]
    answer = index.upsert(vectors=vectors, namespace=namespace, batch_size=10, show_progress=False)
    assert (answer.upserted_count, answer.failed_item_count, answer.failed_batch_count) == (30, 1, 1)
    assert "dimension" in answer.errors[0].error_message
    assert count(index, namespace) == 30


def test_ids_that_are_not_there_are_left_out_of_a_fetch(index: Any, namespace: str) -> None:
    assert index.fetch(ids=["a"], namespace=namespace).vectors == {}
    index.upsert(vectors=[("a", [1, 2, 3])], namespace=namespace)
    found = index.fetch(ids=["a", "missing"], namespace=namespace)
    assert (list(found.vectors), found.namespace) == (["a"], namespace)
    assert found.usage.read_units >= 1


def test_a_thousand_ids_are_fetched_at_once(index: Any, namespace: str) -> None:
    index.upsert(vectors=many(1000), namespace=namespace)
    found = index.fetch(ids=[f"id-{number}" for number in range(1000)], namespace=namespace)
    assert len(found.vectors) == 1000


def test_ids_may_hold_whatever_ascii_has(index: Any, namespace: str) -> None:
    ids = ["a b", "a/b?c&d=e#f", "100%", "+", "'\"\\", "x" * 512]
    index.upsert(vectors=[(id_, [1, 2, 3]) for id_ in ids], namespace=namespace)
    assert sorted(index.fetch(ids=ids, namespace=namespace).vectors) == sorted(ids)
    assert sorted(listed(index, namespace)) == sorted(ids)


def test_a_list_has_every_id_with_the_prefix_once(index: Any, namespace: str) -> None:
    index.upsert(vectors=[(f"{letter}#{n:03}", [1, 2, 3]) for letter in "ab" for n in range(120)], namespace=namespace)
    assert sorted(listed(index, namespace, prefix="b#")) == [f"b#{n:03}" for n in range(120)]
    assert len(listed(index, namespace, limit=7)) == 240
    first = index.list_paginated(prefix="a#", limit=100, namespace=namespace)
    second = index.list_paginated(prefix="a#", limit=100, namespace=namespace, pagination_token=first.pagination.next)
    assert [len(first.vectors), len(second.vectors)] == [100, 20]
    assert second.pagination is None
    assert not {one.id for one in first.vectors} & {one.id for one in second.vectors}


def test_a_prefix_is_taken_by_the_letter(index: Any, namespace: str) -> None:
    ids = ["a_1", "ab1", "a%1", "A_1"]
    index.upsert(vectors=[(id_, [1, 2, 3]) for id_ in ids], namespace=namespace)
    assert [listed(index, namespace, prefix=prefix) for prefix in ("a_", "a%", "A")] == [["a_1"], ["a%1"], ["A_1"]]


def test_a_list_of_nothing_is_empty(index: Any, namespace: str) -> None:
    assert list(index.list(namespace=namespace)) == []


def test_records_by_metadata_are_paged_through_once_each(index: Any, namespace: str) -> None:
    index.upsert(vectors=[(f"id-{n}", [n, 1, 1], {"even": n % 2 == 0, "n": n}) for n in range(50)], namespace=namespace)
    seen: list[str] = []
    for page in metadata_pages(index, namespace, {"even": {"$eq": True}}, limit=10):
        assert len(page.vectors) <= 10
        assert all(vector.metadata["even"] is True for vector in page.vectors.values())
        seen += page.vectors
    assert sorted(seen) == sorted(f"id-{n}" for n in range(0, 50, 2))
    whole = index.fetch_by_metadata(filter={"n": {"$gte": 48}}, namespace=namespace)
    assert {id_: vector.values for id_, vector in whole.vectors.items()} == {"id-48": [48, 1, 1], "id-49": [49, 1, 1]}
    assert whole.pagination is None


def test_an_update_changes_the_values_and_merges_the_metadata(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 2, 3], {"kept": 1, "changed": 1})], namespace=namespace)
    index.update(id="a", values=[4, 5, 6], namespace=namespace)
    index.update(id="a", set_metadata={"changed": 2, "added": ["x"]}, namespace=namespace)
    found = index.fetch(ids=["a"], namespace=namespace).vectors["a"]
    assert (found.values, found.metadata) == ([4, 5, 6], {"kept": 1, "changed": 2, "added": ["x"]})


def test_an_update_by_filter_changes_the_matching_records_only(index: Any, namespace: str) -> None:
    index.upsert(vectors=[(f"id-{n}", [n, 1, 1], {"n": n}) for n in range(6)], namespace=namespace)
    chosen = {"filter": {"n": {"$lt": 4}}, "set_metadata": {"seen": True}, "namespace": namespace}
    assert index.update(**chosen, dry_run=True).matched_records == 4
    assert index.fetch(ids=["id-0"], namespace=namespace).vectors["id-0"].metadata == {"n": 0}
    assert index.update(**chosen).matched_records == 4
    found = index.fetch(ids=[f"id-{n}" for n in range(6)], namespace=namespace).vectors
    assert sorted(id_ for id_, vector in found.items() if vector.metadata.get("seen")) == [f"id-{n}" for n in range(4)]
    assert [found[f"id-{n}"].metadata["n"] for n in range(6)] == list(range(6))


DELETIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({"ids": ["id-0", "id-1", "missing"]}, {"id-2", "id-3", "id-4"}),
    ({"filter": {"n": {"$gte": 3}}}, {"id-0", "id-1", "id-2"}),
    ({"delete_all": True}, set()),
]


@pytest.mark.parametrize(("what", "left"), DELETIONS, ids=["ids", "filter", "all"])
def test_a_deletion_takes_what_it_names_and_nothing_else(
    index: Any, namespace: str, what: dict[str, Any], left: set[str]
) -> None:
    other = f"{namespace}-other"
    for name in (namespace, other):
        index.upsert(vectors=[(f"id-{n}", [n, 1, 1], {"n": n}) for n in range(5)], namespace=name)
    index.delete(**what, namespace=namespace)
    assert set(listed(index, namespace)) == left
    assert count(index, other) == 5


def test_deleting_ids_that_are_not_there_is_no_error(index: Any, namespace: str) -> None:
    index.delete(ids=["a"], namespace=namespace)
    index.upsert(vectors=[("a", [1, 2, 3])], namespace=namespace)
    index.delete(ids=["missing"], namespace=namespace)
    assert count(index, namespace) == 1


def test_the_default_namespace_has_two_names(account: Account, pc: Any) -> None:
    own = account.new_index(pc)
    own.upsert(vectors=[("a", [1, 2, 3])])
    for name in ("", "__default__"):
        assert own.fetch(ids=["a"], namespace=name).vectors["a"].values == [1, 2, 3]
        assert [match.id for match in own.query(vector=[1, 2, 3], top_k=5, namespace=name).matches] == ["a"]
    own.upsert(vectors=[("b", [1, 2, 3])], namespace="__default__")
    assert sorted(own.fetch(ids=["a", "b"]).vectors) == ["a", "b"]


def test_the_counts_of_an_index_are_exact(account: Account, pc: Any) -> None:
    own = account.new_index(pc)
    own.upsert(vectors=many(3))
    own.upsert(vectors=many(5), namespace="n")
    stats = own.describe_index_stats()
    assert {name: one.vector_count for name, one in stats.namespaces.items()} == {DEFAULT: 3, "n": 5}
    assert (stats.total_vector_count, stats.dimension, stats.metric) == (8, 3, "cosine")
    own.delete(delete_all=True, namespace="n")
    assert own.describe_index_stats().total_vector_count == 3


def test_an_update_of_a_record_that_is_not_there_makes_none(index: Any, namespace: str) -> None:
    index.update(id="missing", set_metadata={"a": 1}, namespace=namespace)
    assert index.fetch(ids=["missing"], namespace=namespace).vectors == {}


def many(number: int) -> list[tuple[str, list[float]]]:
    return [(f"id-{n}", [float(n), 1.0, 0.5]) for n in range(number)]


def count(index: Any, namespace: str) -> int:
    return int(index.describe_namespace(name=namespace).record_count)


def listed(index: Any, namespace: str, **options: Any) -> list[str]:
    return [one.id for page in index.list(namespace=namespace, **options) for one in page]


def metadata_pages(index: Any, namespace: str, chosen: dict[str, Any], limit: int) -> Iterator[Any]:
    token = None
    while True:
        page = index.fetch_by_metadata(filter=chosen, namespace=namespace, limit=limit, pagination_token=token)
        yield page
        if page.pagination is None or page.pagination.next is None:
            return
        token = page.pagination.next
