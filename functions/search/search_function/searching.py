"""The searches of a request: from this process's memory, where PostgreSQL confirms that they would find the same again;
else from the collection. While PostgreSQL does not answer, from memory as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from search_function.schemas import SearchBody
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
from vecmeter.vectors.model import Collection, Fusion, Mode, Query, SearchResult
from vecmeter.vectors.result_cache import CacheUse, key_of


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and where; ``age`` in seconds of what is stale."""

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
    """Of all searches of a request: a hit only if each is one."""
    uses = {each.use for each in found}
    return uses.pop() if len(uses) == 1 else CacheUse.MISS


def search_all(project: str, name: str, bodies: Sequence[SearchBody], paths: Sequence[str], call: Call) -> list[Found]:
    """What each search of a collection finds; each is at its path of the request."""
    try:
        found = call.use(project, name, lambda collection: _search(collection, bodies, paths, call))
    except DatabaseBusyError:
        raise  # it is there, and may know better
    except (CircuitOpenError, DatabaseUnavailableError, StatementTimeoutError) as error:
        found = _unconfirmed(project, name, bodies, call, error)
    if call.runtime.result_cache.is_on:
        _measure(found, call)
    call.metrics.annotate(
        plan=",".join(sorted({each.result.plan.value for each in found})),
        cache=_use_of(found).value,
        query_characters=sum(len(body.text or "") for body in bodies),
    )
    return found


def _search(collection: Collection, bodies: Sequence[SearchBody], paths: Sequence[str], call: Call) -> list[Found]:
    raise_if_any([fault for body, path in zip(bodies, paths, strict=True) for fault in _faults(collection, body, path)])
    cache = call.runtime.result_cache
    queries = [_query(body, stamped=cache.is_on) for body in bodies]
    if not cache.is_on:
        return [Found(result, CacheUse.OFF) for result in _search_for(collection, queries, paths, call)]
    keys = [key_of(collection, query) for query in queries]
    known = _known(collection, keys, call)
    missing = [at for at, result in enumerate(known) if result is None]
    results = _search_for(collection, [queries[at] for at in missing], [paths[at] for at in missing], call)
    for at, result in zip(missing, results, strict=True):
        cache.keep(collection, keys[at], result)
    fresh = iter(results)
    return [
        Found(result, CacheUse.HIT) if result is not None else Found(next(fresh), CacheUse.MISS) for result in known
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


def _unconfirmed(
    project: str, name: str, bodies: Sequence[SearchBody], call: Call, error: UnavailableError
) -> list[Found]:
    """What is remembered of all these searches, or the error: part of an answer would be none."""
    cache = call.runtime.result_cache
    collection = call.runtime.collections.remembered(project, name)
    if collection is None or not cache.is_on:
        raise error
    found = []
    for body in bodies:
        stale = cache.unconfirmed(key_of(collection, _query(body, stamped=True)))
        if stale is None:
            raise error
        found.append(Found(stale.result, CacheUse.STALE, stale.age))
    return found


def _measure(found: Sequence[Found], call: Call) -> None:
    uses, cache, embeddings = [each.use for each in found], call.runtime.result_cache, call.runtime.query_embeddings
    call.metrics.add(Metric.CACHE_HITS, uses.count(CacheUse.HIT))
    call.metrics.add(Metric.CACHE_MISSES, uses.count(CacheUse.MISS))
    call.metrics.add(Metric.STALE_ANSWERS, uses.count(CacheUse.STALE))
    call.metrics.add(Metric.CACHE_EVICTIONS, cache.take_evictions() + embeddings.take_evictions())
    call.metrics.add(Metric.CACHE_BYTES, cache.size + embeddings.size)


def _faults(collection: Collection, body: SearchBody, path: str) -> list[Violation]:
    """What of a search this collection does not take."""
    faults = []
    if body.vector is not None and (fault := check_numbers(collection, body.vector, f"{path}vector")):
        faults.append(fault)
    if collection.filterable:
        faults += [
            Violation(path + fault.path, fault.message)
            for fault in filter_violations(body.filter, collection.filterable)
        ]
    if body.mode != "vector" and collection.text_search is None:
        message = f"{body.mode} needs the collection's words: PATCH it with text_search, e.g. 'english'"
        faults.append(Violation(f"{path}mode", message))
    elif body.mode != "vector" and not collection.texts_ready:
        message = f"{body.mode} needs the collection's words, which are being indexed; try again in some minutes"
        faults.append(Violation(f"{path}mode", message))
    return faults


def _query(body: SearchBody, *, stamped: bool) -> Query:
    return Query(
        mode=Mode(body.mode),
        numbers=body.vector,
        id=body.id,
        text=body.text,
        fusion=Fusion(body.fusion),
        text_weight=body.text_weight,
        top_k=body.top_k,
        offset=body.offset,
        namespace=body.namespace,
        filter=body.filter,
        group_by=body.group_by,
        min_score=body.min_score,
        exact=body.exact,
        ef_search=body.ef_search,
        include_metadata="metadata" in body.include,
        include_document="document" in body.include,
        include_vector="vector" in body.include,
        counted=body.include_debug,
        stamped=stamped,
    )
