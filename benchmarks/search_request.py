"""A warm search through the real handler, against the same SQL and ledger writes by the leanest client.

    make bench            or    .venv/bin/python -m benchmarks.search_request

Both run in this process, in turn, so that a slow moment of the machine meets both; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg

from benchmarks.lean_client import LeanDynamoDb
from benchmarks.stack import TABLE, clustered, stack
from vecmeter.vectors.packing import configure, pack_vector

# What the handler sends for a search by vector whose plan is the index, with this collection's tables filled in.
SEARCH = """
    SELECT r.id, hits.distance, r.metadata, r.document
    FROM (
        SELECT v.record_id, v.embedding <=> %(numbers)b::vector({dimension}) AS distance
        FROM vecmeter.vectors_{id} v WHERE v.namespace = ''
        ORDER BY (l2_normalize(v.embedding)::halfvec({dimension}))
            <=> (l2_normalize(%(numbers)b::vector({dimension}))::halfvec({dimension}))
        LIMIT 10
    ) hits
    JOIN vecmeter.records_{id} r USING (record_id)
    ORDER BY hits.distance, r.id
"""


def event(path: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    """An API Gateway HTTP API event, payload format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"authorization": f"Bearer {key}", "content-type": "application/json", "host": "bench"},
        "requestContext": {
            "http": {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "-"},
            "stage": "$default",
            "requestId": "bench",
        },
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def lean_request(dsn: str, key_item: str, search: bytes) -> Callable[[array[float]], Any]:
    """The same work by the leanest client: admit, search, then settle and record side by side."""
    dynamodb = LeanDynamoDb(os.environ["AWS_ENDPOINT_URL_DYNAMODB"], "bench", "bench")
    connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=5)
    configure(connection)
    executor = ThreadPoolExecutor(1)
    key = {"pk": {"S": key_item}, "sk": {"S": "K"}}
    count = iter(range(10**9))

    def run(numbers: array[float]) -> Any:
        hold = f"hlean{next(count):011d}"
        names = {"#v": "v", "#hold": hold, "#n": "n", "#d": "d261121", "#M": "M2611", "#c": "c261121", "#C": "C2611"}
        one, cost = {"N": "1"}, {"N": "5"}
        dynamodb.call(
            "UpdateItem",
            {
                "TableName": TABLE,
                "Key": key,
                "UpdateExpression": "SET #hold = :hold ADD #n :one, #d :one, #M :one, #c :cost, #C :cost",
                "ConditionExpression": "#v = :v AND attribute_not_exists(#hold) AND "
                "(attribute_not_exists(#d) OR #d <= :room) AND (attribute_not_exists(#M) OR #M <= :room)",
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": {
                    ":v": one,
                    ":hold": {"S": "1795248000000|1795247940000|search|0|5"},
                    ":one": one,
                    ":cost": cost,
                    ":room": {"N": "999999999"},
                },
                "ReturnValues": "ALL_NEW",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            },
        )
        rows = connection.execute(search, {"numbers": pack_vector(numbers)}).fetchall()
        record = executor.submit(
            dynamodb.call,
            "PutItem",
            {
                "TableName": TABLE,
                "Item": {
                    "pk": {"S": f"R#{key_item}"},
                    "sk": {"S": f"{time.time_ns() // 1_000_000}#{hold}"},
                    "u": {"S": "bench"},
                    "op": {"S": "search"},
                    "st": {"S": "success"},
                    "n": one,
                    "us": cost,
                    "ms": {"N": "1.5"},
                },
            },
        )
        dynamodb.call(
            "UpdateItem",
            {
                "TableName": TABLE,
                "Key": key,
                "UpdateExpression": "REMOVE #hold ADD #n :minus",
                "ConditionExpression": "attribute_exists(#hold)",
                "ExpressionAttributeNames": {"#hold": hold, "#n": "n"},
                "ExpressionAttributeValues": {":minus": {"N": "-1"}},
                "ReturnValues": "ALL_NEW",
            },
        )
        record.result()
        return rows

    return run


def measure(first: Callable[[int], Any], second: Callable[[int], Any], rounds: int) -> tuple[list[float], ...]:
    """Wall and CPU milliseconds of each, taken in turn: (wall 1, wall 2, cpu 1, cpu 2)."""
    figures: tuple[list[float], ...] = ([], [], [], [])
    for turn in range(rounds):
        for index, work in enumerate((first, second)):
            wall, cpu = time.perf_counter(), time.process_time()
            work(turn)
            figures[index].append((time.perf_counter() - wall) * 1000)
            figures[2 + index].append((time.process_time() - cpu) * 1000)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1500)
    options = parser.parse_args()
    with stack() as dsn:
        from search_function.handler import handler
        from vecmeter.ledger.model import Policy
        from vecmeter.runtime import runtime
        from vecmeter.vectors.model import IndexDefinition, Metric, Vector

        process = runtime()
        process.projects.create(project_id="bench", user_id="bench", name=None)
        policy = Policy(daily_requests=10**9, monthly_requests=10**9)
        keys = [
            process.keys.create(user_id="bench", project_id="bench", roles=("search",), policy=policy) for _ in range(2)
        ]
        collection = process.collections.create(
            "bench", "bench", dimension=options.dimension, metric=Metric.COSINE, index=IndexDefinition(), embedder=None
        )
        numbers = clustered(options.vectors, options.dimension)
        for start in range(0, len(numbers), 1000):
            batch = enumerate(numbers[start : start + 1000], start)
            process.records.upsert(collection, [Vector(id=str(i), numbers=n, metadata={"i": i}) for i, n in batch])
        process.maintenance.build_indexes([collection])
        queries = clustered(200, options.dimension, seed=2)
        collection = process.collections.use("bench", "bench", lambda c: c, fresh=True)
        search = SEARCH.format(id=collection.collection_id, dimension=options.dimension).encode()
        lean = lean_request(dsn, f"K#{keys[1].key.api_key_id}", search)
        events = [
            event("/v1/projects/bench/collections/bench/search", keys[0].secret, {"vector": list(q)}) for q in queries
        ]
        context = SimpleNamespace(aws_request_id="bench", get_remaining_time_in_millis=lambda: 29_000)

        def ours(turn: int) -> Any:
            with contextlib.redirect_stdout(io.StringIO()):
                answer = handler(events[turn % 200], context)
            assert answer["statusCode"] == 200, answer
            return answer

        def theirs(turn: int) -> Any:
            rows = lean(queries[turn % 200])
            assert len(rows) == 10
            return rows

        measure(ours, theirs, 100)
        wall_ours, wall_theirs, cpu_ours, cpu_theirs = measure(ours, theirs, options.rounds)
    print(f"{options.vectors} x {options.dimension}, top_k 10, HNSW, {options.rounds} rounds in turn, ms")
    print(f"{'':24}{'p50':>8}{'p95':>8}{'CPU mean':>10}")
    for name, wall, cpu in (("handler", wall_ours, cpu_ours), ("leanest client", wall_theirs, cpu_theirs)):
        p50, p95 = statistics.median(wall), statistics.quantiles(wall, n=20)[18]
        print(f"{name:24}{p50:8.2f}{p95:8.2f}{statistics.mean(cpu):10.2f}")
    ratios = [ours / theirs for ours, theirs in zip(wall_ours, wall_theirs, strict=True)]
    print(f"ratio of the whole request, median pair by pair: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
