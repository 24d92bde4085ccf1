"""Queries by the official client: whom they find, what they say of them, and every operator of the filters."""

from __future__ import annotations

from typing import Any

import pytest
from pinecone import Field
from stack import Account

FILMS: dict[str, dict[str, Any]] = {
    "comedy": {"genres": ["comedy", "drama"], "year": 2019, "rating": 7.5, "seen": True, "title": "Parasite"},
    "thriller": {"genres": ["thriller"], "year": 2020, "rating": 6.0, "seen": False, "title": "Tenet"},
    "drama": {"genres": "drama", "year": 2021, "rating": 8.0, "seen": True, "title": "Drive"},
    "short": {"year": 1999, "title": "Short"},
    "bare": {},
}
ALL = set(FILMS)

# A filter in their language, and whom it lets through. A record without the field is unequal to everything.
FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({"title": "Tenet"}, {"thriller"}),
    ({"title": {"$eq": "Tenet"}}, {"thriller"}),
    ({"year": {"$eq": 2020}}, {"thriller"}),
    ({"seen": {"$eq": True}}, {"comedy", "drama"}),
    ({"title": {"$ne": "Tenet"}}, ALL - {"thriller"}),
    ({"year": {"$gt": 2019}}, {"thriller", "drama"}),
    ({"year": {"$gte": 2019}}, {"comedy", "thriller", "drama"}),
    ({"rating": {"$lt": 7.5}}, {"thriller"}),
    ({"rating": {"$lte": 7.5}}, {"comedy", "thriller"}),
    ({"year": {"$gte": 2019, "$lt": 2021}}, {"comedy", "thriller"}),
    ({"year": {"$in": [1999, 2021]}}, {"short", "drama"}),
    ({"title": {"$nin": ["Tenet", "Drive"]}}, {"comedy", "short", "bare"}),
    ({"rating": {"$exists": True}}, {"comedy", "thriller", "drama"}),
    ({"rating": {"$exists": False}}, {"short", "bare"}),
    ({"genres": "drama"}, {"comedy", "drama"}),
    ({"genres": {"$eq": "comedy"}}, {"comedy"}),
    ({"genres": {"$in": ["comedy", "thriller"]}}, {"comedy", "thriller"}),
    ({"genres": {"$ne": "drama"}}, ALL - {"comedy", "drama"}),
    ({"genres": {"$nin": ["comedy", "thriller"]}}, {"drama", "short", "bare"}),
    ({"$and": [{"seen": True}, {"year": {"$gt": 2019}}]}, {"drama"}),
    ({"$or": [{"year": 1999}, {"genres": "thriller"}]}, {"short", "thriller"}),
    ({"seen": True, "year": {"$lt": 2020}}, {"comedy"}),
    ({"$or": [{"$and": [{"year": 2019}, {"seen": True}]}, {"title": "Short"}]}, {"comedy", "short"}),
    ((Field("genres").is_in(["drama"]) & (Field("year") != 2021)).to_dict(), {"comedy"}),
    ((Field("rating").exists() & Field("rating").gte(8)).to_dict(), {"drama"}),
]


@pytest.fixture(scope="module")
def films(index: Any) -> Any:
    vectors = [(name, [1.0, number, 0.0], metadata) for number, (name, metadata) in enumerate(FILMS.items())]
    index.upsert(vectors=vectors, namespace="films")
    return index


@pytest.mark.parametrize(("chosen", "expected"), FILTERS, ids=[str(chosen) for chosen, _ in FILTERS])
def test_a_query_finds_all_that_pass_its_filter_and_no_other(
    films: Any, chosen: dict[str, Any], expected: set[str]
) -> None:
    answer = films.query(vector=[1, 0, 0], top_k=10, filter=chosen, namespace="films")
    assert {match.id for match in answer.matches} == expected


@pytest.mark.parametrize(("chosen", "expected"), FILTERS[::4], ids=[str(chosen) for chosen, _ in FILTERS[::4]])
def test_a_filter_means_the_same_to_a_fetch_as_to_a_query(
    films: Any, chosen: dict[str, Any], expected: set[str]
) -> None:
    assert set(films.fetch_by_metadata(filter=chosen, namespace="films").vectors) == expected


