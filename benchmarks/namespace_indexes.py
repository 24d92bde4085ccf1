"""What an index of a namespace alone gives its searches, and what many of them cost everybody else.

    .venv/bin/python -m benchmarks.namespace_indexes [--vectors 20000] [--namespaces 8]

Times are medians of statements of one connection through the store's own objects, planning included. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.stack import clustered, stack
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.index_builds import IndexBuilds
from vecmeter.vectors.index_policy import Thresholds
from vecmeter.vectors.maintenance import Maintenance
from vecmeter.vectors.model import Collection, IndexDefinition, Metric, Query, Vector
from vecmeter.vectors.probing import Prober
from vecmeter.vectors.records import Records
from vecmeter.vectors.reindex import ReindexThresholds
from vecmeter.vectors.search import Searcher
from vecmeter.vectors.turns import Orders, Turns
from vecmeter.vectors.vacuum import VacuumThresholds

DIMENSION = 64
SEARCHES = 200
BATCH = 500


def median_ms(work: Callable[[int], object], times: int) -> float:
    taken = []
    for turn in range(times):
        start = time.perf_counter()
        work(turn)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


class Subject:
    """A collection whose namespaces are all of one size."""

    def __init__(self, dsn: str, vectors: int, namespaces: int) -> None:
        self.dsn = dsn
        self.database = Database(lambda: dsn)
        self.collections, self.records = Collections(self.database), Records(self.database, 40_960)
        self.searcher = Searcher(self.database, exact_threshold=50)
        self.name = f"namespaces-{namespaces}"
        index = IndexDefinition(ef_construction=64)
        made = self.collections.create(
            "bench", self.name, dimension=DIMENSION, metric=Metric.COSINE, index=index, embedder=None
        )
        rows = clustered(vectors, DIMENSION)
        for start in range(0, vectors, 1000):
            batch = range(start, min(start + 1000, vectors))
            self.records.upsert(
                made, [Vector(id=f"v{at}", numbers=rows[at], namespace=f"n{at % namespaces}") for at in batch]
            )
        self.queries = clustered(SEARCHES, DIMENSION, seed=3)

    def indexed(self, most_namespaces: int) -> Collection:
        """With indexes of so many namespaces alone, the first ones by name."""
        self.maintenance(most_namespaces).build_indexes(self.collections.list_all())
        return Collections(self.database).get("bench", self.name)

    def maintenance(self, most_namespaces: int = 0) -> Maintenance:
        thresholds = Thresholds(collection=1, namespace=50, most_namespaces=most_namespaces)
        builds = IndexBuilds(
            thresholds=thresholds, most_memory=2**29, measure=lambda collection, namespace: 1.0, look_seconds=0.0
        )
        return Maintenance(
            Turns(lambda: self.dsn),
            self.collections,
            builds,
            Prober(self.searcher),
            to_vacuum=VacuumThresholds(),
            to_reindex=ReindexThresholds(),
        )

    def search_ms(self, collection: Collection, namespace: str) -> float:
        def search(turn: int) -> object:
            return self.searcher.search(collection, Query(numbers=self.queries[turn], namespace=namespace))

        search(0)
        return median_ms(search, SEARCHES)

    def insert_ms(self, collection: Collection, namespace: str, seed: int) -> float:
        rows = clustered(5 * BATCH, DIMENSION, seed=seed)

        def insert(turn: int) -> object:
            batch = rows[turn * BATCH : (turn + 1) * BATCH]
            return self.records.upsert(
                collection,
                [Vector(id=f"{seed}-{turn}-{at}", numbers=row, namespace=namespace) for at, row in enumerate(batch)],
            )

        taken = median_ms(insert, 5)
        ids = [f"{seed}-{turn}-{at}" for turn in range(5) for at in range(BATCH)]
        self.records.delete_ids(collection, namespace, ids, dry_run=False)
        self.maintenance().vacuum_analyze([collection], Orders(force=True))  # or the graphs keep them
        return taken


def lines(dsn: str, vectors: int, namespaces: int) -> Iterator[str]:
    subject = Subject(dsn, vectors, namespaces)
    yield f"{vectors} vectors of {DIMENSION} dimensions in {namespaces} namespaces of one size\n"
    yield "| namespaces with an index | search with its own, ms | without, ms | insert of 500 with, ms | without, ms |"
    yield "|---|---|---|---|---|"
    having, lacking = "n0", f"n{namespaces - 1}"
    for number, count in enumerate((0, namespaces // 2, namespaces - 1)):
        collection = subject.indexed(count)
        with_own = f"{subject.search_ms(collection, having):.2f}" if count else ""
        without = subject.search_ms(collection, lacking)
        insert = f"{subject.insert_ms(collection, having, 10 + number):.0f}" if count else ""
        other = subject.insert_ms(collection, "x", 20 + number)
        yield f"| {count} | {with_own} | {without:.2f} | {insert} | {other:.0f} |"
    subject.database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--namespaces", type=int, default=8)
    options = parser.parse_args()
    with stack() as dsn:
        for line in lines(dsn, options.vectors, options.namespaces):
            print(line, flush=True)


if __name__ == "__main__":
    main()
