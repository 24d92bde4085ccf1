"""Search."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import Response

from search_function.schemas import Debug, SearchAnswer, SearchBody, to_answer
from vecmeter.embedding.model import estimate_tokens
from vecmeter.http.checks import raise_if_any
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.embedding import embed_query
from vecmeter.http.fields import CollectionPath, ProjectPath
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.telemetry import Metric
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection, Query, SearchResult

router = APIRouter(tags=["search"], route_class=BusinessRoute)


@router.post(
    "/projects/{project}/collections/{collection}/search",
    response_model=SearchAnswer,
    operation_id="search",
)
def search(project: ProjectPath, collection: CollectionPath, body: SearchBody, call: CallDependency) -> Response:
    """Find the vectors nearest to a vector, a text or a stored vector."""
    body.check(call.runtime.settings)
    tokens = estimate_tokens(body.text or "")
    with call.admit(Operation.SEARCH, Role.SEARCH, project, tokens=tokens) as hold:
        started = time.perf_counter()
        result = call.use(project, collection, lambda c: _search(c, body, call))
        debug = _debug(result, started) if body.include_debug else None
        return call.respond(
            hold,
            to_answer(result, body.namespace, debug),
            vectors=len(result.matches),
            collection=collection,
            namespace=body.namespace,
            had_filter=bool(body.filter),
        )


def _search(collection: Collection, body: SearchBody, call: Call) -> SearchResult:
    numbers = body.vector
    if body.text is not None:
        numbers = embed_query(collection, body.text, call.metrics)
    elif numbers is not None and (violation := check_numbers(collection, numbers, "vector")):
        raise_if_any([violation])
    query = Query(
        numbers=numbers,
        id=body.id,
        top_k=body.top_k,
        namespace=body.namespace,
        filter=body.filter,
        exact=body.exact,
        include_metadata="metadata" in body.include,
        include_document="document" in body.include,
        include_vector="vector" in body.include,
    )
    with call.metrics.timed(Metric.SEARCH_TIME):
        return call.database(call.runtime.searcher.search, collection, query)


def _debug(result: SearchResult, started: float) -> Debug:
    elapsed = round((time.perf_counter() - started) * 1000, 3)
    return Debug(plan=result.plan.value, candidates=result.candidates, timings_ms={"search": elapsed})
