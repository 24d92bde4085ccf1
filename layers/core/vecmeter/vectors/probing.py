"""The recall of an index: searches that ask it, against exact ones of the same queries, bounded in number and time."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vecmeter.errors import StatementTimeoutError, VectorNotFoundError
from vecmeter.vectors import index_rows
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.index_rows import Serving
from vecmeter.vectors.model import Collection, Plan, Query
from vecmeter.vectors.recall import Probe, distances_of, part_found, queries_of
from vecmeter.vectors.search import Searcher
from vecmeter.vectors.turns import TIME_IS_UP, Orders

TOP_K = 10
# Of fewer searches nothing is concluded.
LEAST_SEARCHES = 20
# So many times the searches wanted are looked at: those of namespaces with an index of their own do not count for the
# index of all vectors.
_MORE_LOOKED_AT = 4
# Indexes of a collection that one run measures, those first that were not measured for longest.
MOST_INDEXES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """Searches that ask an index, with what an exact search finds for each."""

    queries: Sequence[Query]
    exact: Sequence[Sequence[float]]

    def recall(self, searcher: Searcher, collection: Collection, ef_search: int | None = None) -> float:
        """The mean part that searches find of it, with this ``ef_search`` or (None) as they are."""
        asked = [replace(query, ef_search=ef_search) for query in self.queries]
        found = [searcher.search(collection, query).matches for query in asked]
        return statistics.mean(
            part_found(distances_of(matches, query, TOP_K), exact)
            for matches, query, exact in zip(found, asked, self.exact, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Prober:
    """``searches``: so many are made for each index, for ``seconds`` at most."""

    searcher: Searcher
    searches: int = 100
    seconds: float = 20.0
    clock: Callable[[], float] = time.monotonic

    def sample(self, collection: Collection, namespace: str | None, orders: Orders) -> Sample:
        """Of a namespace's own index, or (None) of that of all vectors, each search in its own namespace."""
        plans = {Plan.HNSW, Plan.ADAPTIVE} if namespace is None else {Plan.PARTIAL}
        probe = Probe(sample=self.searches * _MORE_LOOKED_AT, top_k=TOP_K, namespace=namespace)
        found = queries_of(self.searcher, collection, probe)
        # The same ones each time, from all over the collection wherever this ends.
        random.Random(0).shuffle(found)  # noqa: S311 - nothing secret
        self.searcher.sizes.look_at(collection, [query.namespace for query in found])
        queries: list[Query] = []
        exact: list[list[float]] = []
        end = min(self.clock() + self.seconds, orders.ends_at)
        for query in found:
            if self.clock() >= end or len(queries) == self.searches:
                break
            try:
                if self.searcher.search(collection, query).plan not in plans:
                    continue
                nearest = self.searcher.search(collection, replace(query, exact=True)).matches
            except VectorNotFoundError:
                continue  # deleted in the meantime
            except StatementTimeoutError:
                break  # an exact search takes longer than any statement may
            queries.append(query)
            exact.append(distances_of(nearest, query, TOP_K))
        return Sample(queries, exact)

    def probe(self, connection: Connection, collection: Collection, orders: Orders) -> dict[str, Any]:
        """Measure the indexes that were changed since they were measured last, or say which."""
        serving = index_rows.serving(connection, collection)
        due = [one for one in serving if orders.force or one.probed_changes != one.changes]
        due.sort(key=lambda one: (one.probed_at is not None, one.probed_at, one.index_id))
        told: list[dict[str, Any]] = []
        for one in due[:MOST_INDEXES]:
            if orders.dry_run:
                told.append({"namespace": one.namespace, "action": "probe", "reason": _why(one, orders)})
            elif orders.is_time_up():
                return {"action": "put off", "reason": TIME_IS_UP, "indexes": told}
            else:
                told.append(self._probe_one(connection, collection, one, orders))
        figures = {"indexes": told, "target_recall": collection.target_recall}
        lowest = self._lowest(connection, collection)
        figures |= {} if lowest is None else {"recall": lowest, "below_target": lowest < collection.target_recall}
        if told:
            return {"action": "planned" if orders.dry_run else "probed", **figures}
        reason = "nothing was written since they were measured" if serving else "there is no HNSW index"
        return {"action": "none", "reason": reason, **figures}

    def _probe_one(
        self, connection: Connection, collection: Collection, one: Serving, orders: Orders
    ) -> dict[str, Any]:
        sample = self.sample(collection, one.namespace, orders)
        told = {"namespace": one.namespace, "action": "probe", "sample": len(sample.queries)}
        if len(sample.queries) < LEAST_SEARCHES:
            index_rows.probed(connection, one, None, len(sample.queries))
            return told | {"reason": f"fewer than {LEAST_SEARCHES} of its searches could be measured"}
        recall = sample.recall(self.searcher, collection)
        index_rows.probed(connection, one, recall, len(sample.queries))
        return told | {"recall": round(recall, 4)}

    def _lowest(self, connection: Connection, collection: Collection) -> float | None:
        """As measured last, whenever that was."""
        known = [one.probed_recall for one in index_rows.serving(connection, collection)]
        recalls = [recall for recall in known if recall is not None]
        return round(min(recalls), 4) if recalls else None


def _why(one: Serving, orders: Orders) -> str:
    if orders.force:
        return "it is forced"
    return "it was never measured" if one.probed_at is None else "its vectors were changed since it was measured"
