"""The plan a search takes is ours, not the planner's, and where a plan falls short another one steps in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.vectors import (
    EXACT_THRESHOLD,
    Catalogue,
    PlanLog,
    Store,
    as_numbers,
    clustered,
    executed_scans,
    hnsw_index,
    nearest,
    recall,
    write_all,
)
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection, Plan, Query, SearchResult, Vector
from vecmeter.vectors.plans import NAMESPACE_SECONDS
from vecmeter.vectors.tables import hnsw_name, table_names

HALF, TENTH, HUNDREDTH, NONE = {"half": True}, {"tenth": 3}, {"hundredth": 7}, {"half": "no"}


class Names:
    """The relations of a collection, as plans name them."""

    def __init__(self, store: Store, collection: Collection) -> None:
        records, vectors = table_names(collection.collection_id)
        self.hnsw = hnsw_index(store, collection)
        self.by_namespace = f"{vectors}_namespace"
        self.by_metadata = f"{records}_metadata"
        self.all_vectors = f"seq:{vectors}"


def searched(
    catalogue: Catalogue, store: Store, log: PlanLog, *, before: int = 0, **options: Any
) -> tuple[SearchResult, set[str]]:
    """A search's result and the scans its statement executed, after the same search was made ``before`` times."""
    queries = catalogue.queries(before + 1, **options)
    for query in queries[:-1]:
        store.searcher.search(catalogue.collection, query)
    result, plans = log.of(lambda: store.searcher.search(catalogue.collection, queries[-1]))
    return result, executed_scans(plans[-1])


@pytest.fixture
def names(catalogue: Catalogue, shop: Store) -> Names:
    return Names(shop, catalogue.collection)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_large_namespace_is_searched_through_the_index(
    catalogue: Catalogue, shop: Store, names: Names, mode: str
) -> None:
    log = PlanLog(shop.database)
    shop.database.run(lambda connection: connection.execute(f"SET plan_cache_mode = {mode}".encode()))
    for top_k in (1, 10, 100):
        result, scans = searched(catalogue, shop, log, before=6, namespace="large", top_k=top_k)
        assert result.plan is Plan.HNSW
        assert names.hnsw in scans
        assert not scans & {names.by_namespace, names.all_vectors}


@pytest.mark.parametrize("prepare_threshold", [0, 5])
@pytest.mark.parametrize("filter", [None, HALF, TENTH, HUNDREDTH, NONE], ids=str)
@pytest.mark.parametrize("namespace", ["large", "medium"])
def test_a_namespace_with_an_index_of_its_own_is_searched_through_no_other(
    divided_catalogue: Catalogue, namespace: str, filter: dict[str, Any] | None, prepare_threshold: int
) -> None:
    store = Store(divided_catalogue.dsn, prepare_threshold=prepare_threshold)
    collection = divided_catalogue.collection
    own = collection.hnsw_of(namespace)
    assert own is not None
    names = {one.index_id: hnsw_name(collection.collection_id, one.index_id) for one in collection.hnsw}
    log = PlanLog(store.database)
    for top_k in (1, 10, 100):
        result, scans = searched(
            divided_catalogue, store, log, before=6, namespace=namespace, filter=filter, top_k=top_k
        )
        assert result.plan is (Plan.PARTIAL if filter is None else Plan.ADAPTIVE)
        asked = scans & set(names.values())
        assert asked == {names[own.index_id]} or (asked == set() and filter in (HUNDREDTH, NONE))
    store.close()


def test_a_small_part_of_the_index_is_compared_as_a_whole_where_that_is_cheaper_than_looking_for_it(
    catalogue: Catalogue, shop: Store, names: Names
) -> None:
    log = PlanLog(shop.database)
    result, scans = searched(catalogue, shop, log, namespace="medium", top_k=100)
    assert result.plan is Plan.EXACT
    assert names.hnsw not in scans


