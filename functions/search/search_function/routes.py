"""Search."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.responses import Response

from search_function.schemas import (
    Debug,
    RecallAnswer,
    RecallBody,
    SearchAnswer,
    SearchBatchAnswer,
    SearchBatchBody,
    SearchBody,
    to_answer,
    to_found,
)
from vecmeter.embedding.model import estimate_tokens
from vecmeter.errors import Violation
from vecmeter.http.checks import filter_violations, raise_if_any
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.embedding import embed_queries
from vecmeter.http.fields import CollectionPath, ProjectPath
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.telemetry import Metric
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection, Fusion, Mode, Query, SearchResult
from vecmeter.vectors.recall import Probe, Recall, measure_recall

router = APIRouter(tags=["search"], prefix="/projects/{project}/collections/{collection}", route_class=BusinessRoute)

_TIMED = {"ledger": Metric.LEDGER_TIME, "embedding": Metric.EMBEDDING_TIME, "database": Metric.DATABASE_TIME}


@router.post("/search", response_model=SearchAnswer, operation_id="search")
def search(project: ProjectPath, collection: CollectionPath, body: SearchBody, call: CallDependency) -> Response:
    """Find the vectors nearest to a vector, a text or a stored vector, those with the words of a text, or both."""
    started = time.perf_counter()
    body.check(call.runtime.settings)
    tokens = estimate_tokens(body.text or "")
    with call.admit(Operation.SEARCH, Role.SEARCH, project, tokens=tokens) as hold:
        [result] = call.use(project, collection, lambda c: _search(c, [body], [""], call))
        return call.respond(
            hold,
            to_answer(result, body.namespace, _debug(body, result, call, started)),
            vectors=len(result.matches),
            collection=collection,
            namespace=body.namespace,
            had_filter=bool(body.filter),
        )


@router.post("/search/batch", response_model=SearchBatchAnswer, operation_id="search_batch")
def search_batch(
    project: ProjectPath, collection: CollectionPath, body: SearchBatchBody, call: CallDependency
) -> Response:
    """Up to 100 searches of one collection in one call: all of them, or an error that names those at fault."""
    started = time.perf_counter()
    body.check(call.runtime.settings)
    searches = body.searches
    paths = [f"searches.{at}." for at in range(len(searches))]
    tokens = sum(estimate_tokens(one.text or "") for one in searches)
    with call.admit(Operation.SEARCH, Role.SEARCH, project, tokens=tokens, searches=len(searches)) as hold:
        results = call.use(project, collection, lambda c: _search(c, searches, paths, call))
        found = [
            to_found(result, one.namespace, _debug(one, result, call, started))
            for one, result in zip(searches, results, strict=True)
        ]
        return call.respond(
            hold,
            SearchBatchAnswer.model_construct(results=found),
            vectors=sum(len(result.matches) for result in results),
            collection=collection,
            had_filter=any(one.filter for one in searches),
        )


@router.post("/recall", response_model=RecallAnswer, operation_id="measure_recall")
def recall(project: ProjectPath, collection: CollectionPath, body: RecallBody, call: CallDependency) -> Response:
    """Measure how much of what an exact search finds the searches of this collection find.

    Each vector is searched for twice, and both are billed as searches.
    """
    body.check(call.runtime.settings)
    with call.admit(Operation.SEARCH, Role.SEARCH, project, searches=2 * body.count) as hold:
        measured = call.use(project, collection, lambda c: _measure(c, body, call))
        return call.respond(
            hold,
            RecallAnswer.model_construct(**measured.figures()),
            collection=collection,
            namespace=body.namespace,
            had_filter=bool(body.filter),
        )


def _search(
    collection: Collection, bodies: Sequence[SearchBody], paths: Sequence[str], call: Call
) -> list[SearchResult]:
    """The results of searches, each of which is at its path of the request."""
    faults = [fault for body, path in zip(bodies, paths, strict=True) for fault in _faults(collection, body, path)]
    raise_if_any(faults)
    numbers = [body.vector for body in bodies]
    # What is compared with vectors, and neither has one nor names one.
    missing = [at for at, body in enumerate(bodies) if body.mode != "text" and body.vector is None and body.id is None]
    if missing:
        texts = [bodies[at].text or "" for at in missing]
        embedded = embed_queries(collection, texts, [f"{paths[at]}text" for at in missing], call.metrics)
        for at, vector in zip(missing, embedded, strict=True):
            numbers[at] = vector
    queries = [_query(body, vector) for body, vector in zip(bodies, numbers, strict=True)]
    with call.metrics.timed(Metric.SEARCH_TIME):
        return call.database(call.runtime.searcher.search_all, collection, queries)


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


def _query(body: SearchBody, numbers: Sequence[float] | None) -> Query:
    return Query(
        mode=Mode(body.mode),
        numbers=numbers,  # type: ignore[arg-type]
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
    )


def _measure(collection: Collection, body: RecallBody, call: Call) -> Recall:
    queries = body.queries or []
    raise_if_any(
        [fault for at, one in enumerate(queries) if (fault := check_numbers(collection, one, f"queries.{at}"))]
    )
    probe = Probe(
        sample=body.count,
        queries=body.queries,
        top_k=body.top_k,
        namespace=body.namespace,
        filter=body.filter,
        ef_search=body.ef_search,
    )
    return call.database(measure_recall, call.runtime.searcher, collection, probe)


def _debug(body: SearchBody, result: SearchResult, call: Call, started: float) -> Debug | None:
    if not body.include_debug:
        return None
    timings = {name: spent for name, metric in _TIMED.items() if (spent := call.metrics.sum_of(metric)) is not None}
    return Debug(
        plan=result.plan.value,
        candidates_before=result.candidates_before,
        candidates=result.candidates,
        timings_ms=timings | {"total": round((time.perf_counter() - started) * 1000, 3)},
    )
