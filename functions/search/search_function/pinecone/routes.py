"""What Pinecone's clients call of the search function: queries."""

from __future__ import annotations

from starlette.responses import Response

from search_function.pinecone.schemas import READ_UNITS, QueryAnswer, QueryBody, to_match, to_query
from search_function.searching import Found, kept_as, labelled, search_all
from vecmeter.errors import VectorNotFoundError, Violation
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import CollectionPath
from vecmeter.http.pinecone.values import value_violation
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.model import Collection, Query

router = UnversionedRouter(prefix="/indexes/{index}", include_in_schema=False, tags=["pinecone"])


@router.post("/query", response_model=QueryAnswer)
def query(index: CollectionPath, body: QueryBody, call: CallDependency) -> Response:
    """Find the records of a namespace nearest to a vector, or to a record."""
    body.check()
    query = to_query(body)
    with call.admit(Operation.SEARCH, Role.SEARCH, in_own_project=True) as hold:
        found = _find(hold.admission.own_project, index, query, call)
        matches = [to_match(match, each.collection.metric) for each in found for match in each.result.matches]
        response = call.respond(
            hold,
            QueryAnswer.model_construct(matches=matches, namespace=body.namespace or "", read_units=READ_UNITS),
            vectors=len(matches),
            collection=index,
            namespace=query.namespace,
            had_filter=bool(query.filter),
            cache=kept_as(found),
        )
        return labelled(response, found)


def _find(project: str, index: str, query: Query, call: Call) -> list[Found]:
    """What the query finds: with them a record that is not there has no neighbours, and is no error."""
    try:
        return search_all(project, index, [query], [""], call, _faults)
    except VectorNotFoundError:
        return []


def _faults(collection: Collection, query: Query, path: str) -> list[Violation]:
    if query.numbers is None:
        return []
    # Their clients ask by a zero vector for any records that a filter lets through, under cosine, too.
    if len(query.numbers) == collection.dimension and not any(query.numbers):
        return []
    fault = value_violation(collection, query.numbers, f"{path}vector")
    return [fault] if fault else []
