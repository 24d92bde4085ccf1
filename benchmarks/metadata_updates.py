"""Changes of metadata with and without an HNSW index, which must make no difference; and with both in one table.

    .venv/bin/python -m benchmarks.metadata_updates --vectors 20000

Metadata is changed by id (one at a time), by a batch of the same vectors with other metadata, and by filter. ``one
table`` is what a plain table of vectors with metadata does under the same index: a thousand rows by one UPDATE.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from benchmarks.stack import clustered, stack
from vecmeter.vectors.packing import configure, pack_vectors

ONE_TABLE = """
    CREATE TABLE {name} (id text PRIMARY KEY, metadata jsonb NOT NULL, embedding vector({dimension}) NOT NULL);
    CREATE INDEX ON {name} USING gin (metadata jsonb_path_ops) WITH (fastupdate = off)
"""
FILL = "INSERT INTO {name} SELECT id, '{{}}', embedding FROM unnest(%s::text[], %b::vector[]) AS input (id, embedding)"
INDEX = (
    "CREATE INDEX ON {name} USING hnsw ((l2_normalize(embedding)::halfvec({dimension})) halfvec_cosine_ops) "
    "WITH (m = 16, ef_construction = 128)"
)
CHANGE = "UPDATE {name} SET metadata = metadata || %s::jsonb WHERE id = ANY(%s)"
Way = Callable[[int], int]


def ways_of(records: Any, collection: Any, numbers: Sequence[array[float]]) -> dict[str, Way]:
    """Each changes some vectors and returns how many."""
    from vecmeter.vectors.model import Patch, Vector

    def one(turn: int) -> int:
        for position in range(100):
            records.patch(collection, "", f"v{(turn * 100 + position) % len(numbers)}", Patch(set={"turn": turn}))
        return 100

    def batch(turn: int) -> int:
        start = turn * 1000 % len(numbers)
        chosen = list(enumerate(numbers))[start : start + 1000]
        metadata = lambda i: {"part": i // 1000, "again": turn}  # noqa: E731
        return len(records.upsert(collection, [Vector(id=f"v{i}", numbers=n, metadata=metadata(i)) for i, n in chosen]))

    def by_filter(turn: int) -> int:
        part = turn % (len(numbers) // 1000)
        return int(records.update_matching(collection, "", {"part": part}, Patch(set={"turn": turn})))

    return {"PATCH of one": one, "batch of 1,000": batch, "update of 1,000 by filter": by_filter}


def one_table(dsn: str, numbers: Sequence[array[float]], dimension: int, oid: int, indexed: bool) -> Way:
    """Changes a thousand rows of a plain table."""
    connection = psycopg.connect(dsn, autocommit=True)
    configure(connection)
    filled = {"name": "plain_indexed" if indexed else "plain", "dimension": dimension}
    connection.execute(ONE_TABLE.format(**filled).encode())
    connection.execute(
        FILL.format(**filled).encode(), [[f"v{i}" for i in range(len(numbers))], pack_vectors(numbers, oid)]
    )
    if indexed:
        connection.execute(INDEX.format(**filled).encode())

    def run(turn: int) -> int:
        start = turn * 1000 % len(numbers)
        ids = [f"v{position}" for position in range(start, start + 1000)]
        return connection.execute(CHANGE.format(**filled).encode(), [f'{{"turn": {turn}}}', ids]).rowcount

    return run


def filled(process: Any, numbers: Sequence[array[float]], dimension: int, indexed: bool) -> Any:
    from vecmeter.vectors.model import IndexDefinition, IndexType, Metric, Vector

    index = IndexDefinition(type=IndexType.HNSW if indexed else IndexType.NONE)
    collection = process.collections.create(
        "bench", f"c{indexed}", dimension=dimension, metric=Metric.COSINE, index=index, embedder=None
    )
    for start in range(0, len(numbers), 1000):
        chosen = enumerate(numbers[start : start + 1000], start)
        vectors = [Vector(id=f"v{i}", numbers=n, metadata={"part": i // 1000}) for i, n in chosen]
        process.records.upsert(collection, vectors)
    built = process.maintenance.build_indexes([collection])["collections"][0]["action"]
    assert built == ("built" if indexed else "none"), built
    return collection


def measure(ways: dict[str, tuple[Way, Way]], turns: int) -> dict[str, tuple[float, float]]:
    """Vectors changed a second without and with an index, medians; all take turns, for the machine's slow moments."""
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for turn in range(turns):
        for name, both in ways.items():
            for way, found in zip(both, rates[name], strict=True):
                started = time.perf_counter()
                changed = way(turn)
                found.append(changed / (time.perf_counter() - started))
    return {name: (statistics.median(first), statistics.median(second)) for name, (first, second) in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with stack() as dsn:
        from vecmeter.runtime import runtime

        process, dimension = runtime(), options.dimension
        numbers = clustered(options.vectors, dimension)
        collections = [filled(process, numbers, dimension, indexed) for indexed in (False, True)]
        plain, indexed = [ways_of(process.records, collection, numbers) for collection in collections]
        ways = {name: (plain[name], indexed[name]) for name in plain}
        oid = collections[0].vector_oid
        without, with_index = [one_table(dsn, numbers, dimension, oid, indexed) for indexed in (False, True)]
        ways["one table, 1,000 rows"] = (without, with_index)
        rates = measure(ways, options.turns)
    print(f"{options.vectors} x {options.dimension}, changes a second")
    print(f"{'':28}{'no HNSW':>10}{'HNSW':>10}{'ratio':>8}")
    for name, (first, second) in rates.items():
        print(f"{name:28}{first:10.0f}{second:10.0f}{first / second:8.2f}")


if __name__ == "__main__":
    main()
