"""Operations that search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

from vecmeter_client._flow import Answer, Flow, Route
from vecmeter_client._input import Numbers, pack
from vecmeter_client._models import Included, Mode, Recall, SearchRequest, SearchResult, Usage
from vecmeter_client._operations.definitions import COLLECTION
from vecmeter_client._places import CollectionAt
from vecmeter_client._reading import answered, content_of, items_of, read
from vecmeter_client.errors import InvalidInputError, UnexpectedAnswerError

MAX_SEARCHES = 100

SEARCH = Route("POST", COLLECTION + "/search")
SEARCH_BATCH = Route("POST", COLLECTION + "/search/batch")
RECALL = Route("POST", COLLECTION + "/recall")


def search(  # noqa: PLR0913 - what a search can be asked for
    at: CollectionAt,
    vector: Numbers | None = None,
    *,
    text: str | None = None,
    id: str | None = None,
    top_k: int = 10,
    namespace: str = "",
    filter: Mapping[str, Any] | None = None,
    mode: Mode = "vector",
    include: Sequence[Included] = ("metadata", "document"),
    exact: bool = False,
    ef_search: int | None = None,
    min_score: float | None = None,
    group_by: str | None = None,
    offset: int = 0,
    fusion: Literal["rrf", "weighted"] | None = None,
    text_weight: float | None = None,
    include_debug: bool = False,
) -> Flow[SearchResult]:
    """Find the vectors nearest to a vector, a text or a stored vector, those with the words of a text, or both.

    Args:
        vector, text, id: exactly one of them; in mode "hybrid" ``text`` and, at will, another.
        top_k: most matches, of all the filter lets through: fewer only where there are fewer.
        filter: a predicate over the metadata, ``{"kind": "invoice", "due": {"$lt": "2027-01-01"}}``.
        mode: compare vectors, words, or both.
        include: what of a match to send.
        exact: compare every vector instead of asking the index.
        min_score: leave out what scores less.
        group_by: a field of the metadata: the best match of each of its values.
        offset: matches to pass over.

    Raises:
        CollectionNotFoundError, VectorNotFoundError (of ``id``), InvalidRequestError, LimitExceededError.
    """
    # fmt: off
    request: SearchRequest = {
        "vector": vector, "text": text, "id": id, "top_k": top_k, "namespace": namespace, "filter": filter,
        "mode": mode, "include": include, "exact": exact, "ef_search": ef_search, "min_score": min_score,
        "group_by": group_by, "offset": offset, "fusion": fusion, "text_weight": text_weight,
        "include_debug": include_debug,
    }
    # fmt: on
    answer = yield SEARCH.to(at.project, at.name, body=_body(request, ""))
    return answered(SearchResult, answer, **_remembered(answer))


def search_batch(at: CollectionAt, searches: Iterable[SearchRequest]) -> Flow[list[SearchResult]]:
    """Searches of one collection, up to 100 a request; results in their order.

    ``usage`` of a result is what the request it came with took, and stands on the first of that request only, so that
    the sum is right.
    """
    results: list[SearchResult] = []
    left = iter(searches)
    while chunk := list(islice(left, MAX_SEARCHES)):
        bodies = [_body(one, f"searches.{len(results) + at_}.") for at_, one in enumerate(chunk)]
        answer = yield SEARCH_BATCH.to(at.project, at.name, body={"searches": bodies})
        content, remembered = content_of(answer), _remembered(answer)
        found = [read(SearchResult, one | remembered) for one in items_of(content, "results")]
        if len(found) != len(chunk):
            raise UnexpectedAnswerError(f"The answer has {len(found)} results for {len(chunk)} searches")
        found[0] = replace(found[0], usage=read(Usage, content.get("usage", {})))
        results += found
    return results


def recall(
    at: CollectionAt,
    sample: int | None = None,
    *,
    queries: Iterable[Numbers] | None = None,
    top_k: int = 10,
    namespace: str | None = None,
    filter: Mapping[str, Any] | None = None,
    ef_search: int | None = None,
) -> Flow[Recall]:
    """Measure how much of what an exact search finds the searches of this collection find. Each is billed as two.

    Args:
        sample: stored vectors to search by, 1 to 200; 50 if neither this nor ``queries`` is given.
        queries: vectors to search by instead.
        namespace: where to search; None: each in its own.
    """
    body = {
        "sample": sample,
        "queries": None if queries is None else [pack(one, f"queries.{n}") for n, one in enumerate(queries)],
        "top_k": top_k,
        "namespace": namespace,
        "filter": filter,
        "ef_search": ef_search,
    }
    answer = yield RECALL.to(at.project, at.name, body=body)
    return answered(Recall, answer)


def _body(request: SearchRequest, where: str) -> dict[str, Any]:
    unknown = [name for name in request if name not in SearchRequest.__annotations__]
    if unknown:
        raise InvalidInputError(f"{where}{unknown[0]}: is no part of a search")
    body: dict[str, Any] = {name: value for name, value in request.items() if value is not None}
    if "vector" in body:
        body["vector"] = pack(body["vector"], f"{where}vector")
    if "include" in body:
        body["include"] = list(body["include"])
    return body


def _remembered(answer: Answer) -> dict[str, Any]:
    """Whether the answer was remembered, and how old it is."""
    age = answer.headers.get("age", "")
    return {"cache": answer.headers.get("x-cache"), "age_seconds": int(age) if age.isdecimal() else None}
