"""Collections for a measurement: made, filled and indexed in this process, without HTTP and ledger."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.datasets import Dataset, Matrix
from vecmeter.runtime import Runtime
from vecmeter.vectors.definitions import DEFAULTS, Options
from vecmeter.vectors.model import Collection, IndexDefinition, IndexType, Metric, Query, Vector
from vecmeter.vectors.turns import Orders

PROJECT = "bench"
_BATCH = 1000


def create(
    runtime: Runtime, name: str, dataset: Dataset, index: IndexDefinition, options: Options = DEFAULTS
) -> Collection:
    return runtime.collections.create(
        PROJECT,
        name,
        dimension=dataset.dimension,
        metric=Metric(dataset.metric),
        index=index,
        embedder=None,
        options=options,
    )


def fill(
    runtime: Runtime,
    collection: Collection,
    vectors: Matrix,
    namespace_of: Callable[[int], str] = lambda number: "",
    metadata_of: Callable[[int], dict[str, Any]] = lambda number: {},
) -> None:
    """Write the vectors, numbered from 0, and have maintenance do what it would do."""
    for start in range(0, len(vectors), _BATCH):
        batch = [
            Vector(id=str(i), numbers=numbers(v), namespace=namespace_of(i), metadata=metadata_of(i))
            for i, v in enumerate(vectors[start : start + _BATCH], start)
        ]
        runtime.records.upsert(collection, batch)
    if collection.index.type is not IndexType.NONE:
        build_indexes(runtime, [current(runtime, collection)])
    runtime.maintenance.vacuum_analyze([current(runtime, collection)], Orders(force=True))


def build_indexes(runtime: Runtime, collections: Sequence[Collection]) -> None:
    """Until there is nothing to build: a set that was written to lately is put off, or the server is at it already."""
    waiting = True
    while waiting:
        time.sleep(0.2)
        figures = runtime.maintenance.build_indexes(collections)["collections"]
        assert not any(figure.get("error") for figure in figures), figures
        waiting = any(figure["action"] == "put off" or figure.get("reason") == "busy" for figure in figures)


def current(runtime: Runtime, collection: Collection) -> Collection:
    """The definition with the indexes there are now."""
    return runtime.collections.use(collection.project_id, collection.name, lambda found: found, fresh=True)


def numbers(vector: Any) -> array[float]:
    return array("f", vector.tobytes())


@dataclass(slots=True)
class Searches:
    """What some searches found, how long each took, and by which plans."""

    found: list[list[int]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    plans: dict[str, int] = field(default_factory=dict)

    def run(self, runtime: Runtime, collection: Collection, query: Query) -> None:
        started = time.perf_counter()
        result = runtime.searcher.search(collection, query)
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        self.found.append([int(match.id) for match in result.matches])
        self.plans[result.plan] = self.plans.get(result.plan, 0) + 1

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.milliseconds, percent))

    def rows(self) -> int:
        """The fewest rows that one of them returned."""
        return min(len(ids) for ids in self.found)

    def plan(self) -> str:
        """The plans taken, the most frequent first."""
        by_count = sorted(self.plans, key=lambda plan: -self.plans[plan])
        return ", ".join(plan if len(by_count) == 1 else f"{plan} {self.plans[plan]}" for plan in by_count)


def table(*names: str) -> str:
    """The head of a Markdown table."""
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def row(*values: object) -> str:
    return f"| {' | '.join(str(value) for value in values)} |"


def interleaved(runtime: Runtime, work: Sequence[tuple[Searches, Collection, Query]]) -> None:
    """One search of each, in turn: a slow moment of the machine meets all of them."""
    for searches, collection, query in work:
        searches.run(runtime, collection, query)
