"""Search."""

from __future__ import annotations

import time
from typing import Any

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
    to_query,
)
from search_function.searching import Found, kept_as, labelled, search_all
from vecmeter.embedding.model import estimate_tokens
from vecmeter.http.checks import raise_if_any
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import CollectionPath, ProjectPath
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.telemetry import Metric
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection
from vecmeter.vectors.recall import Probe, Recall, measure_recall

router = APIRouter(tags=["search"], prefix="/projects/{project}/collections/{collection}", route_class=BusinessRoute)

_TIMED = {"ledger": Metric.LEDGER_TIME, "embedding": Metric.EMBEDDING_TIME, "database": Metric.DATABASE_TIME}


_HEADERS: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "X-Cache": {
                "description": "hit: remembered, and confirmed to be what a search would find now; stale: remembered, "
                "and the database cannot be asked; miss; off. Of a batch: hit only if all of it is.",
                "schema": {"type": "string", "enum": ["hit", "miss", "stale", "off"]},
            },
            "Age": {"description": "Of a stale answer: seconds since it was found.", "schema": {"type": "integer"}},
        }
    }
}


@router.post("/search", response_model=SearchAnswer, operation_id="search", responses=_HEADERS)
def search(project: ProjectPath, collection: CollectionPath, body: SearchBody, call: CallDependency) -> Response:
    """Find the vectors nearest to a vector, a text or a stored vector, those with the words of a text, or both."""
    started = time.perf_counter()
    body.check(call.runtime.settings)
    tokens = estimate_tokens(body.text or "")
    with call.admit(Operation.SEARCH, Role.SEARCH, project, tokens=tokens) as hold:
        [found] = search_all(project, collection, [to_query(body)], [""], call)
        response = call.respond(
            hold,
            to_answer(found.result, body.namespace, _debug(body, found, call, started)),
            vectors=len(found.result.matches),
            collection=collection,
            namespace=body.namespace,
            had_filter=bool(body.filter),
            cache=kept_as([found]),
        )
        return labelled(response, [found])


@router.post("/search/batch", response_model=SearchBatchAnswer, operation_id="search_batch", responses=_HEADERS)
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
        found = search_all(project, collection, [to_query(one) for one in searches], paths, call)
        results = [
            to_found(each.result, one.namespace, _debug(one, each, call, started))
            for one, each in zip(searches, found, strict=True)
        ]
        response = call.respond(
            hold,
            SearchBatchAnswer.model_construct(results=results),
            vectors=sum(len(each.result.matches) for each in found),
            collection=collection,
            had_filter=any(one.filter for one in searches),
            cache=kept_as(found),
        )
        return labelled(response, found)


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


def _debug(body: SearchBody, found: Found, call: Call, started: float) -> Debug | None:
    if not body.include_debug:
        return None
    timings = {name: spent for name, metric in _TIMED.items() if (spent := call.metrics.sum_of(metric)) is not None}
    return Debug(
        plan=found.result.plan.value,
        candidates_before=found.result.candidates_before,
        candidates=found.result.candidates,
        cache=found.use.value,
        timings_ms=timings | {"total": round((time.perf_counter() - started) * 1000, 3)},
    )
