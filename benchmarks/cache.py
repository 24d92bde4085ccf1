"""What remembering answers saves: searches found again against searches made, and what keeping account of writes costs.

    .venv/bin/python -m benchmarks.cache [--vectors 100000]

Times are in milliseconds, by one connection through the store's own objects, as the search function uses them; the
searches of a row take turns, and one in ten is faster than the figure: what else runs on the machine is not measured.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.in_process import build_indexes, current
from benchmarks.stack import clustered, stack
from vecmeter.embedding import bedrock
from vecmeter.embedding.query_cache import QueryEmbeddings
from vecmeter.embedding.registry import get_embedder
from vecmeter.ledger.embeddings import EmbeddingStore
from vecmeter.runtime import Runtime, runtime
from vecmeter.vectors import revisions
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import Collection, IndexDefinition, Metric, Mode, Query, Vector
from vecmeter.vectors.result_cache import ResultCache, key_of
from vecmeter.vectors.turns import Orders

DIMENSION = 384
TURNS = 200
WORDS = (
    "invoice", "payment", "overdue", "account", "customer", "letter", "order", "refund", "delivery", "address"
)  # fmt: skip


def times(works: Mapping[str, Callable[[int], object]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS):
        for name, work in works.items():
            start = time.perf_counter()
            work(turn)
            taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.quantiles(each, n=10)[0] for name, each in taken.items()}


def filled(process: Runtime, name: str, vectors: int) -> Collection:
    collection = process.collections.create(
        "bench",
        name,
        dimension=DIMENSION,
        metric=Metric.COSINE,
        index=IndexDefinition(),
        embedder=None,
        options=Options(text_search="english"),
    )
    rows = clustered(vectors, DIMENSION)
    for start in range(0, vectors, 1000):
        batch = [
            Vector(id=f"v{at}", numbers=rows[at], metadata={"kind": at % 20, "n": at}, document=document(at))
            for at in range(start, min(start + 1000, vectors))
        ]
        process.records.upsert(collection, batch)
    build_indexes(process, [collection])
    process.maintenance.vacuum_analyze([current(process, collection)], Orders(force=True))
    return current(process, collection)


def document(number: int) -> str:
    """Forty words, of which each text has its own choice."""
    return " ".join(f"{WORDS[(number * step + step) % len(WORDS)]}{number * step % 50}" for step in range(1, 41))


def kinds(query: array[float]) -> dict[str, Query]:
    plain = Query(numbers=query, stamped=True, include_document=True)
    return {
        "by vector": plain,
        "by vector, filter of 5 %": replace(plain, filter={"kind": 7}),
        "by words": replace(plain, mode=Mode.TEXT, text="overdue6 invoice12 payment3"),
        "both": replace(plain, mode=Mode.HYBRID, text="overdue6 invoice12 payment3"),
        "100 matches with vectors": replace(plain, top_k=100, include_vector=True),
    }


def searches(process: Runtime, collection: Collection, vectors: int) -> Iterator[str]:
    queries = clustered(TURNS, DIMENSION, seed=3)
    cache = ResultCache(process.database, 2**28, 3600.0)
    for kind, query in kinds(queries[0]).items():

        def miss(turn: int, query: Query = query) -> object:
            return process.searcher.search(collection, replace(query, numbers=queries[turn], stamped=False))

        def kept(turn: int, query: Query = query) -> object:
            asked = replace(query, numbers=queries[turn])
            key = key_of(collection, asked)
            assert cache.find(collection, [key]) == [None]
            found = process.searcher.search(collection, asked)
            cache.keep(collection, key, found)
            return found

        def hit(turn: int, query: Query = query) -> object:
            [found] = cache.find(collection, [key_of(collection, replace(query, numbers=queries[turn]))])
            assert found is not None
            return found

        process.searcher.search(collection, query)
        before = cache.size
        found = times({"miss": miss, "kept": kept, "hit": hit})
        size = (cache.size - before) / TURNS
        yield (
            f"| {vectors:,} | {kind} | {found['miss']:.2f} | {found['kept']:.2f} | {found['hit']:.2f} "
            f"| {found['miss'] / found['hit']:.0f} | {size:,.0f} |"
        )


def embeddings(process: Runtime) -> Iterator[str]:
    """A text's vector from memory, from the table (the emulator's answer included), by the built-in model."""
    model = get_embedder("built-in", None, 256)
    store = EmbeddingStore(process.table, 7, process.clock)
    shared, forgetful = QueryEmbeddings(2**24, store), QueryEmbeddings(0, store)

    def texts(turn: int) -> list[str]:
        return [f"when must I pay the invoice {turn}?"]

    def embed(cache: QueryEmbeddings, turn: int) -> Any:
        return cache.embed(bedrock.PROVIDER, "m", 256, texts(turn), lambda: model)

    works = {
        "by the built-in model": lambda turn: model.embed_queries(texts(turn)),
        "by it, looked for in the table before and put there after": lambda turn: embed(shared, turn),
        "in memory": lambda turn: embed(shared, turn),
        "in the table": lambda turn: embed(forgetful, turn),
    }
    for name, taken in times(works).items():
        yield f"| {name} | {taken:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    options = parser.parse_args()
    with stack():
        process = runtime()
        print(
            "| vectors | search | made, ms | made and kept | found again | times faster | bytes kept |\n"
            + "|---" * 7
            + "|"
        )
        for vectors in (200, 2_000, options.vectors):
            collection = filled(process, f"c{vectors}", vectors)
            for line in searches(process, collection, vectors):
                print(line, flush=True)
        check = times({"": lambda turn: process.database.run(lambda c: revisions.check(c, collection))})
        print(
            f"\nThe question whether an answer holds takes {check['']:.3f} ms.\n\n| a query's vector | ms |\n|---|---|"
        )
        for line in embeddings(process):
            print(line, flush=True)
        process.close()


if __name__ == "__main__":
    main()
