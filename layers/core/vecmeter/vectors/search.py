"""Search: one statement per request, by a plan of our own choice (plans.py, search_statements.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.filters import CompiledFilter, compile_filter
from vecmeter.vectors.hybrid_search import hybrid_statement
from vecmeter.vectors.model import Collection, Match, Mode, Plan, Query, SearchResult, Stamp
from vecmeter.vectors.plans import Choice, NamespaceSizes, choose_plan
from vecmeter.vectors.records import parse_numbers
from vecmeter.vectors.search_statements import SearchStatement
from vecmeter.vectors.terms import DefinitionChanged
from vecmeter.vectors.text_search import text_statement
from vecmeter.vectors.vector_search import DEFAULT_EF_SEARCH, vector_statement

# How many times more than usual an index delivers, one attempt after the other; then the search is exact.
_DEPTHS, _DEPTHS_FOR_GROUPS = (1,), (4, 32)

_SET_EF_SEARCH: LiteralString = "SELECT set_config('hnsw.ef_search', %s, true)"


class Searcher:
    """Answers searches. ``exact_threshold``: candidates up to which comparing them all beats the index."""

    def __init__(
        self,
        database: Database,
        exact_threshold: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self._threshold = exact_threshold
        self.sizes = NamespaceSizes(database, exact_threshold, monotonic)

    def search(self, collection: Collection, query: Query) -> SearchResult:
        """The ``top_k`` nearest vectors of the query's namespace that its filter lets through, best first.

        Raises:
            VectorNotFoundError: the query is by id, and there is no such vector.
            InvalidRequestError: the filter is wrong.
            DefinitionChanged: the texts were given another language, see ``Collections.use``.
        """
        return self.search_all(collection, [query])[0]

    def search_all(self, collection: Collection, queries: Sequence[Query]) -> list[SearchResult]:
        """Several searches in one round trip, and in another those for which an index did not deliver enough.

        Raises as ``search`` does, for the first query there is something wrong with.
        """
        filters = [compile_filter(query.filter, collection.filterable) for query in queries]
        if len(queries) > 1:
            asked = (query for query in queries if collection.hnsw or query.mode is not Mode.VECTOR)
            self.sizes.look_at(collection, [query.namespace for query in asked])
        results: dict[int, SearchResult] = {}
        waiting, attempt = list(range(len(queries))), 0
        while waiting:
            prepared = [self._prepare(collection, queries[at], filters[at], attempt) for at in waiting]
            thin = []
            for at, ready, rows in zip(waiting, prepared, self._execute(prepared), strict=True):
                result, complete = _read(collection, queries[at], ready.plan, rows)
                if complete:
                    results[at] = result
                else:
                    thin.append(at)
            waiting, attempt = thin, attempt + 1
        return [results[at] for at in range(len(queries))]

    def _prepare(
        self, collection: Collection, query: Query, compiled: CompiledFilter | None, attempt: int
    ) -> SearchStatement:
        """The statement of a search; ``attempt`` counts those before it, which did not bring enough."""
        if query.mode is Mode.TEXT:
            return text_statement(collection, query, compiled, self._is_small(collection, query))
        depths = _DEPTHS if query.group_by is None else _DEPTHS_FOR_GROUPS
        choice, depth = Choice(Plan.EXACT), 1
        if not query.exact and attempt < len(depths):
            choice, depth = self._choose(collection, query, compiled), depths[attempt]
        if query.mode is Mode.HYBRID:
            return hybrid_statement(
                collection,
                query,
                compiled,
                choice=choice,
                exact_threshold=self._threshold,
                is_small=self._is_small(collection, query),
                depth=depth,
            )
        return vector_statement(collection, query, compiled, choice, self._threshold, depth)

    def _choose(self, collection: Collection, query: Query, compiled: CompiledFilter | None) -> Choice:
        return choose_plan(
            collection,
            query.namespace,
            lambda: self.sizes.of(collection, query.namespace),
            self._threshold,
            filtered=compiled is not None,
            wanted=query.wanted,
        )

    def _is_small(self, collection: Collection, query: Query) -> bool:
        """Whether comparing every vector of the namespace beats the index, if there is one."""
        return self.sizes.of(collection, query.namespace).vectors <= self._threshold

    def _execute(self, prepared: Sequence[SearchStatement]) -> list[list[Any]]:
        """The rows of each statement, all in one round trip."""
        if len(prepared) == 1 and prepared[0].ef_search in (None, DEFAULT_EF_SEARCH):
            [only] = prepared
            return [self.database.run(lambda connection: connection.execute(only.text, only.parameters).fetchall())]

        def work(connection: Connection) -> list[list[Any]]:
            # One transaction, too, with which the setting ends.
            ef_search, cursors = DEFAULT_EF_SEARCH, []
            with connection.pipeline():
                for each in prepared:
                    if each.ef_search is not None and each.ef_search != ef_search:
                        ef_search = each.ef_search
                        connection.execute(_SET_EF_SEARCH, [str(ef_search)])
                    cursors.append(connection.execute(each.text, each.parameters))
            return [cursor.fetchall() for cursor in cursors]

        return self.database.run(work)


def _read(collection: Collection, query: Query, plan: Plan, rows: Sequence[Any]) -> tuple[SearchResult, bool]:
    """The result in a statement's rows, and whether there is no more to be found."""
    *_, complete, candidates, candidates_before, query_exists, holds, revision, next_expiry = rows[0]
    if not holds:
        raise DefinitionChanged
    if not query_exists:
        raise VectorNotFoundError(f"There is no vector {query.id!r}.")
    matches = [_match(collection, query, row) for row in rows if row[0] is not None]
    # Of a hybrid search's matches each is the best only among as many as were asked for; groups are all of them.
    enough = query.mode is Mode.VECTOR or query.group_by is not None
    complete = complete or (enough and len(matches) == query.top_k)
    if query.min_score is not None:
        matches = [match for match in matches if match.score >= query.min_score]
    return SearchResult(
        matches=matches,
        plan=plan,
        candidates=candidates,
        candidates_before=candidates_before,
        stamp=Stamp(revision, next_expiry) if revision is not None else None,
    ), complete


def _match(collection: Collection, query: Query, row: Sequence[Any]) -> Match:
    _, id, distance, score, metadata, document, numbers, *_ = row
    return Match(
        id=id,
        namespace=query.namespace,
        score=collection.metric.score(distance) if score is None else score,
        distance=distance,
        metadata=metadata,
        document=document,
        numbers=parse_numbers(numbers) if numbers is not None else None,
    )
