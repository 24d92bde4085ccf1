"""Filters that let 50 % to 0.01 % of a collection through, and namespaces from 10 to 100,000 vectors.

    .venv/bin/python -m benchmarks.filtered_search --vectors 100000
    .venv/bin/python -m benchmarks.filtered_search --vectors 200000 --what namespaces

Each search takes turns with the same search over everything (no filter, or all of a large namespace) and with the
exact scan of what passes. The search alone, without HTTP and ledger, which add the same to each. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import datasets, in_process
from benchmarks.datasets import Dataset, Matrix, Truth
from benchmarks.in_process import Searches, row, table
from benchmarks.stack import stack
from vecmeter.runtime import Runtime, runtime
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import Collection, FieldType, FilterableField, IndexDefinition, Query, Storage
from vecmeter.vectors.packing import configure, pack_vector
from vecmeter.vectors.tables import indexed_expression, statement

TOP_K = 10
PERCENT = (50, 10, 1, 0.1, 0.01)
NAMESPACE_SIZES = (10, 100, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
_EVERYTHING: dict[str, Any] = {}
_PLAIN: LiteralString = """
    SELECT r.id FROM (
        SELECT v.record_id FROM {vectors} v WHERE v.namespace = %(namespace)s
        ORDER BY [column] {operator} [query] LIMIT 10
    ) hits JOIN {records} r USING (record_id)
