"""How much of what an exact search finds the searches of a collection find, and how long both take."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.model import Collection, Match, Plan, Query
from vecmeter.vectors.search import Searcher
from vecmeter.vectors.tables import LIVE_RECORD, statement

# Exact searches of a large collection take long; a request has 30 s for all of them.
MEASURING_SECONDS = 15.0

# The same vectors every time, from all over a namespace.
_SAMPLE_OF_NAMESPACE: LiteralString = """
    SELECT r.namespace, r.id FROM {records} r WHERE r.namespace = %(namespace)s AND [live_record]
    ORDER BY hashint8extended(r.record_id, 0), r.record_id LIMIT %(sample)s
""".replace("[live_record]", LIVE_RECORD)
# From all over a collection, without reading all of it: those next to places spread evenly over the record numbers.
_SAMPLE: LiteralString = """
    SELECT DISTINCT ON (r.record_id) r.namespace, r.id
    FROM (SELECT min(record_id) AS low, max(record_id) AS high FROM {records}) numbers
    CROSS JOIN generate_series(1, %(sample)s) part
    CROSS JOIN LATERAL (
        SELECT r.record_id, r.namespace, r.id FROM {records} r
        WHERE r.record_id >= low + (high - low) * (part - 1) / greatest(%(sample)s - 1, 1) AND [live_record]
        ORDER BY r.record_id LIMIT 1
    ) r
""".replace("[live_record]", LIVE_RECORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What recall is measured by: searches by ``queries`` in a namespace, or by so many stored vectors of a namespace
    (None: of all, each in its own).
    """

    sample: int = 50
    queries: Sequence[array[float]] | None = None
    top_k: int = 10
    namespace: str | None = None
    filter: Mapping[str, Any] | None = None
    ef_search: int | None = None


@dataclass(slots=True)
class Recall:
    """Of each search measured: the part it found of what there was to be found, and its times in milliseconds."""

    top_k: int
    found: list[float] = field(default_factory=list)
    ann_ms: list[float] = field(default_factory=list)
    exact_ms: list[float] = field(default_factory=list)
    plans: Counter[Plan] = field(default_factory=Counter)

    @property
    def recall(self) -> float:
        """Their mean; 1 where there was nothing to be found."""
        return statistics.mean(self.found) if self.found else 1.0

    def figures(self) -> dict[str, Any]:
        """All of it in numbers, ready for JSON."""
        return {
            "recall": round(self.recall, 4),
            "lowest": round(min(self.found, default=1.0), 4),
            "sample": len(self.found),
            "top_k": self.top_k,
            "ann_ms": _percentile(self.ann_ms, 50),
            "ann_p95_ms": _percentile(self.ann_ms, 95),
            "exact_ms": _percentile(self.exact_ms, 50),
            "exact_p95_ms": _percentile(self.exact_ms, 95),
            "plans": {plan.value: times for plan, times in sorted(self.plans.items())},
        }


def measure_recall(
    searcher: Searcher,
    collection: Collection,
    probe: Probe,
    seconds: float = MEASURING_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Recall:
    """Search as searches do, and exactly. Ends early where it has taken ``seconds``.

    A stored vector does not count as a match of itself. What is exactly as far away as the last of the exact matches
    counts as one of them.
    """
    queries = queries_of(searcher, collection, probe)
    searcher.sizes.look_at(collection, [query.namespace for query in queries] if collection.hnsw else [])
    measured, end = Recall(probe.top_k), clock() + seconds
    for query in queries:
        try:
            _measure(searcher, collection, query, measured, clock)
        except VectorNotFoundError:
            continue  # deleted in the meantime
        if clock() >= end:
            break
    return measured


def queries_of(searcher: Searcher, collection: Collection, probe: Probe) -> list[Query]:
    """The searches that a probe is about."""
    common: dict[str, Any] = {"filter": probe.filter, "ef_search": probe.ef_search, "include_metadata": False}
    if probe.queries is not None:
        return [
            Query(numbers=one, namespace=probe.namespace or "", top_k=probe.top_k, **common) for one in probe.queries
        ]
    text = statement(_SAMPLE if probe.namespace is None else _SAMPLE_OF_NAMESPACE, collection)
    parameters = {"sample": probe.sample, "namespace": probe.namespace}
    stored = searcher.database.run(lambda connection: connection.execute(text, parameters).fetchall())
    return [Query(id=id, namespace=namespace, top_k=probe.top_k + 1, **common) for namespace, id in stored]


def _measure(
    searcher: Searcher, collection: Collection, query: Query, measured: Recall, clock: Callable[[], float]
) -> None:
    started = clock()
    found = searcher.search(collection, query)
    between = clock()
    exact = searcher.search(collection, replace(query, exact=True))
    ended = clock()
    top_k = measured.top_k
    measured.found.append(
        part_found(distances_of(found.matches, query, top_k), distances_of(exact.matches, query, top_k))
    )
    measured.ann_ms.append((between - started) * 1000)
    measured.exact_ms.append((ended - between) * 1000)
    measured.plans[found.plan] += 1


def distances_of(matches: Sequence[Match], query: Query, top_k: int) -> list[float]:
    """The distances of the matches but for the vector searched by."""
    return [match.distance or 0.0 for match in matches if match.id != query.id][:top_k]


def part_found(found: Sequence[float], exact: Sequence[float]) -> float:
    """Which part of what an exact search finds another found; what is as far away as the last of it counts."""
    if not exact:
        return 1.0
    return sum(distance <= exact[-1] for distance in found) / len(exact)


def _percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return round(ordered[-(-len(ordered) * percent // 100) - 1], 3) if ordered else 0.0