def test_a_small_part_of_the_index_that_is_large_itself_is_searched_as_the_vectors_near_the_query_say(
    catalogue: Catalogue, open_on_catalogue: Callable[..., Store], names: Names
) -> None:
    store = open_on_catalogue(exact_threshold=100)
    log = PlanLog(store.database)
    ways = set()
    for query in catalogue.queries(30, namespace="medium", top_k=5):
        result, plans = log.of(lambda q=query: store.searcher.search(catalogue.collection, q))  # type: ignore[misc]
        assert result.plan is Plan.ADAPTIVE
        assert recall([match.id for match in result.matches], catalogue.truth(query)) >= 0.8
        ways.add((result.candidates is not None, scans_of(plans[-1], names.hnsw)))
    assert (False, 2) in ways, "no search went on through the index"
    assert ways <= {(False, 1), (False, 2), (True, 1)}


@pytest.mark.parametrize("which", ["catalogue", "l2_catalogue"])
def test_a_small_namespace_is_compared_as_a_whole(request: pytest.FixtureRequest, which: str) -> None:
    found: Catalogue = request.getfixturevalue(which)
    store = Store(found.dsn)
    log = PlanLog(store.database)
    for filter in (None, HALF):
        result, scans = searched(found, store, log, namespace="small", filter=filter)
        assert result.plan is Plan.EXACT
        assert Names(store, found.collection).hnsw not in scans
    result, scans = searched(found, store, log, namespace="large", exact=True)
    assert result.plan is Plan.EXACT
    assert Names(store, found.collection).hnsw not in scans
    store.close()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_filter_that_lets_much_through_is_searched_through_the_index_without_counting(
    catalogue: Catalogue, shop: Store, names: Names, mode: str
) -> None:
    log = PlanLog(shop.database)
    shop.database.run(lambda connection: connection.execute(f"SET plan_cache_mode = {mode}".encode()))
    result, scans = searched(catalogue, shop, log, before=6, namespace="large", filter=HALF)
    assert (result.plan, result.candidates) == (Plan.ADAPTIVE, None)
    assert names.hnsw in scans
    assert not scans & {names.by_metadata, names.by_namespace, names.all_vectors}


def test_a_filter_that_lets_little_through_is_counted_and_compared_as_a_whole(
    catalogue: Catalogue, shop: Store, names: Names
) -> None:
    log = PlanLog(shop.database)
    for filter in (HUNDREDTH, NONE):
        [query] = catalogue.queries(1, namespace="large", filter=filter)
        result, plans = log.of(lambda q=query: shop.searcher.search(catalogue.collection, q))  # type: ignore[misc]
        assert (result.plan, result.candidates) == (Plan.ADAPTIVE, len(catalogue.positions("large", filter)))
        assert scans_of(plans[-1], names.hnsw) <= (filter == HUNDREDTH), "the index was asked for more than a sample"


def test_a_filter_that_lets_more_through_than_the_threshold_is_counted_and_searched_through_the_index(
    catalogue: Catalogue, open_on_catalogue: Callable[..., Store], names: Names
) -> None:
    store = open_on_catalogue(exact_threshold=20)
    log = PlanLog(store.database)
    searcher = store.searcher
    for query in catalogue.queries(20, namespace="large", filter=TENTH):
        result, plans = log.of(lambda q=query: searcher.search(catalogue.collection, q))  # type: ignore[misc]
        assert (result.plan, result.candidates) == (Plan.ADAPTIVE, None)
        assert scans_of(plans[-1], names.hnsw) == 2, "the sample, and the search itself"


@pytest.mark.parametrize(("first", "then", "used"), [(HALF, HUNDREDTH, True), (HUNDREDTH, HALF, False)])
def test_a_prepared_statement_is_planned_for_the_filter_at_hand(
    catalogue: Catalogue, shop: Store, names: Names, first: dict[str, Any], then: dict[str, Any], used: bool
) -> None:
    log = PlanLog(shop.database)
    searched(catalogue, shop, log, before=12, namespace="large", filter=first)
    _, scans = searched(catalogue, shop, log, namespace="large", filter=then)
    assert (names.by_metadata in scans) is used
    [(generic, custom)] = prepared(shop)
    assert generic == 0
    assert custom > 5, "the statement was not prepared"
    mode = shop.database.run(lambda connection: connection.execute("SHOW plan_cache_mode").fetchone())
    assert mode == ("force_custom_plan",), "PostgreSQL may settle on a plan for any values after five executions"


def scans_of(plan: str, index: str) -> int:
    """How often a plan asked an index."""
    return sum(f"using {index} " in line and "never executed" not in line for line in plan.splitlines())


