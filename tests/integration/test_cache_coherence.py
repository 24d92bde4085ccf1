"""Two processes with caches of their own on one database: whatever is written through either, however it is looked
after meanwhile, each search through either finds what a search without a cache finds.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.vectors import Store
from vecmeter.errors import NotFoundError, VectorExistsError, VersionConflictError
from vecmeter.vectors import revisions
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import KEPT, Collection, Fusion, IndexDefinition, Metric, Mode, Patch, Query, Vector
from vecmeter.vectors.result_cache import ResultCache, key_of
from vecmeter.vectors.tables import table_names

LATER = datetime(2100, 1, 1, tzinfo=UTC)
PASSED = datetime(2000, 1, 1, tzinfo=UTC)
NAME = "things"

ids = st.sampled_from("abc")
numbers = st.sampled_from([array("f", [1, 2, 3]), array("f", [3, 2, 1]), array("f", [1, 0, 0])])
metadata = st.fixed_dictionaries({}, optional={"k": st.integers(0, 1)})
documents = st.sampled_from([None, "a cat sat", "cats sat, a dog ran"])
namespaces = st.sampled_from(["", "other"])
vectors = st.builds(
    Vector,
    id=ids,
    namespace=namespaces,
    numbers=numbers,
    document=documents,
    metadata=metadata,
    expires_at=st.sampled_from([None, LATER, LATER, PASSED]),
    if_version=st.sampled_from([None, None, 1]),
)
patches = st.builds(
    Patch,
    set=metadata,
    numbers=st.none() | numbers,
    document=st.just(KEPT) | documents,
    expires_at=st.sampled_from([KEPT, KEPT, LATER, PASSED]),
)
filters = st.fixed_dictionaries({"k": st.integers(0, 1)})
queries = st.builds(
    Query,
    mode=st.sampled_from(Mode),
    numbers=numbers,
    text=st.just("cat"),
    fusion=st.sampled_from(Fusion),
    top_k=st.integers(1, 3),
    offset=st.integers(0, 1),
    namespace=namespaces,
    filter=st.none() | filters,
    group_by=st.sampled_from([None, None, "k"]),
    include_document=st.booleans(),
    counted=st.booleans(),
    stamped=st.just(True),
)
# Few different searches, so that most of what is written falls between two of the same.
searched = st.lists(queries, min_size=1, max_size=3)
steps = st.one_of(
    st.tuples(st.just("upsert"), st.lists(vectors, min_size=1, max_size=3)),
    st.tuples(st.just("add"), vectors),
    st.tuples(st.just("patch"), namespaces, ids, patches),
    st.tuples(st.just("update"), namespaces, filters, st.builds(Patch, set=metadata)),
    st.tuples(st.just("delete"), namespaces, st.lists(ids, max_size=2)),
    st.tuples(st.just("delete_matching"), namespaces, filters),
    st.tuples(st.just("delete_namespace"), namespaces),
    st.tuples(st.just("expire")),
    st.tuples(st.just("sweep")),
    st.tuples(st.sampled_from(["nothing", "vacuum", "fold", "clear", "language", "again"])),
)


@dataclasses.dataclass
class Process:
    store: Store
    cache: ResultCache

    def search(self, query: Query) -> tuple[Any, bool]:
        """As the search function does it, definitions remembered included."""

        def work(collection: Collection) -> tuple[Any, bool]:
            key = key_of(collection, query)
            [known] = self.cache.find(collection, [key])
            found = known or self.store.searcher.search(collection, query)
            if known is None:
                self.cache.keep(collection, key, found)
            return (found.matches, found.candidates, found.candidates_before), known is not None

        return self.store.collections.use("acme", NAME, work)


def take(store: Store, step: tuple[Any, ...]) -> None:
    """One write, or one piece of looking after."""
    kind, arguments = step[0], step[1:]
    use: Callable[[Callable[[Collection], Any]], Any] = lambda work: store.collections.use("acme", NAME, work)  # noqa: E731
    try:
        match kind:
            case "upsert":
                use(lambda c: store.records.upsert(c, arguments[0]))
            case "add":
                use(lambda c: store.records.add(c, arguments[0]))
            case "patch":
                use(lambda c: store.records.patch(c, *arguments))
            case "update":
                use(lambda c: store.records.update_matching(c, *arguments))
            case "delete":
                use(lambda c: store.records.delete_ids(c, *arguments, dry_run=False))
            case "delete_matching":
                use(lambda c: store.records.delete_matching(c, *arguments, dry_run=False))
            case "delete_namespace":
                use(lambda c: store.records.delete_namespace(c, *arguments))
            case _:
                look_after(store, kind)
    except (NotFoundError, VectorExistsError, VersionConflictError):
        pass


def look_after(store: Store, kind: str) -> None:
    collection = store.collections.use("acme", NAME, lambda found: found, fresh=True)
    match kind:
        case "sweep":
            store.maintenance.purge_expired([collection])
        case "vacuum":
            store.maintenance.vacuum_analyze([collection])
        case "fold":
            store.maintenance.forget(datetime.now(UTC))
        case "clear":
            store.database.run(lambda connection: revisions.change_all(connection, [collection]))
        case "language":
            language = None if collection.text_search else "english"
            store.collections.change("acme", NAME, lambda before: dataclasses.replace(before, text_search=language))
        case "again":
            store.collections.drop("acme", NAME)
            create(store)


def let_a_century_pass(store: Store, caches: Iterable[ResultCache]) -> None:
    """As if it were a hundred years later: every moment that is kept, in the tables and in stamps, lies back as much.

    Nobody writes meanwhile, so no revision says so.
    """
    collection = store.collections.use("acme", NAME, lambda found: found, fresh=True)
    for table in table_names(collection.collection_id):
        store.rows(f"UPDATE vecmeter.{table} SET expires_at = expires_at - interval '100 years'")
    for cache in caches:
        for key, entry in list(cache._entries.items()):
            if entry.stamp.next_expiry is not None:
                earlier = entry.stamp.next_expiry - timedelta(days=36_524)
                stamp = dataclasses.replace(entry.stamp, next_expiry=earlier)
                cache._entries[key] = dataclasses.replace(entry, stamp=stamp)


def create(store: Store) -> None:
    store.collections.create(
        "acme",
        NAME,
        dimension=3,
        metric=Metric.COSINE,
        index=IndexDefinition(),
        embedder=None,
        options=Options(text_search="english"),
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(searched, st.lists(st.tuples(st.integers(0, 1), steps), max_size=12))
def test_every_search_through_either_process_finds_what_one_without_a_cache_finds(
    open_store: Callable[..., Store], asked: list[Query], written: list[tuple[int, tuple[Any, ...]]]
) -> None:
    oracle = open_store()
    processes = [Process(store, ResultCache(store.database, 2**20, 3600.0)) for store in (open_store(), open_store())]
    create(oracle)
    for writer, step in written:
        if step == ("expire",):
            let_a_century_pass(oracle, [process.cache for process in processes])
        take(processes[writer].store, step)
        for query in asked:
            current = oracle.collections.use("acme", NAME, lambda found: found, fresh=True)
            if query.mode is not Mode.VECTOR and current.text_search is None:
                continue
            found = oracle.searcher.search(current, query)
            expected = (found.matches, found.candidates, found.candidates_before)
            for process in processes:
                assert process.search(query)[0] == expected, step
                assert process.search(query) == (expected, True), "and is remembered"
    for store in (oracle, *(process.store for process in processes)):
        store.close()
    oracle.collections.drop("acme", NAME)
    oracle.close()