"""
_HEAD = ("recall@10", "fewest rows", "p50 ms", "p95 ms", "unfiltered p95", "exact p95", "p95 to the lesser", "plan")


@dataclass(frozen=True, slots=True)
class Case:
    """Searches among ``members``, chosen by namespace and filter."""

    title: str
    members: NDArray[np.int64]
    queries: Matrix
    chosen_by: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    datasets.add_options(parser, dataset="docstrings", vectors=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--what", nargs="+", choices=("filters", "namespaces"), default=["filters", "namespaces"])
    options = parser.parse_args()
    dataset = datasets.load(options.dataset, options.vectors, options.cache)
    with stack(roomy=True) as dsn:
        process = runtime()
        if "filters" in options.what:
            _measure_filters(process, dataset, options.queries)
        if "namespaces" in options.what:
            _measure_namespaces(process, dataset, options.queries, dsn)


def _measure_filters(process: Runtime, dataset: Dataset, count: int) -> None:
    groups = _Groups(dataset)
    declared = Options(filterable=(FilterableField("place", FieldType.NUMBER),))
    collection = in_process.create(process, "filters", dataset, IndexDefinition(), options=declared)
    in_process.fill(process, collection, dataset.vectors, metadata_of=groups.metadata_of)
    collection = in_process.current(process, collection)
    print(f"### Filters: {dataset.title}, {count} queries each\n")
    print(table("what passes", *_HEAD))
    for case in groups.cases(count):
        _measure(process, collection, dataset, case, _EVERYTHING)
    print()


class _PlainSql:
    """What WHERE, ORDER BY and LIMIT give by themselves: the planner's choice of plan, and pgvector's defaults."""

    def __init__(self, dsn: str, collection: Collection) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        configure(self._connection)
        self._connection.execute("SELECT set_config('hnsw.iterative_scan', 'off', false)")
        self._connection.execute("SELECT set_config('hnsw.ef_search', '40', false)")
        text = _PLAIN.replace("[column]", indexed_expression(collection.metric, Storage.HALF, "v.embedding"))
        given = indexed_expression(collection.metric, Storage.HALF, "%(numbers)b::vector({dimension})")
        self._text = statement(text.replace("[query]", given), collection)

    def figures(self, case: Case, truth: Truth) -> list[str]:
        found, milliseconds = [], []
        for vector in case.queries:
            parameters = {"numbers": pack_vector(in_process.numbers(vector)), **case.chosen_by}
            started = time.perf_counter()
            rows = self._connection.execute(self._text, parameters).fetchall()
            milliseconds.append((time.perf_counter() - started) * 1000)
            found.append([int(id) for (id,) in rows])
        fewest = min(len(ids) for ids in found)
        return [f"{truth.recall(found):.3f}", f"{fewest} of {truth.wanted}", f"{np.percentile(milliseconds, 95):.2f}"]


def _measure_namespaces(process: Runtime, dataset: Dataset, count: int, dsn: str) -> None:
    sizes = [size for size in NAMESPACE_SIZES if size <= len(dataset.vectors) // 2]
    # Vectors are in no order, so a namespace is a fair sample of all: the hardest case for one shared index.
    ends = np.cumsum(sizes, dtype=np.int64)
    names = [*(str(size) for size in sizes), "the rest"]
    collection = in_process.create(process, "namespaces", dataset, IndexDefinition())
    by_number = np.searchsorted(ends, np.arange(len(dataset.vectors)), side="right")
    in_process.fill(process, collection, dataset.vectors, namespace_of=lambda number: names[by_number[number]])
    collection = in_process.current(process, collection)
    print(f"### Namespaces: {dataset.title}, {count} queries each\n")
    print(table("vectors in the namespace", *_HEAD, *(f"plain SQL: {name}" for name in ("recall", "rows", "p95"))))
    plain = _PlainSql(dsn, collection)
    for size, end in zip(sizes, ends, strict=True):
        members = np.arange(end - size, end, dtype=np.int64)
        case = Case(f"{size:,}", members, dataset.queries[:count], {"namespace": str(size)})
        _measure(process, collection, dataset, case, {"namespace": names[-2]}, plain)
    print()


class _Groups:
    """Members of each filter: drawn by lot, or the nearest to one vector."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        total = len(dataset.vectors)
        self._place = np.random.default_rng(1).permutation(total)
        anchor = dataset.queries[0]
        self._nearness = _distances(dataset, dataset.vectors, anchor).argsort().argsort()
        self._queries_by_nearness = _distances(dataset, dataset.queries, anchor).argsort()
        self._sizes = {percent: round(total * percent / 100) for percent in PERCENT}

    def metadata_of(self, number: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {"place": int(self._place[number])}
        for percent, size in self._sizes.items():
            if self._place[number] < size:
                metadata[f"any {percent}"] = True
            if self._nearness[number] < size:
                metadata[f"near {percent}"] = True
        return metadata

    def cases(self, count: int) -> Iterator[Case]:
        anywhere = self._dataset.queries[:count]
        near = self._dataset.queries[self._queries_by_nearness[:count]]
        far = self._dataset.queries[self._queries_by_nearness[-count:]]
        for percent, size in self._sizes.items():
            drawn, close = (np.flatnonzero(order < size) for order in (self._place, self._nearness))
            equal = {"filter": {f"any {percent}": True}}
            yield Case(f"{percent} %, by lot", drawn, anywhere, equal)
            yield Case(f"{percent} %, by lot, a range", drawn, anywhere, {"filter": {"place": {"$lt": size}}})
            equal = {"filter": {f"near {percent}": True}}
            yield Case(f"{percent} %, one region, asked there", close, near, equal)
            yield Case(f"{percent} %, one region, asked far off", close, far, equal)


def _distances(dataset: Dataset, vectors: Matrix, to: Matrix) -> Matrix:
    distances: Matrix = np.linalg.norm(vectors - to, axis=1) if dataset.metric == "l2" else -(vectors @ to)
    return distances


def _measure(
    process: Runtime,
    collection: Collection,
    dataset: Dataset,
    case: Case,
    everything: dict[str, Any],
    plain: _PlainSql | None = None,
) -> None:
    ours, unfiltered, exact = Searches(), Searches(), Searches()
    for turn, vector in enumerate(case.queries):
        asked: dict[str, Any] = {"numbers": in_process.numbers(vector), "top_k": TOP_K, "include_metadata": False}
        work = [
            (ours, collection, Query(**asked, **case.chosen_by)),
            (unfiltered, collection, Query(**asked, **everything)),
        ]
        if turn % 4 == 0:
            work.append((exact, collection, Query(**asked, **case.chosen_by, exact=True)))
        in_process.interleaved(process, work)
    truth = Truth(dataset, case.queries, TOP_K, case.members)
    p95s = [searches.percentile(95) for searches in (ours, unfiltered, exact)]
    figures = [f"{truth.recall(ours.found):.3f}", f"{ours.rows()} of {truth.wanted}", f"{ours.percentile(50):.2f}"]
    figures += [f"{p95:.2f}" for p95 in p95s]
    figures += [f"{p95s[0] / min(p95s[1:]):.2f}", ours.plan()]
    if plain is not None:
        figures += plain.figures(case, truth)
    print(row(case.title, *figures), flush=True)


if __name__ == "__main__":
    main()
