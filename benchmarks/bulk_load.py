"""Batches of vectors through the API against binary COPY of the same into one plain table with the same indexes.

    .venv/bin/python -m benchmarks.bulk_load --vectors 10000 --dimension 384

Each way writes the same vectors, a batch at a time and every batch committed; the ways take turns batch by batch, so
that a slow moment of the machine meets all of them. COPY answers nothing, meters nothing and refuses an id that exists.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.search_request import event
from benchmarks.stack import clustered, stack
from vecmeter.vectors.packing import configure, pack_vector

PLAIN = """
    CREATE TABLE plain (
        record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, namespace text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL, metadata jsonb NOT NULL, embedding vector({dimension}) NOT NULL,
        UNIQUE (namespace, id)
    ) WITH (toast_tuple_target = 8160);
    CREATE INDEX ON plain USING gin (metadata jsonb_path_ops) WITH (fastupdate = off)
"""
COPY = b"COPY plain (namespace, id, metadata, embedding) FROM STDIN (FORMAT BINARY)"
Batch = Sequence[tuple[str, dict[str, Any], array[float]]]
Way = Callable[[int], Any]


def batches_of(count: int, dimension: int, size: int) -> list[Batch]:
    rows = [(f"v{i:07d}", {"kind": i % 10, "even": i % 2 == 0}, n) for i, n in enumerate(clustered(count, dimension))]
    return [rows[start : start + size] for start in range(0, count, size)]


def as_lists(batch: Batch) -> bytes:
    """With as many digits as embedding services give; in full, a thousand would be longer than a request may be."""
    digits = lambda n: [round(number, 7) for number in n]  # noqa: E731
    return json.dumps({"vectors": [{"id": id, "vector": digits(n), "metadata": m} for id, m, n in batch]}).encode()


def as_base64(batch: Batch) -> bytes:
    encode = lambda n: base64.b64encode(n.tobytes()).decode()  # noqa: E731
    return json.dumps({"vectors": [{"id": id, "vector": encode(n), "metadata": m} for id, m, n in batch]}).encode()


def copying(dsn: str, dimension: int, batches: Sequence[Batch]) -> Way:
    connection = psycopg.connect(dsn, autocommit=True)
    configure(connection)
    connection.execute(PLAIN.format(dimension=dimension).encode())

    def run(turn: int) -> None:
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            for id, metadata, numbers in batches[turn]:
                copy.write_row(("", id, Jsonb(metadata), pack_vector(numbers)))

    return run


def storing(process: Any, collection: Any, batches: Sequence[Batch]) -> Way:
    from vecmeter.vectors.model import Vector

    def run(turn: int) -> None:
        vectors = [Vector(id=id, numbers=n, metadata=m) for id, m, n in batches[turn]]
        process.records.upsert(collection, vectors)

    return run


def handling(path: str, key: str, bodies: Sequence[bytes]) -> Way:
    """Through the Lambda handler: an event holds the body as text."""
    from upsert_function.handler import handler

    context = SimpleNamespace(aws_request_id="bench", get_remaining_time_in_millis=lambda: 29_000)

    def run(turn: int) -> None:
        sent = {**event(path, key, {}), "body": bodies[turn].decode()}
        with contextlib.redirect_stdout(io.StringIO()):
            answer = handler(sent, context)
        assert answer["statusCode"] == 200, answer["body"][:500]

    return run


@contextlib.contextmanager
def served() -> Iterator[int]:
    """The function's routes on a port of this machine."""
    from upsert_function.routes import router
    from vecmeter.http.app import create_app
    from vecmeter.runtime import runtime
    from vecmeter_local.server import HttpServer, listen

    with listen("127.0.0.1", 0) as listener:
        server = HttpServer(create_app(runtime(), router, service="bench", runs_alone=False), listener)
        server.start()
        server.wait_until_ready()
        yield listener.getsockname()[1]
        server.stop()


def posting(port: int, path: str, key: str, bodies: Sequence[bytes]) -> Way:
    connection = HTTPConnection("127.0.0.1", port)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def run(turn: int) -> None:
        connection.request("POST", path, bodies[turn], headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:500]

    return run


def measure(ways: dict[str, Way], turns: int, size: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name, way in ways.items():
            started, used = time.perf_counter(), time.process_time()
            way(turn)
            taken[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - used)
    base = taken["binary COPY"]
    print(f"{'':28}{'vectors/s':>10}{'ms a batch':>12}{'CPU here':>10}{'of COPY':>9}")
    for name, times in taken.items():
        middle = statistics.median(times)
        ratio = statistics.median(one / other for one, other in zip(base, times, strict=True))
        used = statistics.median(cpu[name]) * 1000
        print(f"{name:28}{size / middle:10.0f}{middle * 1000:12.1f}{used:10.1f}{ratio:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1000)
    options = parser.parse_args()
    with stack() as dsn:
        from vecmeter.ledger.model import Policy
        from vecmeter.runtime import runtime
        from vecmeter.vectors.model import IndexDefinition, Metric

        process = runtime()
        process.projects.create(project_id="bench", user_id="bench", name=None)
        policy = Policy(daily_requests=10**9, monthly_requests=10**9)
        key = process.keys.create(user_id="bench", project_id="bench", roles=("write",), policy=policy).secret
        definition: Any = {"dimension": options.dimension, "metric": Metric.COSINE, "index": IndexDefinition()}
        names = ("store", "handler-lists", "handler-base64", "http-lists", "http-base64")
        made = [process.collections.create("bench", name, embedder=None, **definition) for name in names]
        path = {name: f"/v1/projects/bench/collections/{name}/vectors" for name in names}
        batches = batches_of(options.vectors, options.dimension, options.batch)
        lists, packed = [as_lists(batch) for batch in batches], [as_base64(batch) for batch in batches]
        print(f"a body of {options.batch}: {len(lists[0]):,} bytes as lists, {len(packed[0]):,} in base64")
        with served() as port:
            ways = {
                "binary COPY": copying(dsn, options.dimension, batches),
                "Records.upsert": storing(process, made[0], batches),
                "handler, lists": handling(path["handler-lists"], key, lists),
                "handler, base64": handling(path["handler-base64"], key, packed),
                "HTTP, lists": posting(port, path["http-lists"], key, lists),
                "HTTP, base64": posting(port, path["http-base64"], key, packed),
            }
            measure(ways, len(batches), options.batch)


if __name__ == "__main__":
    main()
