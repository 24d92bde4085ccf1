"""What limits on the stock and an Idempotency-Key cost a write: the same batches with and without, in turn.

    .venv/bin/python -m benchmarks.stock_limits --writers 1 4

Straight on the vector store, so that HTTP and the ledger do not hide it. Writers are threads with a connection each;
they write to one collection without an index, vectors of 64 dimensions with some metadata, half of them new.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from array import array
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

from benchmarks.stack import stack

DIMENSION = 64
LIMITS = {"max_vectors": 10**12, "max_storage_bytes": 10**15}
_numbers = count()


def batch_of(size: int) -> list[Any]:
    from vecmeter.vectors.model import Vector

    return [
        Vector(
            id=f"v{next(_numbers) if position % 2 else random.randrange(20_000)}",
            numbers=array("f", [random.random() for _ in range(DIMENSION)]),
            metadata={"kind": "benchmark", "position": position},
        )
        for position in range(size)
    ]


def variants() -> dict[str, Callable[[], Any]]:
    from vecmeter.vectors.once import KeptAnswer, Once
    from vecmeter.vectors.terms import FREE, Terms

    def once() -> Once:
        answer = KeptAnswer(200, b"x" * 200)
        return Once(
            api_key_id="key",
            key=str(next(_numbers)),
            fingerprint=b"x" * 32,
            keep_for=timedelta(hours=1),
            render=lambda _: answer,
        )

    return {
        "no limits": lambda: FREE,
        "limits of the project": lambda: Terms(limits=LIMITS),
        "Idempotency-Key": lambda: Terms(once=once()),
        "both": lambda: Terms(limits=LIMITS, once=once()),
    }


def measure(dsn: str, writers: int, size: int, seconds: float, rounds: int) -> None:
    from vecmeter.vectors.collections import Collections
    from vecmeter.vectors.connection import Database
    from vecmeter.vectors.model import IndexDefinition, IndexType, Metric
    from vecmeter.vectors.records import Records

    database = Database(lambda: dsn, size=writers)
    collections = Collections(database)
    index = IndexDefinition(type=IndexType.NONE)
    name = f"c{writers}x{size}"
    definition: Any = {"dimension": DIMENSION, "metric": Metric.COSINE, "index": index, "embedder": None}
    collection = collections.create("bench", name, **definition)
    records = Records(database, 40_960)
    records.upsert(collection, batch_of(1000))
    batches = [batch_of(size) for _ in range(200)]
    done: dict[str, list[float]] = {variant: [] for variant in variants()}

    def write(terms: Callable[[], Any], end: float, counts: list[int]) -> None:
        written = 0
        while time.monotonic() < end:
            records.upsert(collection, random.choice(batches), terms())
            written += 1
        counts.append(written)

    for _ in range(rounds):
        for variant, terms in variants().items():
            counts: list[int] = []
            end = time.monotonic() + seconds
            threads = [threading.Thread(target=write, args=(terms, end, counts)) for _ in range(writers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            done[variant].append(sum(counts) / seconds)
    least = statistics.median(done["no limits"])
    for variant, rates in done.items():
        rate = statistics.median(rates)
        print(f"{writers:7}{size:7}  {variant:24}{rate:10.0f}{rate / least:8.2f}")
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stack():
        print(f"{'writers':>7}{'batch':>7}  {'':24}{'writes/s':>10}{'ratio':>8}")
        for writers in options.writers:
            for size in options.sizes:
                measure(os.environ["DATABASE_URL"], writers, size, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
