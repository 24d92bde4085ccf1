"""The least ``hnsw.ef_search`` with which the searches of a collection reach its target recall, by measuring.

Half of the searches measured are there to choose by, the other half (the holdout) to see whether the choice holds for
searches it was not made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from vecmeter.vectors import index_rows
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection
from vecmeter.vectors.probing import LEAST_SEARCHES, Prober, Sample
from vecmeter.vectors.tables import statement
from vecmeter.vectors.turns import Orders
from vecmeter.vectors.vector_search import DEFAULT_EF_SEARCH, MAX_EF_SEARCH

# From pgvector's own default on: less saves nothing that a search would notice.
STEPS = (40, 60, 80, 100, 150, 200, 300, 400, 600, 800, MAX_EF_SEARCH)
# So much better than the target must searches be with less, or a value would go up and down with the samples.
MARGIN = 0.01
# Where nothing reaches the target, the least that comes so close to the most there is.
_NEARLY = 0.005
# Indexes of namespaces measured beside that of all vectors, the largest ones.
MOST_NAMESPACES = 4
# Of a collection's vectors, from which on what was found is looked at again.
_LEAST_CHANGED = 0.1

_STATE: LiteralString = """
    SELECT tuned_for, tuned_changes, tuned_at FROM vecmeter.collections WHERE collection_id = {collection_id}
"""
# What was measured with another value counts no more.
_TUNE: LiteralString = """
    WITH outdated AS (
        UPDATE vecmeter.hnsw_indexes SET probed_recall = NULL, probed_changes = NULL, probed_at = NULL
        WHERE collection_id = {collection_id} AND %(changed)s
    )
    UPDATE vecmeter.collections SET tuned_ef_search = %(ef_search)s, tuned_recall = %(recall)s, tuned_for = %(target)s,
        tuned_changes = %(changes)s, tuned_at = now()
    WHERE collection_id = {collection_id}
"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An ``ef_search``, the recall of the holdout with it, and whether that is what was wanted."""

    ef_search: int
    recall: float
    reached: bool


def choose(measure: Callable[[int], float], check: Callable[[int], float], wanted: float) -> Chosen:
    """The least step for which ``measure`` finds ``wanted``, or the first above it for which ``check`` does as well.

    Where no step will do, the least that comes close to what the largest finds.
    """
    for step in STEPS[_first(measure, wanted) :]:
        recall = check(step)
        if recall >= wanted:
            return Chosen(step, recall, reached=True)
    step = STEPS[_first(measure, measure(STEPS[-1]) - _NEARLY)]
    return Chosen(step, check(step), reached=False)


def _first(measure: Callable[[int], float], wanted: float) -> int:
    """The place of the first step for which ``measure``, which grows with it, finds as much; or the end."""
    low, high = 0, len(STEPS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(STEPS[middle]) >= wanted else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Tuner:
    """Finds, and keeps, the value of searches that name none of a collection that sets none."""

    prober: Prober

    def tune(self, connection: Connection, collection: Collection, orders: Orders) -> dict[str, Any]:
        """Measure again where something has changed; a dry run measures, and keeps nothing."""
        if collection.ef_search is not None:
            return {"action": "none", "reason": f"ef_search is set to {collection.ef_search}"}
        if not collection.hnsw:
            return {"action": "none", "reason": "there is no HNSW index"}
        why = "it is forced" if orders.force else _why_again(connection, collection)
        if why is None:
            return {"action": "none", "reason": "little has changed since it was tuned"}
        samples = [sample for sample in self._samples(collection, orders) if sample.queries]
        if not samples:
            return {"action": "none", "reason": "its searches compare all vectors"}
        if min(len(sample.queries) for sample in samples) < 2 * LEAST_SEARCHES:
            return {"action": "none", "reason": "too few searches could be measured"}
        before = collection.tuned_ef_search or DEFAULT_EF_SEARCH
        chosen = self._choose(collection, samples, before)
        if not orders.dry_run:
            _keep(connection, collection, chosen, changed=chosen.ef_search != before)
        return {
            "action": "planned" if orders.dry_run else "tuned",
            "reason": why,
            "ef_search": chosen.ef_search,
            "ef_search_before": before,
            "recall": round(chosen.recall, 4),
            "target_recall": collection.target_recall,
            "target_reached": chosen.reached,
            "sample": sum(len(sample.queries) for sample in samples),
        }

    def _samples(self, collection: Collection, orders: Orders) -> list[Sample]:
        own = sorted((h for h in collection.hnsw if h.namespace is not None), key=lambda h: -(h.vectors or 0))
        namespaces = [None, *(one.namespace for one in own[:MOST_NAMESPACES])]
        return [self.prober.sample(collection, namespace, orders) for namespace in namespaces]

    def _choose(self, collection: Collection, samples: Sequence[Sample], before: int) -> Chosen:
        """What the value shall be: raising it is at once, lowering it takes a margin."""
        halves = [[Sample(one.queries[at::2], one.exact[at::2]) for one in samples] for at in (0, 1)]
        measured: dict[tuple[int, int], float] = {}

        def lowest(half: int, ef_search: int) -> float:
            if (half, ef_search) not in measured:
                recalls = [one.recall(self.prober.searcher, collection, ef_search) for one in halves[half]]
                measured[half, ef_search] = min(recalls)
            return measured[half, ef_search]

        def least(wanted: float) -> Chosen:
            return choose(lambda ef_search: lowest(0, ef_search), lambda ef_search: lowest(1, ef_search), wanted)

        needed = least(collection.target_recall)
        if needed.ef_search >= before:
            return needed
        with_room = least(min(collection.target_recall + MARGIN, 1.0))
        if with_room.reached and with_room.ef_search < before:
            return with_room
        recall = lowest(1, before)
        return Chosen(before, recall, reached=recall >= collection.target_recall)


def _why_again(connection: Connection, collection: Collection) -> str | None:
    """The reason to look for another value, or None."""
    row = connection.execute(statement(_STATE, collection)).fetchone()
    assert row is not None, "the definition was just read"
    tuned_for, tuned_changes, tuned_at = row
    if tuned_at is None:
        return "it was never tuned"
    if tuned_for != collection.target_recall:
        return f"the target recall was {tuned_for}"
    serving = index_rows.serving(connection, collection)
    if any(one.built_at is not None and one.built_at > tuned_at for one in serving):
        return "an index was built since"
    if any(one.probed_recall is not None and one.probed_recall < collection.target_recall for one in serving):
        return "its recall is below the target"
    changed = max((one.changes for one in serving), default=0) - tuned_changes
    vectors = sum(one.vectors or 0 for one in collection.hnsw if one.namespace is None)
    # Statistics that began anew count less than before.
    return "many of its vectors were changed since" if not 0 <= changed < _LEAST_CHANGED * max(1, vectors) else None


def _keep(connection: Connection, collection: Collection, chosen: Chosen, *, changed: bool) -> None:
    parameters = {
        "ef_search": chosen.ef_search,
        "recall": chosen.recall,
        "target": collection.target_recall,
        "changed": changed,
        "changes": max((one.changes for one in index_rows.serving(connection, collection)), default=0),
    }
    connection.execute(statement(_TUNE, collection), parameters)
