"""What each plan of a search costs the database, and what it finds: by filter, namespace and top_k.

    .venv/bin/python -m benchmarks.search_plans --vectors 50000 --dimension 128
    .venv/bin/python -m benchmarks.search_plans --vectors 50000 --namespaces 8 --storage binary

Measures CPU time of the connection's backend, which a busy machine blurs less than the clock (Linux).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.stack import stack
from vecmeter.vectors.model import Collection, IndexDefinition, Metric, Query, Storage, Vector
from vecmeter.vectors.search import Searcher
from vecmeter.vectors.turns import Orders

QUERIES = 60
CLUSTERS = 200
# Namespaces by their part of a thousand; "few clusters" has the vectors of ten of the clusters that are left.
SHARES = {"60 %": 600, "10 %": 100, "5 %": 50, "3 %": 30}
PASSING = {"50 %": 0.5, "10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001, "0.01 %": 0.0001}
CASES: tuple[tuple[str, str, dict[str, Any] | None, int], ...] = (
    *(("no filter", "60 %", None, top_k) for top_k in (10, 100)),
    *(("no filter", name, None, top_k) for name in ("10 %", "5 %", "3 %", "few clusters") for top_k in (10, 100)),
    *((f"{name} pass", "60 %", {"passing": name}, 10) for name in PASSING),
    ("one cluster", "60 %", {"cluster": 7}, 10),
    *((f"{count} of {CLUSTERS} clusters", "60 %", {"cluster": {"$lt": count}}, 10) for count in (10, 50, 100)),
)


@dataclass(frozen=True)
class Data:
    """Vectors around centres, each with the namespace and metadata that cases ask for."""

    rows: npt.NDArray[np.float32]
    namespaces: list[str]
    metadata: list[dict[str, Any]]

    @classmethod
    def make(cls, count: int, dimension: int) -> Data:
        rng = np.random.default_rng(1)
        labels = rng.integers(0, CLUSTERS, count)
        centres = rng.normal(size=(CLUSTERS, dimension))
        rows = (centres[labels] + 0.6 * rng.normal(size=(count, dimension))).astype(np.float32)
        namespaces = [_namespace(position, int(label)) for position, label in enumerate(labels)]
        dice = random.Random(3)
        metadata = [{"passing": _passing(dice.random()), "cluster": int(label)} for label in labels]
        return cls(rows / np.linalg.norm(rows, axis=1, keepdims=True), namespaces, metadata)

    def vectors(self) -> list[Vector]:
        parts = zip(self.rows, self.namespaces, self.metadata, strict=True)
        return [
            Vector(id=str(position), numbers=numbers(row), namespace=namespace, metadata=metadata)
            for position, (row, namespace, metadata) in enumerate(parts)
        ]

    def among(self, namespace: str, filter: dict[str, Any] | None) -> npt.NDArray[np.int64]:
        """The positions in question."""
        return np.array(
            [p for p, m in enumerate(self.metadata) if self.namespaces[p] == namespace and _holds(filter, m)],
            dtype=np.int64,
        )

    def queries(self) -> list[array[float]]:
        rng = np.random.default_rng(5)
        near = self.rows[rng.integers(0, len(self.rows), QUERIES)]
        return [numbers(row) for row in near + 0.03 * rng.normal(size=near.shape)]


def numbers(row: npt.NDArray[Any]) -> array[float]:
    packed = array("f")
    packed.frombytes(row.astype(np.float32).tobytes())
    return packed


def _namespace(position: int, label: int) -> str:
    place = position * 7919 % 1000
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return "few clusters" if label < 10 else "rest"


def _passing(number: float) -> str:
    for name, share in PASSING.items():
        if number < share:
            return name
        number -= share
    return "none"


def _holds(filter: dict[str, Any] | None, metadata: dict[str, Any]) -> bool:
    for field, wanted in (filter or {}).items():
        value = metadata[field]
        if not (value < wanted["$lt"] if isinstance(wanted, dict) else value == wanted):
            return False
    return True


def measure(searcher: Searcher, cpu_ms: Callable[[], float], collection: Collection, data: Data) -> None:
    print("| search | namespace | top_k | in question | p50 | p95 | recall | fewest | exact p50 | plans |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for title, namespace, filter, top_k in CASES:
        among = data.among(namespace, filter)
        spent: tuple[list[float], list[float]] = ([], [])
        recalls, plans, fewest = [], Counter[str](), top_k
        for wanted in data.queries():
            query = Query(numbers=wanted, namespace=namespace, filter=filter, top_k=top_k)
            for times, exact in zip(spent, (False, True), strict=True):
                before = cpu_ms()
                result = searcher.search(collection, replace(query, exact=exact))
                times.append(cpu_ms() - before)
                if not exact:
                    nearest = among[np.argsort(-(data.rows[among] @ np.array(wanted)), kind="stable")[:top_k]]
                    found = {int(match.id) for match in result.matches}
                    recalls.append(len(found & set(nearest.tolist())) / max(1, len(nearest)))
                    plans[result.plan.value + (" (all compared)" if result.candidates is not None else "")] += 1
                    fewest = min(fewest, len(found))
        p50, p95 = statistics.median(spent[0]), statistics.quantiles(spent[0], n=20)[18]
        took = ", ".join(f"{plan}: {times}" for plan, times in plans.most_common())
        figures = (
            f"{p50:.2f} | {p95:.2f} | {statistics.mean(recalls):.3f} | {fewest} | {statistics.median(spent[1]):.2f}"
        )
        print(f"| {title} | {namespace} | {top_k} | {len(among)} | {figures} | {took} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--namespaces", type=int, default=0, help="how many get an index of their own")
    parser.add_argument("--storage", choices=[one.value for one in Storage], default="half")
    options = parser.parse_args()
    data = Data.make(options.vectors, options.dimension)
    with stack():
        os.environ["MAX_NAMESPACE_INDEXES"] = str(options.namespaces)
        from vecmeter.runtime import runtime

        process = runtime()
        collection = process.collections.create(
            "bench",
            "bench",
            dimension=options.dimension,
            metric=Metric.COSINE,
            index=IndexDefinition(storage=Storage(options.storage)),
            embedder=None,
        )
        vectors = data.vectors()
        for start in range(0, len(vectors), 1000):
            process.records.upsert(collection, vectors[start : start + 1000])
        process.maintenance.build_indexes([collection])
        process.maintenance.vacuum_analyze([collection], Orders(force=True))
        collection = process.collections.use("bench", "bench", lambda c: c, fresh=True)
        [pid] = process.database.run(lambda c: c.execute("SELECT pg_backend_pid()").fetchone()) or [0]
        schedule = Path(f"/proc/{pid}/schedstat")
        measure(process.searcher, lambda: int(schedule.read_text().split()[0]) / 1e6, collection, data)
        process.close()


if __name__ == "__main__":
    main()
