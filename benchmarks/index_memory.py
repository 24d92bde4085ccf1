"""What an HNSW index costs and gives: time and memory to build, bytes, recall and time of a search.

    .venv/bin/python -m benchmarks.index_memory --vectors 50000

One collection; each index is built by the statement maintenance uses, searched by the searcher, and dropped again.
Prints Markdown: by storage, by m and ef_construction, by the memory and the workers of the build.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from benchmarks import datasets, in_process
from benchmarks.datasets import Dataset, Truth
from benchmarks.in_process import Searches, row, table
from benchmarks.stack import stack
from vecmeter.runtime import Runtime, runtime
from vecmeter.vectors.model import Hnsw, IndexDefinition, IndexType, Query, Storage
from vecmeter.vectors.tables import SCHEMA, create_hnsw, hnsw_name, table_names

TOP_K = 10
EFS = (20, 40, 100, 200, 400)
GRID = [(m, ef_construction) for m in (8, 16, 32) for ef_construction in (64, 128, 256)]
BUILDS = (("16MB", 1), ("64MB", 1), ("2GB", 0), ("2GB", 1), ("2GB", 2))
_POLL_SECONDS = 0.02
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Built:
    hnsw: Hnsw
    seconds: float
    bytes: int
    shared_bytes: int


class Bench:
    def __init__(self, process: Runtime, dataset: Dataset, dsn: str, queries: int) -> None:
        index = IndexDefinition(type=IndexType.NONE)
        collection = in_process.create(process, "memory", dataset, index)
        in_process.fill(process, collection, dataset.vectors)
        self.collection = dataclasses.replace(collection, index=IndexDefinition())
        self.count = len(dataset.vectors)
        self._process = process
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._queries = dataset.queries[:queries]
        self._truth = Truth(dataset, self._queries, TOP_K)

    @contextmanager
    def built(
        self, storage: Storage, m: int = 16, ef_construction: int = 128, memory: str = "2GB", workers: int = 1
    ) -> Iterator[Built]:
        """An index for the duration of the block. One worker beside the leader: this machine has two cores."""
        hnsw = Hnsw(index_id=1, namespace=None, storage=storage, m=m, ef_construction=ef_construction)
        name = sql.Identifier(SCHEMA, hnsw_name(self.collection.collection_id, hnsw.index_id))
        run = self._connection.execute
        run("SELECT set_config('maintenance_work_mem', %s, false)", [memory])
        run("SELECT set_config('max_parallel_maintenance_workers', %s, false)", [str(workers)])
        started = time.perf_counter()
        with _most_shared_memory() as most:
            run(create_hnsw(self.collection, hnsw))
        seconds = time.perf_counter() - started
        size = run(sql.SQL("SELECT pg_relation_size({}::regclass)").format(sql.Literal(name.as_string()))).fetchone()
        assert size is not None
        yield Built(hnsw, seconds, size[0], most[0])
        run(sql.SQL("DROP INDEX {}").format(name))

    def search(self, hnsw: Hnsw, efs: Sequence[int]) -> list[str]:
        """Recall and median milliseconds at each ef_search."""
        collection = dataclasses.replace(self.collection, hnsw=(hnsw,))
        searches = [Searches() for _ in efs]
        for vector in self._queries:
            asked = Query(numbers=in_process.numbers(vector), top_k=TOP_K, include_metadata=False)
            work = [
                (one, collection, dataclasses.replace(asked, ef_search=ef))
                for one, ef in zip(searches, efs, strict=True)
            ]
            in_process.interleaved(self._process, work)
        return [f"{self._truth.recall(one.found):.3f} / {one.percentile(50):.2f}" for one in searches]

    def table_bytes(self) -> tuple[int, ...]:
        """Of records and of vectors, without the HNSW index."""
        names = [f"{SCHEMA}.{name}" for name in table_names(self.collection.collection_id)]
        size = self._connection.execute("SELECT pg_total_relation_size(%s), pg_total_relation_size(%s)", names)
        found = size.fetchone()
        assert found is not None
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    datasets.add_options(parser, dataset="docstrings", vectors=50_000)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    dataset = datasets.load(options.dataset, options.vectors, options.cache)
    with stack(roomy=True) as dsn:
        bench = Bench(runtime(), dataset, dsn, options.queries)
        print(f"### {dataset.title}\n")
        _by_storage(bench)
        _by_parameters(bench)
        _by_memory(bench)


def _by_storage(bench: Bench) -> None:
    records, vectors = (size / bench.count for size in bench.table_bytes())
    print(f"MB per million vectors: records {records:,.0f} without metadata, vectors {vectors:,.0f}\n")
    recalls = [f"recall / ms, ef {ef}" for ef in EFS]
    print(table("storage", "build s", "MB per million", "shared memory MB", *recalls))
    for storage in Storage:
        with bench.built(storage) as built:
            sizes = (f"{built.bytes / bench.count:,.0f}", f"{built.shared_bytes / 1e6:,.0f}")
            print(row(storage, f"{built.seconds:.1f}", *sizes, *bench.search(built.hnsw, EFS)), flush=True)
    print()


def _by_parameters(bench: Bench) -> None:
    print(table("m", "ef_construction", "build s", "MB per million", *(f"recall / ms, ef {ef}" for ef in EFS)))
    for m, ef_construction in GRID:
        with bench.built(Storage.HALF, m, ef_construction) as built:
            figures = (f"{built.seconds:.1f}", f"{built.bytes / bench.count:,.0f}", *bench.search(built.hnsw, EFS))
            print(row(m, ef_construction, *figures), flush=True)
    print()


def _by_memory(bench: Bench) -> None:
    print(table("maintenance_work_mem", "workers beside the leader", "build s", "shared memory MB"))
    for memory, workers in BUILDS:
        with bench.built(Storage.HALF, memory=memory, workers=workers) as built:
            print(row(memory, workers, f"{built.seconds:.1f}", f"{built.shared_bytes / 1e6:,.0f}"), flush=True)
    print()


@contextmanager
def _most_shared_memory() -> Iterator[list[int]]:
    """The most that was taken of the machine's shared memory during the block; of everybody, so run nothing beside."""
    most, ended = [0], threading.Event()
    before = _shared_memory_used()

    def look() -> None:
        while not ended.wait(_POLL_SECONDS):
            most[0] = max(most[0], _shared_memory_used() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _shared_memory_used() -> int:
    found = os.statvfs(_SHARED_MEMORY)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


if __name__ == "__main__":
    main()
