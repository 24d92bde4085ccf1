"""Recall is measured as searches really are, and holds at every size of namespace, selectivity, and late belief."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fixtures.vectors import (
    FORCED,
    Matrix,
    PlanLog,
    Store,
    as_numbers,
    clustered_with_labels,
    executed_scans,
    fresh_database,
    in_threads,
    nearest,
    raised,
    recall,
    write_all,
)
from vecmeter.errors import CollectionNotFoundError
from vecmeter.vectors.model import Collection, Hnsw, Metric, Query, SearchResult, Storage, Vector
from vecmeter.vectors.recall import Probe, measure_recall
from vecmeter.vectors.tables import create_hnsw, hnsw_name

COUNT, DIMENSION, CLUSTERS = 12_000, 32, 60
# Of the clusters, whose vectors lie together: a field that goes with the vectors, and one that goes against queries.
FILTERS: dict[str, dict[str, Any]] = {
    "50 %": {"half": True},
    "10 %": {"tenth": 3},
    "1 %": {"hundredth": 7},
    "0.1 %": {"thousandth": 131},
    "one cluster": {"cluster": 5},
    "half of the clusters": {"cluster": {"$lt": 30}},
    "all clusters but one": {"cluster": {"$ne": 5}},
    "nothing": {"cluster": -1},
}


class Sizes:
    """A collection with namespaces of many sizes, one of them of a few clusters, and its vectors by namespace."""

    SIZES = (10, 100, 400, 600, 1500, 4000)

    def __init__(self, store: Store, *, most_namespaces: int) -> None:
        store.most_namespaces = most_namespaces
        store.index_from(1000)
        self.store = store
        self.rows, self.labels = clustered_with_labels(COUNT, DIMENSION, clusters=CLUSTERS, seed=4)
        self.collection = store.create(dimension=DIMENSION)
        write_all(store, self.collection, [self._vector(position) for position in range(COUNT)])
        self.collection = store.build(self.collection)
        store.maintenance.vacuum_analyze([self.collection], FORCED)

    def namespace(self, position: int) -> str:
        if self.labels[position] < 4:
            return "of 4 clusters"
        place = (position * 7919) % COUNT
        for size in self.SIZES:
            if place < size:
                return f"{size}"
            place -= size
        return "rest"

    def metadata(self, position: int) -> dict[str, Any]:
        return {
            "half": position % 2 == 0,
            "tenth": position % 10,
            "hundredth": position % 100,
            "thousandth": position % 1000,
            "cluster": self.labels[position],
        }

    def _vector(self, position: int) -> Vector:
        numbers, namespace = as_numbers(self.rows[position]), self.namespace(position)
        return Vector(id=f"v{position}", numbers=numbers, namespace=namespace, metadata=self.metadata(position))

    def among(self, namespace: str, filter: str | None) -> list[int]:
        passes = {
            None: lambda m: True,
            "50 %": lambda m: m["half"],
            "10 %": lambda m: m["tenth"] == 3,
            "1 %": lambda m: m["hundredth"] == 7,
            "0.1 %": lambda m: m["thousandth"] == 131,
            "one cluster": lambda m: m["cluster"] == 5,
            "half of the clusters": lambda m: m["cluster"] < 30,
            "all clusters but one": lambda m: m["cluster"] != 5,
            "nothing": lambda m: False,
        }[filter]
        return [p for p in range(COUNT) if self.namespace(p) == namespace and passes(self.metadata(p))]

    def queries(self, count: int) -> Matrix:
        rng = np.random.default_rng(9)
        near = self.rows[rng.integers(0, COUNT, count)]
        return (near + 0.2 * rng.normal(size=near.shape)).astype(np.float32)


@pytest.fixture(scope="module", params=[0, 8], ids=["one index", "indexes of namespaces"])
def sizes(request: pytest.FixtureRequest) -> Iterator[Sizes]:
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("template_database")
    with fresh_database(server, template) as dsn:
        store = Store(dsn)
        yield Sizes(store, most_namespaces=request.param)
        store.close()


@pytest.mark.parametrize("filter", [None, *FILTERS])
def test_recall_holds_at_every_size_of_namespace_under_every_filter(sizes: Sizes, filter: str | None) -> None:
    """Queries come from anywhere: most are far from the vectors of a cluster, or of a namespace of few clusters."""
    for namespace in (*map(str, sizes.SIZES), "rest", "of 4 clusters"):
        among = sizes.among(namespace, filter)
        found, plans = [], set()
        for row in sizes.queries(30):
            query = Query(numbers=as_numbers(row), namespace=namespace, filter=filter and FILTERS[filter])
            result = sizes.store.searcher.search(sizes.collection, query)
            plans.add(result.plan)
            assert len(result.matches) == min(10, len(among)), (namespace, result.plan)
            truth = nearest(Metric.COSINE, sizes.rows, row, among, 10)
            found.append(recall([m.id for m in result.matches], [f"v{position}" for position in truth]))
        assert sum(found) / len(found) >= 0.95, (namespace, plans)


# --- measuring it ---


def test_recall_says_how_much_searches_find(sizes: Sizes) -> None:
    for probe in (Probe(sample=20), Probe(sample=20, namespace="4000"), Probe(sample=5, filter={"half": True})):
        measured = measure_recall(sizes.store.searcher, sizes.collection, probe)
        figures = measured.figures()
        assert 0.95 <= figures["recall"] <= 1.0
        assert sum(figures["plans"].values()) == figures["sample"] == probe.sample
        assert 0 < figures["ann_ms"] <= figures["ann_p95_ms"]


def test_recall_shows_an_index_that_finds_too_little(store: Store) -> None:
    """Signs say nothing of numbers that are all positive."""
    rows = clustered_with_labels(3000, 32)[0] + 20
    collection = store.create(dimension=32)
    write_all(store, collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(rows)])
    signs, probe = with_signs(store, collection), Probe(sample=20)
    assert measure_recall(store.searcher, signs, probe).recall < 0.5
    assert measure_recall(store.searcher, signs, replace(probe, ef_search=1000)).figures()["lowest"] < 0.5
    assert measure_recall(store.searcher, collection, probe).recall == 1.0


def test_the_same_vectors_are_sampled_each_time_and_none_is_a_match_of_itself(store: Store) -> None:
    collection = store.create(dimension=2)
    batch = [Vector(id=f"v{i}", numbers=as_numbers(np.array([1.0, i])), namespace="n") for i in range(30)]
    store.records.upsert(collection, batch)
    asked: list[str] = []
    search = store.searcher.search
    store.searcher.search = lambda c, q: (asked.append(q.id or ""), search(c, q))[1]  # type: ignore[method-assign]
    for namespace in ("n", None):
        samples = []
        for _ in range(2):
            asked.clear()
            measured = measure_recall(store.searcher, collection, Probe(sample=8, namespace=namespace, top_k=29))
            samples.append(list(asked))
            assert measured.recall == 1.0
        assert samples[0] == samples[1]
        assert len(set(samples[0])) == 8

    def only_itself(c: Collection, q: Query) -> SearchResult:
        result = search(c, q)
        return result if q.exact else replace(result, matches=[m for m in result.matches if m.id == q.id])

    store.searcher.search = only_itself  # type: ignore[method-assign]
    assert measure_recall(store.searcher, collection, Probe(sample=8, top_k=1)).recall == 0.0


@pytest.mark.parametrize("namespace", ["n", None])
def test_where_there_are_few_vectors_recall_is_measured_by_all_of_them(store: Store, namespace: str | None) -> None:
    collection = store.create(dimension=2)
    batch = [Vector(id=f"v{i}", numbers=as_numbers(np.array([1.0, i])), namespace="n") for i in range(5)]
    store.records.upsert(collection, batch)
    assert measure_recall(store.searcher, collection, Probe(sample=50, namespace=namespace)).figures()["sample"] == 5
    assert measure_recall(store.searcher, collection, Probe(sample=1, namespace=namespace)).figures()["sample"] == 1


def test_measuring_ends_when_its_time_is_over(store: Store) -> None:
    collection = store.create(dimension=2)
    write_all(store, collection, [Vector(id=f"v{i}", numbers=as_numbers(np.array([1.0, i]))) for i in range(20)])
    ticks = iter(range(1000))
    measured = measure_recall(store.searcher, collection, Probe(sample=10), 7.0, lambda: float(next(ticks)))
    assert len(measured.found) == 2


# --- signs only ---


def with_signs(store: Store, collection: Collection) -> Collection:
    """The collection with an index of the signs of its numbers, as searches that know of it see it."""
    signs = Hnsw(index_id=1, namespace=None, storage=Storage.BINARY, m=16, ef_construction=128)
    store.rows(create_hnsw(collection, signs).decode())
    return replace(collection, hnsw=(signs,))


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_an_index_of_signs_is_a_first_choice_sorted_by_true_distance(store: Store, metric: Metric) -> None:
    rows, _ = clustered_with_labels(4000, 128, clusters=40, spread=0.7)
    collection = store.create(dimension=128, metric=metric)
    write_all(store, collection, [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(rows)])
    collection, log = with_signs(store, collection), PlanLog(store.database)
    found = []
    for row in rows[:40]:
        query = Query(numbers=as_numbers(row))
        result, plans = log.of(lambda q=query: store.searcher.search(collection, q))  # type: ignore[misc]
        assert hnsw_name(collection.collection_id, 1) in executed_scans(plans[-1])
        assert [m.distance for m in result.matches] == sorted(m.distance or 0.0 for m in result.matches)
        truth = nearest(metric, rows, row, range(4000), 10)
        found.append(recall([m.id for m in result.matches], [f"v{position}" for position in truth]))
    assert sum(found) / len(found) >= 0.9


# --- beliefs that are late ---


@pytest.fixture
def believed(store: Store) -> tuple[Store, Collection, Matrix]:
    """A collection of one namespace with an index of it and one of all."""
    rows, _ = clustered_with_labels(2000, 16)
    collection = store.create(dimension=16)
    batch = [Vector(id=f"v{i}", numbers=as_numbers(row), metadata={"half": i % 2}) for i, row in enumerate(rows)]
    batch += [replace(one, namespace="other") for one in batch[:1500]]
    write_all(store, collection, batch)
    collection = store.build(collection)
    assert collection.hnsw_of("") is not None
    return store, collection, rows


def finds_all(store: Store, collection: Collection, rows: Matrix) -> float:
    found = []
    for row in rows[:30]:
        for filter, among in ((None, range(2000)), ({"half": 1}, range(1, 2000, 2))):
            ids = store.ids(collection, Query(numbers=as_numbers(row), filter=filter))
            truth = nearest(collection.metric, rows, row, among, 10)
            assert len(ids) == 10
            found.append(recall(ids, [f"v{position}" for position in truth]))
    return sum(found) / len(found)


def test_an_index_of_a_namespace_that_is_gone_is_not_missed(believed: tuple[Store, Collection, Matrix]) -> None:
    store, collection, rows = believed
    own = collection.hnsw_of("")
    assert own is not None
    store.rows(f"DROP INDEX vecmeter.{hnsw_name(collection.collection_id, own.index_id)}")
    assert finds_all(store, collection, rows) >= 0.95


def test_an_index_that_was_made_anew_with_another_storage_is_not_missed(
    believed: tuple[Store, Collection, Matrix],
) -> None:
    store, collection, rows = believed
    for one in collection.hnsw:
        store.rows(f"DROP INDEX vecmeter.{hnsw_name(collection.collection_id, one.index_id)}")
        anew = Hnsw(index_id=one.index_id, namespace=one.namespace, storage=Storage.FLOAT, m=8, ef_construction=64)
        store.rows(create_hnsw(collection, anew).decode())
    assert finds_all(store, collection, rows) >= 0.95


def test_searches_of_a_collection_that_is_dropped_meanwhile_end_in_its_not_being_there(
    believed: tuple[Store, Collection, Matrix],
) -> None:
    store, collection, rows = believed
    others = [Store(store.dsn) for _ in range(3)]

    def search_on(other: Store) -> int:
        queries = [Query(numbers=as_numbers(row), filter={"half": 1} if i % 2 else None) for i, row in enumerate(rows)]
        for count in range(0, 2000, 4):
            try:
                results = other.collections.use(
                    collection.project_id,
                    collection.name,
                    lambda c, at=count: other.searcher.search_all(c, queries[at : at + 4]),  # type: ignore[misc]
                )
            except CollectionNotFoundError:
                return count
            assert all(len(result.matches) == 10 for result in results)
        raise AssertionError("the collection was never dropped")

    def drop() -> int:
        others[0].rows("SELECT pg_sleep(0.2)")
        store.collections.drop(collection.project_id, collection.name)
        return 1

    outcomes = in_threads(drop, *[lambda other=other: search_on(other) for other in others])  # type: ignore[misc]
    for other in others:
        other.close()
    assert raised(outcomes) == []
