"""What a search may ask for beside its matches: pages, groups, a least score; several at once; what has expired."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.vectors import (
    Catalogue,
    Store,
    as_numbers,
    clustered,
    nearest,
    numbers,
    recall,
    vector,
)
from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.model import Collection, Metric, Plan, Query, Vector

T = TypeVar("T")

PLANS = [
    ("small", None, Plan.EXACT),
    ("large", None, Plan.HNSW),
    ("large", {"half": True}, Plan.ADAPTIVE),
    ("large", {"hundredth": 7}, Plan.ADAPTIVE),
    ("medium", None, Plan.EXACT),
]


@pytest.fixture(scope="module")
def divided_shop(divided_catalogue: Catalogue) -> Iterator[Store]:
    store = Store(divided_catalogue.dsn)
    yield store
    store.close()


# --- pages ---


@pytest.mark.parametrize(("namespace", "filter", "plan"), PLANS, ids=str)
def test_pages_are_the_parts_of_one_long_list(
    catalogue: Catalogue, shop: Store, namespace: str, filter: dict[str, Any] | None, plan: Plan
) -> None:
    for query in catalogue.queries(5, namespace=namespace, filter=filter, top_k=7):
        pages = [replace(query, offset=offset) for offset in range(0, 28, 7)]
        results = shop.searcher.search_all(catalogue.collection, pages)
        assert {result.plan for result in results} == {plan}
        found = [match.id for result in results for match in result.matches]
        assert len(found) == 28
        assert recall(found, catalogue.truth(replace(query, top_k=28))) >= 0.95


def test_pages_of_equally_good_matches_neither_repeat_nor_leave_out_any(store: Store) -> None:
    collection = store.create(dimension=2)
    ids = {f"v{i}" for i in range(40)}
    for id in sorted(ids, key=lambda id: hash(id) % 7):
        store.records.upsert(collection, [vector(id, 1.0, 1.0, metadata={"k": 1})])
    for filter in (None, {"k": 1}):
        asked = Query(numbers=numbers(1.0, 0.0), top_k=9, filter=filter)
        pages = [store.ids(collection, replace(asked, offset=offset)) for offset in range(0, 45, 9)]
        assert [len(page) for page in pages] == [9, 9, 9, 9, 4]
        assert {id for page in pages for id in page} == ids


def test_behind_the_last_match_a_page_is_empty(catalogue: Catalogue, shop: Store) -> None:
    count = len(catalogue.positions("small"))
    [query] = catalogue.queries(1, namespace="small", top_k=10)
    assert len(shop.ids(catalogue.collection, replace(query, offset=count - 3))) == 3
    assert shop.ids(catalogue.collection, replace(query, offset=count)) == []


# --- a least score ---


@pytest.mark.parametrize(("namespace", "filter", "plan"), PLANS, ids=str)
def test_what_scores_less_than_asked_for_is_left_out(
    catalogue: Catalogue, shop: Store, namespace: str, filter: dict[str, Any] | None, plan: Plan
) -> None:
    for query in catalogue.queries(3, namespace=namespace, filter=filter, top_k=20):
        found = shop.searcher.search(catalogue.collection, query)
        assert found.plan is plan
        for least in (found.matches[0].score, found.matches[9].score, -1.0, 1.5):
            cut = shop.search(catalogue.collection, replace(query, min_score=least))
            assert cut == [match for match in found.matches if match.score >= least]


# --- groups ---


def best_of_groups(
    metric: Metric, rows: Any, query: Sequence[float], among: Sequence[int], group_of: Any, top_k: int
) -> list[int]:
    """The positions of the best of each group, best first; those without a group stand for themselves."""
    seen, found = set(), []
    for position in nearest(metric, rows, query, among, len(among)):
        group = group_of(position)
        if group is None or group not in seen:
            seen.add(group)
            found.append(position)
    return found[:top_k]


@pytest.mark.parametrize(("namespace", "filter", "plan"), PLANS, ids=str)
@pytest.mark.parametrize("field", ["cluster", "hundredth"])
def test_of_each_group_only_the_best_match_counts_and_there_are_as_many_as_wanted(
    catalogue: Catalogue, shop: Store, namespace: str, filter: dict[str, Any] | None, plan: Plan, field: str
) -> None:
    among = catalogue.positions(namespace, filter)
    groups = {catalogue.metadata(position)[field] for position in among}
    found = []
    for query in catalogue.queries(5, namespace=namespace, filter=filter, group_by=field, top_k=30):
        result = shop.searcher.search(catalogue.collection, query)
        assert result.plan in (plan, Plan.EXACT)
        assert len(result.matches) == min(30, len(groups))
        assert len({(match.metadata or {})[field] for match in result.matches}) == len(result.matches)
        truth = best_of_groups(
            catalogue.collection.metric,
            catalogue.rows,
            query.numbers or (),
            among,
            lambda position: catalogue.metadata(position)[field],
            30,
        )
        found.append(recall([match.id for match in result.matches], [f"v{position}" for position in truth]))
    assert sum(found) / len(found) >= 0.95


def test_fewer_groups_than_wanted_are_all_found(catalogue: Catalogue, shop: Store) -> None:
    """All matches near the query are of one group: the index delivers more, and then the search is exact."""
    [query] = catalogue.queries(1, namespace="large", group_by="half", top_k=10)
    result = shop.searcher.search(catalogue.collection, query)
    assert sorted((match.metadata or {})["half"] for match in result.matches) == [False, True]
    assert result.plan is Plan.EXACT


GROUPS = st.sampled_from([None, 1, 1.0, "1", True, [1], {"a": 1}, "x", "y", "NULL"])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(GROUPS, min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 8), st.booleans())
def test_groups_are_those_of_an_oracle(store: Store, groups: list[Any], top_k: int, offset: int, missing: bool) -> None:
    collection = store.create(f"c{store.rows('SELECT count(*) FROM vecmeter.collections')[0][0]}", dimension=4)
    rows = clustered(len(groups), 4, seed=len(groups))
    metadata = [{} if missing and group is None else {"g": group} for group in groups]
    batch = [Vector(id=f"v{i}", numbers=as_numbers(row), metadata=metadata[i]) for i, row in enumerate(rows)]
    store.records.upsert(collection, batch)

    def group_of(position: int) -> Any:
        # 1 and 1.0 are one number; true is none.
        group = metadata[position].get("g", ...)
        return None if group is ... else (type(group) is bool, repr(1 if group == 1 and group is not True else group))

    truth = best_of_groups(Metric.COSINE, rows, rows[0], range(len(rows)), group_of, top_k + offset)[offset:]
    query = Query(numbers=as_numbers(rows[0]), group_by="g", top_k=top_k, offset=offset)
    assert store.ids(collection, query) == [f"v{position}" for position in truth]


# --- several at once ---


def round_trips(store: Store, work: Callable[[], T]) -> tuple[T, int]:
    """What ``work`` returns, and how often it waited for the database."""
    with tempfile.TemporaryFile("w+") as trace:
        store.database.run(lambda connection: connection.pgconn.trace(trace.fileno()))
        result = work()
        store.database.run(lambda connection: connection.pgconn.untrace())
        trace.seek(0)
        return result, len(re.findall(r"\tF\t\d+\t(Sync|Query)\b", trace.read()))


def test_a_batch_finds_what_its_searches_find_alone_in_one_round_trip(catalogue: Catalogue, shop: Store) -> None:
    queries = [
        replace(query, top_k=top_k, filter=filter, namespace=namespace)
        for namespace, filter, _ in PLANS
        for query, top_k in zip(catalogue.queries(3), (1, 10, 100), strict=True)
    ] + [Query(id=f"v{catalogue.positions('large')[5]}", namespace="large", top_k=300)]
    alone = [shop.searcher.search(catalogue.collection, query) for query in queries]
    together, trips = round_trips(shop, lambda: shop.searcher.search_all(catalogue.collection, queries))
    assert together == alone
    assert trips == 1
    assert shop.database.run(lambda c: c.execute("SHOW hnsw.ef_search").fetchone()) == ("100",)


def test_the_sizes_of_all_namespaces_of_a_batch_are_seen_in_one_round_trip(catalogue: Catalogue, shop: Store) -> None:
    queries = [replace(catalogue.queries(1)[0], namespace=one) for one in ("large", "medium", "small", "rest", "none")]
    assert round_trips(shop, lambda: shop.searcher.search_all(catalogue.collection, queries))[1] == 2
    assert round_trips(shop, lambda: shop.searcher.search_all(catalogue.collection, queries))[1] == 1


def test_a_batch_with_a_vector_that_is_not_there_names_it(catalogue: Catalogue, shop: Store) -> None:
    [there] = catalogue.queries(1, namespace="large")
    with pytest.raises(VectorNotFoundError, match="'gone'"):
        shop.searcher.search_all(catalogue.collection, [there, Query(id="gone", namespace="large"), there])


# --- what has expired ---


@pytest.mark.parametrize(
    ("namespace", "filter"),
    [("small", None), ("large", None), ("large", {"half": True}), ("large", {"hundredth": 7}), ("medium", None)],
    ids=str,
)
@pytest.mark.parametrize("which", ["shared", "own"])
def test_what_has_expired_is_never_found_and_leaves_its_place_to_others(
    divided_catalogue: Catalogue, divided_shop: Store, which: str, namespace: str, filter: dict[str, Any] | None
) -> None:
    catalogue, store = divided_catalogue, divided_shop
    collection = shared(catalogue.collection) if which == "shared" else catalogue.collection
    number = collection.collection_id
    for query in catalogue.queries(3, namespace=namespace, filter=filter, top_k=8):
        first = store.ids(collection, query)
        gone = [int(id[1:]) for id in first[:4]]
        with expired(store, number, [f"v{position}" for position in gone]):
            found = store.ids(collection, replace(query, counted=True))
            among = [position for position in catalogue.positions(namespace, filter) if position not in gone]
            truth = nearest(collection.metric, catalogue.rows, query.numbers or (), among, 8)
            assert not set(found) & {f"v{position}" for position in gone}
            assert len(found) == min(8, len(among))
            assert recall(found, [f"v{position}" for position in truth]) >= 0.85
            with pytest.raises(VectorNotFoundError):
                store.ids(collection, Query(id=f"v{gone[0]}", namespace=namespace))
        assert store.ids(collection, query) == first


class expired:
    """Vectors that have expired, for the time of a block."""

    def __init__(self, store: Store, number: int, ids: Sequence[str]) -> None:
        self._store, self._number, self._ids = store, number, list(ids)

    def __enter__(self) -> None:
        self._set("now() - interval '1 second'")

    def __exit__(self, *_: object) -> None:
        self._set("NULL")

    def _set(self, moment: str) -> None:
        self._store.rows(
            f"WITH r AS (UPDATE vecmeter.records_{self._number} SET expires_at = {moment} WHERE id = ANY(%s) "
            f"RETURNING record_id) UPDATE vecmeter.vectors_{self._number} v SET expires_at = {moment} "
            "FROM r WHERE r.record_id = v.record_id",
            [self._ids],
        )


def shared(collection: Collection) -> Collection:
    """The collection as one who knows of no index of a namespace sees it."""
    return replace(collection, hnsw=tuple(one for one in collection.hnsw if one.namespace is None))
