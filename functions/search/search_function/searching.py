"""The searches of a request: from this process's memory, where PostgreSQL confirms that they would find the same again;
else from the collection. While PostgreSQL does not answer, from memory as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from vecmeter.errors import (
    CircuitOpenError,
    DatabaseBusyError,
    DatabaseUnavailableError,
    StatementTimeoutError,
    UnavailableError,
    Violation,
)
from vecmeter.http.checks import filter_violations, raise_if_any
from vecmeter.http.dependencies import Call
from vecmeter.http.embedding import embed_queries
from vecmeter.telemetry import Metric
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection, Mode, Query, SearchResult
from vecmeter.vectors.result_cache import CacheUse, key_of

Faults = Callable[[Collection, Query, str], list[Violation]]
"""What of a search, at its path of the request, a collection does not take."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search of a collection found, and where; ``age`` in seconds of what is stale."""

    collection: Collection
    result: SearchResult
    use: CacheUse
    age: float = 0.0


def kept_as(found: Sequence[Found]) -> str | None:
    """What the usage record says of the searches of a request."""
    use = _use_of(found)
    return None if use is CacheUse.OFF else use.value


def labelled(response: Response, found: Sequence[Found]) -> Response:
    """The answer with headers that say where it comes from."""
    use = _use_of(found)
    response.headers["X-Cache"] = use.value
    if use is CacheUse.STALE:
        response.headers["Age"] = str(int(max(each.age for each in found)))
    return response


def _use_of(found: Sequence[Found]) -> CacheUse:
    """Of all searches of a request: a hit only if each is one; off where nothing was found out."""
    uses = {each.use for each in found} or {CacheUse.OFF}
    return uses.pop() if len(uses) == 1 else CacheUse.MISS


def faults_of(collection: Collection, query: Query, path: str) -> list[Violation]:
    """What of a search of our own API a collection does not take."""
    faults = []
    if query.numbers is not None and (fault := check_numbers(collection, query.numbers, f"{path}vector")):
        faults.append(fault)
    if collection.filterable:
        faults += [
            Violation(path + fault.path, fault.message)
            for fault in filter_violations(query.filter, collection.filterable)
        ]
    if query.mode is not Mode.VECTOR and collection.text_search is None:
        message = f"{query.mode} needs the collection's words: PATCH it with text_search, e.g. 'english'"
        faults.append(Violation(f"{path}mode", message))
    elif query.mode is not Mode.VECTOR and not collection.texts_ready:
        message = f"{query.mode} needs the collection's words, which are being indexed; try again in some minutes"
        faults.append(Violation(f"{path}mode", message))
    return faults


def search_all(
    project: str,
    name: str,
    queries: Sequence[Query],
    paths: Sequence[str],
    call: Call,
    faults: Faults = faults_of,
) -> list[Found]:
    """What each search of a collection finds; each is at its path of the request.

    Raises:
        InvalidRequestError: naming what the collection does not take.
        VectorNotFoundError: a search is by the id of a vector that is not there.
    """
    if call.runtime.result_cache.is_on:
        queries = [replace(query, stamped=True) for query in queries]
    try:
        found = call.use(project, name, lambda collection: _search(collection, queries, paths, call, faults))
    except DatabaseBusyError:
        raise  # it is there, and may know better
    except (CircuitOpenError, DatabaseUnavailableError, StatementTimeoutError) as error:
        found = _unconfirmed(project, name, queries, call, error)
    if call.runtime.result_cache.is_on:
        _measure(found, call)
    call.metrics.annotate(
        plan=",".join(sorted({each.result.plan.value for each in found})),
        cache=_use_of(found).value,
        query_characters=sum(len(query.text or "") for query in queries),
    )
    return found


def _search(
    collection: Collection, queries: Sequence[Query], paths: Sequence[str], call: Call, faults: Faults
) -> list[Found]:
    raise_if_any(
        [fault for query, path in zip(queries, paths, strict=True) for fault in faults(collection, query, path)]
    )
    cache = call.runtime.result_cache
    if not cache.is_on:
        return [Found(collection, result, CacheUse.OFF) for result in _search_for(collection, queries, paths, call)]
    keys = [key_of(collection, query) for query in queries]
    known = _known(collection, keys, call)
    missing = [at for at, result in enumerate(known) if result is None]
    results = _search_for(collection, [queries[at] for at in missing], [paths[at] for at in missing], call)
    for at, result in zip(missing, results, strict=True):
        cache.keep(collection, keys[at], result)
    fresh = iter(results)
    return [
        Found(collection, result, CacheUse.HIT) if result is not None else Found(collection, next(fresh), CacheUse.MISS)
        for result in known
    ]


def _known(collection: Collection, keys: Sequence[bytes], call: Call) -> list[SearchResult | None]:
    """What is remembered and holds; PostgreSQL is asked where there is anything."""
    cache = call.runtime.result_cache
    if not cache.remembers(keys):
        return [None] * len(keys)
    with call.metrics.timed(Metric.SEARCH_TIME):
        return call.database(cache.find, collection, keys)


def _search_for(
    collection: Collection, queries: Sequence[Query], paths: Sequence[str], call: Call
) -> list[SearchResult]:
    if not queries:
        return []
    ready = _embedded(collection, queries, paths, call)
    with call.metrics.timed(Metric.SEARCH_TIME):
        return call.database(call.runtime.searcher.search_all, collection, ready)


def _embedded(collection: Collection, queries: Sequence[Query], paths: Sequence[str], call: Call) -> list[Query]:
    """The queries with vectors for those that are compared with vectors, and neither have one nor name one."""
    missing = [
        at for at, one in enumerate(queries) if one.mode is not Mode.TEXT and one.numbers is None and one.id is None
    ]
    ready = list(queries)
    if missing:
        texts = [queries[at].text or "" for at in missing]
        vectors = embed_queries(collection, texts, [f"{paths[at]}text" for at in missing], call)
        for at, vector in zip(missing, vectors, strict=True):
            ready[at] = replace(queries[at], numbers=vector)
    return ready


def _unconfirmed(project: str, name: str, queries: Sequence[Query], call: Call, error: UnavailableError) -> list[Found]:
    """What is remembered of all these searches, or the error: part of an answer would be none."""
    cache = call.runtime.result_cache
    collection = call.runtime.collections.remembered(project, name)
    if collection is None or not cache.is_on:
        raise error
    found = []
    for query in queries:
        stale = cache.unconfirmed(key_of(collection, query))
        if stale is None:
            raise error
        found.append(Found(collection, stale.result, CacheUse.STALE, stale.age))
    return found


def _measure(found: Sequence[Found], call: Call) -> None:
    uses, cache, embeddings = [each.use for each in found], call.runtime.result_cache, call.runtime.query_embeddings
    call.metrics.add(Metric.CACHE_HITS, uses.count(CacheUse.HIT))
    call.metrics.add(Metric.CACHE_MISSES, uses.count(CacheUse.MISS))
    call.metrics.add(Metric.STALE_ANSWERS, uses.count(CacheUse.STALE))
    call.metrics.add(Metric.CACHE_EVICTIONS, cache.take_evictions() + embeddings.take_evictions())
    call.metrics.add(Metric.CACHE_BYTES, cache.size + embeddings.size)