def test_a_query_answers_with_what_was_asked_for(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 0, 0], {"n": 1}), ("b", [0.6, 0.8, 0])], namespace=namespace)
    answer = index.query(vector=[1, 0, 0], top_k=2, include_values=True, include_metadata=True, namespace=namespace)
    assert [match.id for match in answer.matches] == ["a", "b"]
    assert [match.score for match in answer.matches] == pytest.approx([1.0, 0.6], abs=1e-6)
    assert [match.values for match in answer.matches] == [[1, 0, 0], pytest.approx([0.6, 0.8, 0])]
    assert [match.metadata or {} for match in answer.matches] == [{"n": 1}, {}]
    assert answer.namespace == namespace
    assert answer.usage.read_units >= 1
    bare = index.query(vector=[1, 0, 0], top_k=1, namespace=namespace).matches
    assert [(match.id, match.values, match.metadata) for match in bare] == [("a", [], None)]


SCORES: list[tuple[str, list[tuple[str, float]]]] = [
    ("cosine", [("same", 1.0), ("long", 1.0), ("across", 0.0)]),
    ("dotproduct", [("long", 4.0), ("same", 1.0), ("across", 0.0)]),
    ("euclidean", [("same", 0.0), ("across", 2.0), ("long", 9.0)]),
]


@pytest.mark.parametrize(("metric", "expected"), SCORES)
def test_scores_are_those_of_the_metric_and_the_best_come_first(
    account: Account, pc: Any, metric: str, expected: list[tuple[str, float]]
) -> None:
    """Cosine and dot product: the higher the better. Euclidean: the squared distance, the lower the better."""
    own = account.new_index(pc, dimension=2, metric=metric)
    own.upsert(vectors=[("same", [1, 0]), ("long", [4, 0]), ("across", [0, 1])])
    found = {match.id: match.score for match in own.query(vector=[1, 0], top_k=3).matches}
    assert found == pytest.approx(dict(expected), abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=metric != "euclidean")


def test_a_query_by_id_takes_the_vector_of_that_record(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 0, 0]), ("b", [0.9, 0.1, 0]), ("c", [0, 0, 1])], namespace=namespace)
    answer = index.query(id="b", top_k=2, namespace=namespace)
    assert [match.id for match in answer.matches] == ["b", "a"]


def test_a_query_by_an_id_that_is_not_there_finds_nothing(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 0, 0])], namespace=namespace)
    assert index.query(id="missing", top_k=2, namespace=namespace).matches == []


def test_a_query_by_zeros_finds_whatever_passes_the_filter(index: Any, namespace: str) -> None:
    """How programs for Pinecone list records by their metadata: without a direction, every score is 0."""
    vectors = [(f"id-{n}", [1, n, 0], {"even": n % 2 == 0}) for n in range(6)]
    index.upsert(vectors=vectors, namespace=namespace)
    found = index.query(vector=[0, 0, 0], top_k=10, filter={"even": True}, namespace=namespace).matches
    assert {(match.id, match.score) for match in found} == {("id-0", 0.0), ("id-2", 0.0), ("id-4", 0.0)}


def test_a_query_finds_nothing_of_another_namespace(index: Any, namespace: str) -> None:
    index.upsert(vectors=[("a", [1, 0, 0])], namespace=namespace)
    assert index.query(vector=[1, 0, 0], top_k=5, namespace=f"{namespace}-other").matches == []


def test_a_write_is_found_by_the_next_query(index: Any, namespace: str) -> None:
    for number in range(5):
        index.upsert(vectors=[(f"id-{number}", [1, number, 0])], namespace=namespace)
        assert len(index.query(vector=[1, 0, 0], top_k=10, namespace=namespace).matches) == number + 1
    index.delete(ids=["id-0"], namespace=namespace)
    assert len(index.query(vector=[1, 0, 0], top_k=10, namespace=namespace).matches) == 4


def test_ten_thousand_may_be_asked_for(index: Any, namespace: str) -> None:
    index.upsert(vectors=[(f"id-{n}", [1.0, n, 0]) for n in range(1000)], namespace=namespace)
    answer = index.query(vector=[1, 0, 0], top_k=10_000, namespace=namespace)
    assert len({match.id for match in answer.matches}) == 1000
    assert [match.id for match in answer.matches[:2]] == ["id-0", "id-1"]


def test_the_best_of_several_namespaces_are_merged(index: Any, namespace: str) -> None:
    names = [f"{namespace}-{number}" for number in range(3)]
    for number, name in enumerate(names):
        index.upsert(vectors=[(f"near-{number}", [1, number / 10, 0]), (f"far-{number}", [0, 0, 1])], namespace=name)
    answer = index.query_namespaces(vector=[1, 0, 0], namespaces=names, metric="cosine", top_k=3)
    assert [match.id for match in answer.matches] == ["near-0", "near-1", "near-2"]
    assert answer.usage.read_units == sum(usage.read_units for usage in answer.ns_usage.values()) >= 3
