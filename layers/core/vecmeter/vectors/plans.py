"""Which plan a search takes: decided from counts, never left to PostgreSQL's planner.

* ``exact``: every vector of the namespace that the filter lets through is compared. Taken while there is no HNSW
  index, and where few vectors are in question: there it is faster than an index and finds everything.
* ``hnsw``: the index of all vectors delivers by distance until enough of the namespace are found.
* ``partial``: the same, by an index of the namespace alone.
* ``adaptive``: for filters, and for namespaces that are a small part of the index. What the index holds nearest to the
  query is the sample: if enough of it passes, these are the hits; if some, the index goes on; if next to nothing, the
  statement counts what passes, and compares just these unless they are too many.

An index scan ends after ``hnsw.max_scan_tuples``. Where it brings fewer rows than there must be, the exact plan runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString

from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.model import Collection, Hnsw, Plan
from vecmeter.vectors.tables import statement

# How long an instance believes what it saw of a namespace's size.
NAMESPACE_SECONDS = 30.0
REMEMBERED_NAMESPACES = 10_000
# A namespace with less of its collection is looked for in the index of all vectors only after a look at a sample.
LARGE_SHARE = 0.25
# Namespaces are counted up to so many thresholds.
_COUNTED = 10
# The index of all vectors must visit more, the smaller the part of a namespace; to visit one costs as much as to
# compare so many of the namespace. For each match wanted it delivers a few more (vector_search.py).
_VISIT_COST = 15.0
_VISITED_PER_MATCH, _VISITED_AT_LEAST = 1.5, 10

# How many vectors a namespace has, up to one more than are counted, and which part it is of 128 records, two at each of
# 64 places spread evenly over the record numbers.
_LOOK_AT_NAMESPACE: LiteralString = """
    SELECT (
        SELECT count(*) FROM (
            SELECT FROM {vectors} v WHERE v.namespace = %(namespace)s LIMIT %(counted)s + 1
        ) found
    ), (
        SELECT coalesce(avg((r.namespace = %(namespace)s)::integer), 0)::float8
        FROM (SELECT min(record_id) AS low, max(record_id) AS high FROM {records}) numbers
        CROSS JOIN generate_series(0, 63) part
        CROSS JOIN LATERAL (
            SELECT namespace FROM {records} WHERE record_id >= low + (high - low) * part / 64 ORDER BY record_id LIMIT 2
        ) r
    )
"""


@dataclass(frozen=True, slots=True)
class NamespaceSize:
    """``vectors`` of a namespace, exact up to ten exact thresholds; its ``share`` of the collection, 0 to 1."""

    vectors: int
    share: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and the index it asks."""

    plan: Plan
    hnsw: Hnsw | None = None


_EXACT = Choice(Plan.EXACT)


def choose_plan(
    collection: Collection,
    namespace: str,
    size: Callable[[], NamespaceSize],
    exact_threshold: int,
    *,
    filtered: bool = False,
    wanted: int = 1,
) -> Choice:
    """The plan of a search for ``wanted`` matches; ``size`` of the namespace is asked for where it matters."""
    own = collection.hnsw_of(namespace)
    hnsw = own or collection.hnsw_of(None)
    if hnsw is None or wanted > exact_threshold:
        return _EXACT
    there = size()
    if there.vectors <= exact_threshold:
        return _EXACT
    if filtered:
        return Choice(Plan.ADAPTIVE, hnsw)
    if own is not None or there.share >= LARGE_SHARE:
        return Choice(Plan.HNSW if own is None else Plan.PARTIAL, hnsw)
    if there.vectors <= min(exact_threshold * _COUNTED, _as_dear_as_index(there, wanted)):
        return _EXACT
    return Choice(Plan.ADAPTIVE, hnsw)


def _as_dear_as_index(size: NamespaceSize, wanted: int) -> float:
    """How many vectors could be compared instead of asking the index of all vectors for a namespace's."""
    visited = (wanted * _VISITED_PER_MATCH + _VISITED_AT_LEAST) / max(size.share, 1 / 256)
    return visited * _VISIT_COST


class NamespaceSizes:
    """What this instance saw of the sizes of namespaces. A late belief costs time, never a match."""

    def __init__(self, database: Database, exact_threshold: int, monotonic: Callable[[], float] = time.monotonic):
        self._database = database
        self._threshold = exact_threshold
        self._monotonic = monotonic
        self._seen: dict[tuple[int, str], tuple[float, NamespaceSize]] = {}

    def of(self, collection: Collection, namespace: str) -> NamespaceSize:
        """At most ``NAMESPACE_SECONDS`` old; else it takes a round trip."""
        # What was found is passed on, not read again: another thread may let all of it be forgotten meanwhile.
        return self._believed(collection, namespace) or self._look_at(collection, [namespace])[0]

    def look_at(self, collection: Collection, namespaces: Iterable[str]) -> None:
        """Find out in one round trip about all of these that nothing is known of."""
        unknown = [name for name in dict.fromkeys(namespaces) if self._believed(collection, name) is None]
        if unknown:
            self._look_at(collection, unknown)

    def _look_at(self, collection: Collection, unknown: Sequence[str]) -> list[NamespaceSize]:
        text = statement(_LOOK_AT_NAMESPACE, collection)
        parameters = [{"namespace": name, "counted": self._threshold * _COUNTED} for name in unknown]

        def work(connection: Connection) -> list[tuple[int, float]]:
            with connection.pipeline():
                cursors = [connection.execute(text, each) for each in parameters]
            return [cursor.fetchall()[0] for cursor in cursors]

        found = [NamespaceSize(vectors, share) for vectors, share in self._database.run(work)]
        if len(self._seen) + len(unknown) > REMEMBERED_NAMESPACES:
            self._seen.clear()
        now = self._monotonic()
        for name, size in zip(unknown, found, strict=True):
            self._seen[collection.collection_id, name] = (now, size)
        return found

    def _believed(self, collection: Collection, namespace: str) -> NamespaceSize | None:
        seen = self._seen.get((collection.collection_id, namespace))
        if seen is not None and self._monotonic() - seen[0] < NAMESPACE_SECONDS:
            return seen[1]
        return None