def prepared(store: Store) -> list[tuple[int, int]]:
    """How often each prepared search ran by a plan for any values, and by one for its own."""
    statement = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%%hits%%'"
    return store.database.run(lambda connection: connection.execute(statement.replace("%%", "%").encode()).fetchall())


def test_nothing_is_prepared_where_the_threshold_is_zero(
    catalogue: Catalogue, open_on_catalogue: Callable[..., Store]
) -> None:
    store = open_on_catalogue(prepare_threshold=0)
    for query in catalogue.queries(12, namespace="large"):
        store.search(catalogue.collection, query)
    assert prepared(store) == []


def test_a_search_for_many_matches_takes_as_many_candidates_and_the_setting_ends_with_it(
    catalogue: Catalogue, shop: Store
) -> None:
    def set_scan(connection: Connection) -> None:
        connection.execute("LOAD 'vector'")
        connection.execute("SET hnsw.iterative_scan = off")  # one round of ef_search candidates, and no more

    shop.database.run(set_scan)
    [query] = catalogue.queries(1, namespace="large", top_k=300)
    result = shop.searcher.search(catalogue.collection, query)
    assert (result.plan, len(result.matches)) == (Plan.HNSW, 300)
    assert shop.database.run(lambda c: c.execute("SHOW hnsw.ef_search").fetchone()) == ("100",)
    # What comes after it on the connection has the role's setting again: 100 candidates do not yield 300 matches.
    assert len(raw_scan(catalogue, shop, query, 300)) <= 100


def raw_scan(catalogue: Catalogue, store: Store, query: Query, count: int) -> list[Any]:
    _, vectors = table_names(catalogue.collection.collection_id)
    text = (
        f"SELECT record_id FROM vecmeter.{vectors} ORDER BY "
        f"(l2_normalize(embedding)::halfvec(64)) <=> (l2_normalize(%s::vector(64))::halfvec(64)) LIMIT {count}"
    )
    return store.database.run(lambda c: c.execute(text.encode(), [str(list(query.numbers or ()))]).fetchall())


@pytest.mark.parametrize("top_k", [10, 300])
@pytest.mark.parametrize("filter", [None, HALF, HUNDREDTH])
@pytest.mark.parametrize("exact", [False, True])
def test_a_search_is_one_round_trip(
    catalogue: Catalogue, shop: Store, top_k: int, filter: dict[str, Any] | None, exact: bool
) -> None:
    for query in catalogue.queries(8, namespace="large", top_k=top_k, filter=filter, exact=exact):
        with tempfile.TemporaryFile("w+") as trace:
            shop.database.run(lambda connection, file=trace: connection.pgconn.trace(file.fileno()))
            shop.search(catalogue.collection, query)
            shop.database.run(lambda connection: connection.pgconn.untrace())
            trace.seek(0)
            sent = re.findall(r"\tF\t\d+\t(Sync|Query)\b", trace.read())
    # The last of them: by then the namespace is known to be large, and the statement prepared.
    assert sent == ["Sync"]


def test_where_the_index_scan_ends_early_the_search_is_exact(catalogue: Catalogue, shop: Store) -> None:
    def shorten_scans(connection: Connection) -> None:
        connection.execute("LOAD 'vector'")
        connection.execute("SET hnsw.max_scan_tuples = 1")

    shop.database.run(shorten_scans)
    for filter, top_k in ((None, 300), (HALF, 250)):
        [query] = catalogue.queries(1, namespace="large", top_k=top_k, ef_search=100, filter=filter)
        result = shop.searcher.search(catalogue.collection, query)
        assert result.plan is Plan.EXACT
        assert [match.id for match in result.matches] == catalogue.truth(query)


def test_more_matches_than_the_threshold_are_searched_exactly(catalogue: Catalogue, shop: Store) -> None:
    [query] = catalogue.queries(1, namespace="large", top_k=EXACT_THRESHOLD + 1)
    result = shop.searcher.search(catalogue.collection, query)
    assert result.plan is Plan.EXACT
    assert [match.id for match in result.matches] == catalogue.truth(query)


@pytest.fixture
def open_on_catalogue(catalogue: Catalogue, request: pytest.FixtureRequest) -> Callable[..., Store]:
    def open_one(**options: Any) -> Store:
        store = Store(catalogue.dsn, **options)
        request.addfinalizer(store.close)
        return store

    return open_one


