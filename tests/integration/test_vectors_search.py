"""Searches find what brute force finds, at every size of namespace and every filter, and never too few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.fixtures.vectors import (
    Catalogue,
    Store,
    as_numbers,
    clustered,
    distances,
    index_of,
    nearest,
    numbers,
    recall,
    vector,
    write_all,
)
from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.model import IndexDefinition, IndexType, Metric, Plan, Query, Storage, Vector

QUERIES = 20


@pytest.mark.parametrize("metric", list(Metric))
def test_without_an_index_a_search_finds_exactly_what_brute_force_finds(store: Store, metric: Metric) -> None:
    rows = clustered(300, 8)
    collection = store.create(dimension=8, metric=metric, index=index_of(IndexType.NONE))
    write_all(store, collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(rows)])
    for top_k in (1, 2, 10, 299, 300, 301, 1000):
        wanted = as_numbers(clustered(1, 8, seed=top_k)[0])
        result = store.searcher.search(collection, Query(numbers=wanted, top_k=top_k))
        assert result.plan is Plan.EXACT
        assert [m.id for m in result.matches] == [f"v{p}" for p in nearest(metric, rows, wanted, range(300), top_k)]
        truth = distances(metric, rows, wanted)
        for match in result.matches:
            assert match.distance == pytest.approx(truth[int(match.id[1:])], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "wanted", "distance", "score"),
    [
        (Metric.COSINE, (2.0, 0.0), 0.0, 1.0),
        (Metric.COSINE, (0.0, 5.0), 1.0, 0.0),
        (Metric.COSINE, (-3.0, 0.0), 2.0, -1.0),
        (Metric.L2, (3.0, 0.0), 0.0, 1.0),
        (Metric.L2, (3.0, 4.0), 4.0, 0.2),
        (Metric.INNER_PRODUCT, (2.0, 7.0), -6.0, 6.0),
        (Metric.INNER_PRODUCT, (-2.0, 7.0), 6.0, -6.0),
    ],
)
def test_distance_and_score_are_what_the_metric_says(
    store: Store, metric: Metric, wanted: tuple[float, float], distance: float, score: float
) -> None:
    collection = store.create(dimension=2, metric=metric)
    store.records.upsert(collection, [vector("a", 3.0, 0.0)])
    [match] = store.search(collection, Query(numbers=numbers(*wanted)))
    assert (match.distance, match.score) == (pytest.approx(distance, abs=1e-6), pytest.approx(score, abs=1e-6))


@pytest.mark.parametrize("metric", list(Metric))
def test_matches_come_best_first_and_those_at_one_distance_by_id(store: Store, metric: Metric) -> None:
    collection = store.create(dimension=2, metric=metric)
    store.records.upsert(collection, [vector(id, 1.0, 1.0) for id in "cab"] + [vector("z", 2.0, -1.0)])
    matches = store.search(collection, Query(numbers=numbers(1.0, 1.0), top_k=4))
    assert [match.id for match in matches] == ["a", "b", "c", "z"]
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)


@pytest.mark.parametrize("which", ["catalogue", "l2_catalogue", "product_catalogue"])
@pytest.mark.parametrize("top_k", [1, 10, 100, 499])
def test_with_an_index_a_search_finds_what_brute_force_finds(
    request: pytest.FixtureRequest, which: str, top_k: int
) -> None:
    found: Catalogue = request.getfixturevalue(which)
    store = Store(found.dsn)
    results = []
    for query in found.queries(QUERIES, namespace="large", top_k=top_k):
        result = store.searcher.search(found.collection, query)
        assert result.plan is Plan.HNSW
        assert len(result.matches) == top_k
        ordered = [match.distance for match in result.matches]
        assert ordered == sorted(ordered)
        results.append(recall([match.id for match in result.matches], found.truth(query)))
    store.close()
    assert sum(results) / len(results) >= 0.95


FILTERS: list[tuple[str, dict[str, Any] | None]] = [
    (namespace, filter)
    for namespace in ("large", "medium", "small")
    for filter in (
        None,
        {"half": True},
        {"tenth": 3},
        {"hundredth": 7},
        {"thousandth": 131},
        {"cluster": 5},
        {"half": "true"},
    )
]


@pytest.mark.parametrize(("namespace", "filter"), FILTERS)
def test_every_namespace_and_filter_gets_all_its_rows_at_full_recall(
    catalogue: Catalogue, shop: Store, namespace: str, filter: dict[str, Any] | None
) -> None:
    matching = catalogue.positions(namespace, filter)
    for top_k in (1, 10, 100):
        results = []
        for query in catalogue.queries(QUERIES, namespace=namespace, filter=filter, top_k=top_k):
            found = shop.ids(catalogue.collection, query)
            assert len(found) == min(top_k, len(matching))
            assert set(found) <= {f"v{position}" for position in matching}
            truth = nearest(catalogue.collection.metric, catalogue.rows, query.numbers or (), matching, top_k)
            results.append(recall(found, [f"v{position}" for position in truth]))
        assert sum(results) / len(results) >= 0.95


def test_an_exact_search_of_an_indexed_collection_is_exact(catalogue: Catalogue, shop: Store) -> None:
    for query in catalogue.queries(QUERIES, namespace="large", exact=True, filter={"half": True}):
        result = shop.searcher.search(catalogue.collection, query)
        assert [match.id for match in result.matches] == catalogue.truth(query)
        assert (result.plan, result.candidates) == (Plan.EXACT, len(catalogue.positions("large", {"half": True})))


def test_a_search_never_leaves_its_namespace(store: Store) -> None:
    collection = store.create(dimension=2)
    store.records.upsert(collection, [vector("a", 1.0, 0.0, namespace="x"), vector("b", 0.0, 1.0, namespace="y")])
    assert store.ids(collection, Query(numbers=numbers(1.0, 0.0), namespace="y")) == ["b"]
    assert store.ids(collection, Query(numbers=numbers(1.0, 0.0), namespace="")) == []
    assert store.ids(collection, Query(numbers=numbers(1.0, 0.0), namespace="X")) == []


def test_fields_of_a_match_are_given_only_where_asked_for(store: Store) -> None:
    collection = store.create(dimension=2)
    store.records.upsert(collection, [vector("a", 1.0, 0.5, document="d", metadata={"m": 1})])
    ask = lambda **include: store.search(collection, Query(numbers=numbers(1.0, 0.0), **include))[0]  # noqa: E731
    bare = ask(include_metadata=False)
    assert (bare.metadata, bare.document, bare.numbers) == (None, None, None)
    full = ask(include_metadata=True, include_document=True, include_vector=True)
    assert (full.metadata, full.document, full.numbers) == ({"m": 1}, "d", [1.0, 0.5])


# --- by the id of a stored vector ---


def test_a_search_by_id_is_the_search_by_that_vector(catalogue: Catalogue, shop: Store) -> None:
    position = catalogue.positions("large")[3]
    by_numbers = Query(numbers=as_numbers(catalogue.rows[position]), namespace="large", filter={"half": True})
    by_id = Query(id=f"v{position}", namespace="large", filter={"half": True})
    assert shop.ids(catalogue.collection, by_id) == shop.ids(catalogue.collection, by_numbers)
    [first] = shop.search(catalogue.collection, Query(id=f"v{position}", namespace="large", top_k=1))
    assert (first.id, first.distance) == (f"v{position}", pytest.approx(0.0, abs=1e-6))


@pytest.mark.parametrize("filter", [None, {"half": True}, {"thousandth": 3}, {"no": "match"}])
@pytest.mark.parametrize("namespace", ["large", "medium", "small", "empty"])
def test_a_search_by_an_id_that_is_not_there_says_so(
    catalogue: Catalogue, shop: Store, namespace: str, filter: dict[str, Any] | None
) -> None:
    elsewhere = catalogue.positions("rest")[0]
    for id in ("missing", f"v{elsewhere}"):
        with pytest.raises(VectorNotFoundError):
            shop.search(catalogue.collection, Query(id=id, namespace=namespace, filter=filter))


def test_a_search_by_id_whose_filter_lets_nothing_through_finds_nothing(catalogue: Catalogue, shop: Store) -> None:
    for namespace in ("large", "small"):
        id = f"v{catalogue.positions(namespace)[0]}"
        assert shop.search(catalogue.collection, Query(id=id, namespace=namespace, filter={"half": "no"})) == []


# --- numbers at the edges ---


@pytest.mark.parametrize("indexed", [False, True])
def test_vectors_of_any_length_are_found_by_their_direction(store: Store, indexed: bool) -> None:
    """Half precision ends at 65,504 and at 6e-8: what became zero or infinite would be missing from the index."""
    collection = store.create(dimension=16)
    rows, lengths = clustered(2000, 16), [1e-17, 1e-12, 1e-8, 1e-4, 1.0, 1e5, 1e9, 1e17]
    stretched = [as_numbers(row * np.float32(lengths[i % 8] / np.linalg.norm(row))) for i, row in enumerate(rows)]
    write_all(store, collection, [Vector(id=f"v{i}", numbers=row) for i, row in enumerate(stretched)])
    if indexed:
        collection = store.build(collection)
    for i in range(0, 2000, 37):
        for length in (1e-17, 1.0, 1e17):
            wanted = as_numbers(rows[i] * np.float32(length / np.linalg.norm(rows[i])))
            result = store.searcher.search(collection, Query(numbers=wanted, top_k=3))
            assert result.plan is (Plan.HNSW if indexed else Plan.EXACT)
            assert result.matches[0].id == f"v{i}"
            assert result.matches[0].distance == pytest.approx(0.0, abs=1e-5)


def test_many_equal_vectors_are_all_found(store: Store) -> None:
    collection = store.create(dimension=2)
    for start in range(0, 2000, 1000):
        store.records.upsert(collection, [vector(f"v{i}", 1.0, 1.0) for i in range(start, start + 1000)])
    collection = store.build(collection)
    for top_k in (1, 10, 300):
        assert len(store.search(collection, Query(numbers=numbers(1.0, 1.0), top_k=top_k))) == top_k


def test_sixteen_thousand_dimensions_are_stored_and_compared(store: Store) -> None:
    collection = store.create(dimension=16_000, index=index_of(IndexType.NONE))
    rows = clustered(6, 16_000)
    store.records.upsert(collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(rows)])
    for i, row in enumerate(rows):
        assert store.ids(collection, Query(numbers=as_numbers(row), top_k=1)) == [f"v{i}"]


@pytest.mark.parametrize(("storage", "dimension"), [(Storage.FLOAT, 2000), (Storage.HALF, 4000)])
def test_the_largest_indexed_dimension_is_indexed(
    open_store: Callable[..., Store], storage: Storage, dimension: int
) -> None:
    store = open_store(exact_threshold=5)
    store.index_from(20)
    collection = store.create(dimension=dimension, index=IndexDefinition(storage=storage))
    rows = clustered(20, dimension)
    store.records.upsert(collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(rows)])
    collection = store.build(collection)
    result = store.searcher.search(collection, Query(numbers=as_numbers(rows[7]), top_k=1))
    assert ([match.id for match in result.matches], result.plan) == (["v7"], Plan.HNSW)
