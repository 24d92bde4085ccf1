"""How long ``GET /health`` takes while other clients write 1,000 vectors of 256 dimensions (5 MB of JSON) at a time.

    .venv/bin/python -m benchmarks.health_under_load --clients 0 1 4

Server, database, emulator and clients share the machine; each client is a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import statistics
import time
from http.client import HTTPConnection
from typing import Any

from benchmarks.stack import stack

VECTORS, DIMENSION = 1000, 256


def write(port: int, path: str, secret: str, seconds: float, written: Any) -> None:
    vectors = [{"id": str(i), "vector": [random.random() for _ in range(DIMENSION)]} for i in range(VECTORS)]
    body = json.dumps({"vectors": vectors}).encode()
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.request("POST", path, body, {"Authorization": f"Bearer {secret}"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        with written.get_lock():
            written.value += 1


def look(port: int, seconds: float) -> list[float]:
    """Milliseconds of each look, one every 20 ms."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    taken = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        taken.append((time.perf_counter() - started) * 1000)
        time.sleep(0.02)
    return taken


def measure(port: int, path: str, secret: str, clients: int, seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    written = context.Value("i", 0)
    arguments = (port, path, secret, seconds + 1, written)
    processes = [context.Process(target=write, args=arguments) for _ in range(clients)]
    for process in processes:
        process.start()
    time.sleep(1)
    taken = look(port, seconds)
    for process in processes:
        process.join()
    p95 = statistics.quantiles(taken, n=20)[18]
    figures = f"p50 {statistics.median(taken):6.1f}   p95 {p95:6.1f}   max {max(taken):6.1f} ms"
    print(f"{clients} clients: {figures}   {written.value / (seconds + 1):5.1f} writes/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with stack():
        from search_function.routes import router as search
        from upsert_function.routes import router as upsert
        from vecmeter.http.app import create_app
        from vecmeter.ledger.model import Policy, Role
        from vecmeter.runtime import build_runtime
        from vecmeter.settings import Settings
        from vecmeter.vectors.model import IndexDefinition, Metric
        from vecmeter_local.server import HttpServer, listen

        settings = dataclasses.replace(
            Settings.from_environment(os.environ), database_pool_size=8, metrics_enabled=False
        )
        runtime = build_runtime(settings)
        runtime.projects.create(project_id="bench", user_id="bench", name=None)
        policy = Policy(daily_requests=10**9, monthly_requests=10**9)
        key = runtime.keys.create(user_id="bench", project_id="bench", roles=(Role.WRITE,), policy=policy)
        index = IndexDefinition()
        runtime.collections.create(
            "bench", "bench", dimension=DIMENSION, metric=Metric.COSINE, index=index, embedder=None
        )
        with listen("127.0.0.1", 0) as listener:
            server = HttpServer(create_app(runtime, search, upsert, service="bench"), listener)
            server.start()
            for clients in options.clients:
                path = "/v1/projects/bench/collections/bench/vectors"
                measure(listener.getsockname()[1], path, key.secret, clients, options.seconds)
            server.stop()
        runtime.close()


if __name__ == "__main__":
    main()