# --- what an instance believes of a collection may be late, its answers are not wrong ---


@pytest.fixture
def growing(store: Store) -> tuple[Store, Collection, list[Vector]]:
    """A collection with an index and 1,000 vectors in ``other``, and vectors to put beside them."""
    rows = clustered(2000, 16)
    vectors = [Vector(id=f"v{i}", numbers=as_numbers(row), namespace="mine") for i, row in enumerate(rows)]
    collection = store.create(dimension=16)
    write_all(store, collection, [Vector(id=v.id, numbers=v.numbers, namespace="other") for v in vectors[1000:]])
    return store, store.build(collection), vectors


def assert_finds(store: Store, collection: Collection, vectors: list[Vector], plan: Plan) -> None:
    rows = clustered(2000, 16)
    positions = [int(v.id[1:]) for v in vectors]
    found = []
    for wanted in rows[:20]:
        query = Query(numbers=as_numbers(wanted), namespace="mine")
        result = store.searcher.search(collection, query)
        assert len(result.matches) == min(10, len(vectors))
        assert result.plan is plan
        truth = nearest(collection.metric, rows, wanted, positions, 10)
        found.append(recall([match.id for match in result.matches], [f"v{position}" for position in truth]))
    assert sum(found) / len(found) >= 0.95


def test_a_namespace_that_grew_is_searched_exactly_until_the_belief_expires(
    growing: tuple[Store, Collection, list[Vector]],
) -> None:
    store, collection, vectors = growing
    assert_finds(store, collection, [], Plan.EXACT)
    write_all(store, collection, vectors)
    assert_finds(store, collection, vectors, Plan.EXACT)
    store.clock[0] += NAMESPACE_SECONDS
    assert_finds(store, collection, vectors, Plan.HNSW)


def test_a_namespace_that_shrank_is_still_searched_completely(
    growing: tuple[Store, Collection, list[Vector]],
) -> None:
    store, collection, vectors = growing
    write_all(store, collection, vectors)
    assert_finds(store, collection, vectors, Plan.HNSW)
    for left in (300, 7, 0):
        store.records.delete_ids(collection, "mine", [v.id for v in vectors[left:]], dry_run=False)
        plan = Plan.HNSW if left > 10 else Plan.EXACT
        for wanted in vectors[:5]:
            result = store.searcher.search(collection, Query(numbers=wanted.numbers, namespace="mine"))
            assert len(result.matches) == min(10, left)
            assert result.plan in (plan, Plan.EXACT)
    store.clock[0] += NAMESPACE_SECONDS
    assert_finds(store, collection, [], Plan.EXACT)


class Forgetful(dict[Any, Any]):
    """As if another thread had everything forgotten at once."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def test_a_size_that_another_thread_lets_be_forgotten_is_not_missed(
    growing: tuple[Store, Collection, list[Vector]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, collection, vectors = growing
    monkeypatch.setattr(store.searcher.sizes, "_seen", Forgetful())
    write_all(store, collection, vectors)
    assert_finds(store, collection, vectors, Plan.HNSW)


def test_an_index_that_is_gone_is_not_missed(growing: tuple[Store, Collection, list[Vector]]) -> None:
    store, collection, vectors = growing
    write_all(store, collection, vectors)
    store.rows(f"DROP INDEX vecmeter.{hnsw_index(store, collection)}")
    assert collection.index_ready
    assert_finds(store, collection, vectors, Plan.HNSW)


def test_a_search_by_filter_without_an_index_is_exact_and_counts(store: Store) -> None:
    collection = store.create(dimension=16)
    rows = clustered(300, 16)
    batch = [Vector(id=f"v{i}", numbers=as_numbers(row), metadata={"even": i % 2 == 0}) for i, row in enumerate(rows)]
    write_all(store, collection, batch)
    result = store.searcher.search(collection, Query(numbers=as_numbers(rows[4]), filter={"even": True}, top_k=20))
    assert (result.plan, result.candidates) == (Plan.EXACT, 150)
    truth = nearest(collection.metric, rows, rows[4], range(0, 300, 2), 20)
    assert [match.id for match in result.matches] == [f"v{position}" for position in truth]
