"""A query over Pinecone's wire against the same search over our own, and what many matches cost.

    .venv/bin/python -m benchmarks.pinecone_query

Both go through the real handler, in turn in one process, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.search_request import event, measure
from benchmarks.stack import clustered, stack

TOP_KS = (10, 100, 1_000, 10_000)
QUERIES = 100


def caller(handler: Callable[..., Any], path: str, key: str, bodies: list[dict[str, Any]]) -> Callable[[int], Any]:
    """Calls the handler with one body after the other; gives back the answer's body."""
    events = [event(path, key, body) for body in bodies]
    context = SimpleNamespace(aws_request_id="bench", get_remaining_time_in_millis=lambda: 29_000)

    def call(turn: int) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            answer = handler(events[turn % len(events)], context)
        assert answer["statusCode"] == 200, answer
        return answer["body"]

    return call


def prepare(numbers: list[array[float]], dimension: int) -> str:
    """A collection of these vectors with an index, in a project of its own; the secret of a key for it."""
    from vecmeter.ledger.model import Policy
    from vecmeter.runtime import runtime
    from vecmeter.vectors.model import IndexDefinition, Metric, Vector

    process = runtime()
    process.projects.create(project_id="bench", user_id="bench", name=None)
    policy = Policy(daily_requests=10**9, monthly_requests=10**9)
    key = process.keys.create(user_id="bench", project_id="bench", roles=("search",), policy=policy)
    collection = process.collections.create(
        "bench", "bench", dimension=dimension, metric=Metric.COSINE, index=IndexDefinition(), embedder=None
    )
    for start in range(0, len(numbers), 1000):
        batch = enumerate(numbers[start : start + 1000], start)
        process.records.upsert(collection, [Vector(id=str(i), numbers=n, metadata={"i": i}) for i, n in batch])
    process.maintenance.build_indexes([collection])
    process.collections.use("bench", "bench", lambda c: c, fresh=True)
    return key.secret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    with stack():
        from search_function.handler import handler

        # Queries are like what is stored, and not among it.
        numbers = clustered(options.vectors + QUERIES, options.dimension)
        queries, stored = numbers[:QUERIES], numbers[QUERIES:]
        secret = prepare(stored, options.dimension)
        compare(handler, secret, queries, options.rounds)
        print(
            f"\n{options.vectors} x {options.dimension}: matches wanted, found, recall; ms, median of 20; answer in KB"
        )
        for top_k in TOP_KS:
            many(handler, secret, queries[:20], top_k)


def compare(handler: Callable[..., Any], secret: str, queries: list[array[float]], rounds: int) -> None:
    native = [{"vector": list(query), "include": ["metadata"]} for query in queries]
    wired = [{"vector": list(query), "topK": 10, "includeMetadata": True} for query in queries]
    ours = caller(handler, "/v1/projects/bench/collections/bench/search", secret, native)
    theirs = caller(handler, "/indexes/bench/query", secret, wired)
    for turn in range(QUERIES):
        found = [[match["id"] for match in json.loads(call(turn))["matches"]] for call in (ours, theirs)]
        assert found[0] == found[1], "both find the same"
    wall_ours, wall_theirs, cpu_ours, cpu_theirs = measure(ours, theirs, rounds)
    print(f"top_k 10, HNSW, {rounds} rounds in turn, ms\n{'':16}{'p50':>8}{'p95':>8}{'CPU mean':>10}")
    for name, wall, cpu in (("native search", wall_ours, cpu_ours), ("Pinecone query", wall_theirs, cpu_theirs)):
        p50, p95 = statistics.median(wall), statistics.quantiles(wall, n=20)[18]
        print(f"{name:16}{p50:8.2f}{p95:8.2f}{statistics.mean(cpu):10.2f}")
    for what, first, second in (("whole request", wall_ours, wall_theirs), ("CPU", cpu_ours, cpu_theirs)):
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        print(f"ratio, median pair by pair, {what}: {statistics.median(ratios):.3f}")


def many(handler: Callable[..., Any], secret: str, queries: list[array[float]], top_k: int) -> None:
    bodies = [{"vector": list(query), "topK": top_k, "includeMetadata": True} for query in queries]
    call = caller(handler, "/indexes/bench/query", secret, bodies)
    exact = [{"vector": list(query), "top_k": min(top_k, 1000), "exact": True, "include": []} for query in queries]
    truth = caller(handler, "/v1/projects/bench/collections/bench/search", secret, exact)
    recalls, sizes, times, counts = [], [], [], []
    for turn in range(len(queries)):
        started = time.perf_counter()
        body = call(turn)
        times.append((time.perf_counter() - started) * 1000)
        found = [match["id"] for match in json.loads(body)["matches"]]
        right = {match["id"] for match in json.loads(truth(turn))["matches"]}
        recalls.append(len(right & set(found[: len(right)])) / len(right))
        sizes.append(len(body) / 1024)
        counts.append(len(found))
    print(
        f"{top_k:8}{min(counts):8}{statistics.mean(recalls):9.3f}"
        f"{statistics.median(times):9.1f}{statistics.mean(sizes):9.0f}"
    )


if __name__ == "__main__":
    main()
