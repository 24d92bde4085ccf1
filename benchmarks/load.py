"""Hundreds of clients on the local server with several workers: what they saw, health, memory, and whether all adds up.

    .venv/bin/python -m benchmarks.load --clients 300 --seconds 60 --workers 2

Searches, small writes and fetches by keys of several projects, some of them limited, while others write batches of
1,000. Server, database, emulator and clients share the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

DIMENSION = 128
_UP_SECONDS = 60
_END_SECONDS = 90
_WARM = 0.4  # of the time: what memory is compared with


@dataclass(frozen=True, slots=True)
class Load:
    clients: int
    bulk_clients: int
    seconds: float
    workers: int
    projects: int = 3
    daily_requests: int = 300
    per_hour: int = 200
    processes: int = 2


@dataclass(frozen=True, slots=True)
class Key:
    api_key_id: str
    secret: str
    path: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen. ``counted`` and ``recorded``: by key, the counter and the number of usage records."""

    answers: dict[str, Counter[str]]
    faults: Counter[str]
    milliseconds: dict[str, list[float]]
    health: list[float]
    memory: list[int]
    counted: dict[str, int]
    recorded: dict[str, int]
    keys: tuple[Key, ...]

    def codes(self) -> Counter[str]:
        return sum(self.answers.values(), Counter())


class Stack:
    """A running ``vecmeter-local up``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        stack = json.loads((folder / "stack.json").read_text())
        self.url = str(stack["url"])
        headers = {"Authorization": f"Bearer {stack['admin_key']}"}
        self._client = httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=30, trust_env=False)

    def call(self, method: str, path: str, body: Any = None, **parameters: Any) -> Any:
        answer = self._client.request(method, path, json=body, params=parameters)
        assert answer.is_success, answer.text
        return answer.json()

    def memory(self) -> int:
        """MB in memory of all workers together."""
        return sum(_resident_mb(int(lock.read_text())) for lock in self._folder.glob("worker-*.lock"))

    def close(self) -> None:
        self._client.close()


@contextmanager
def stack(workers: int) -> Iterator[Stack]:
    """The local stack in a temporary folder, without its request lines."""
    with tempfile.TemporaryDirectory(prefix="vecmeter-load-") as name:
        folder = Path(name, "data")
        command = [sys.executable, "-m", "vecmeter_local.cli", "up", "--port", "0", "--no-demo"]
        with Path(name, "output").open("w+") as output:
            up = subprocess.Popen(
                [*command, "--workers", str(workers), "--data-dir", str(folder)], stdout=output, stderr=output
            )
            try:
                _wait_for(folder / "stack.json", up, output.name)
                running = Stack(folder)
                yield running
                running.close()
            finally:
                up.terminate()
                up.wait(_END_SECONDS)


def run(load: Load) -> Report:
    with stack(load.workers) as running:
        keys = prepare(running, load)
        ends_at = time.time() + load.seconds
        health = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.health_watch", urlsplit(running.url).netloc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes = [start_clients(plan) for plan in plans(running, load, keys, ends_at)]
        memory = []
        while time.time() < ends_at:
            memory.append(running.memory())
            time.sleep(0.5)
        outputs = [json.loads(process.communicate(timeout=_END_SECONDS)[0]) for process in processes]
        looks = json.loads(health.communicate(timeout=_END_SECONDS)[0])
        counted = {key.api_key_id: used_by(running, key) for key in keys}
        recorded = {key.api_key_id: records_of(running, key) for key in keys}
    return Report(
        answers=_sum(output["answers"] for output in outputs),
        faults=sum((Counter(output["faults"]) for output in outputs), Counter()),
        milliseconds=_join(output["milliseconds"] for output in outputs),
        health=looks,
        memory=memory,
        counted=counted,
        recorded=recorded,
        keys=keys,
    )


def prepare(running: Stack, load: Load) -> tuple[Key, ...]:
    """Projects, each with a filled collection, a key without limits worth mentioning and two that are limited."""
    keys = []
    rng = random.Random(7)
    policies = (
        ({"daily_requests": 10**6, "monthly_requests": 10**7}, None),
        ({"daily_requests": load.daily_requests}, load.daily_requests),
        ({"requests_per_hour": load.per_hour}, load.per_hour),
    )
    for number in range(load.projects):
        project = f"load-{number}"
        running.call("POST", "/admin/projects", {"project_id": project, "user_id": f"user-{number}"})
        path = f"/projects/{project}/collections"
        running.call("POST", path, {"name": "c", "dimension": DIMENSION})
        vectors = [{"id": str(i), "vector": [rng.random() for _ in range(DIMENSION)]} for i in range(1000)]
        running.call("POST", f"{path}/c/vectors", {"vectors": vectors})
        for policy, limit in policies:
            body = {"user_id": f"user-{number}", "project_id": project, "roles": ["search", "write"], "quota": policy}
            made = running.call("POST", "/admin/keys", body)
            keys.append(Key(made["api_key_id"], made["key"], f"/v1{path}/c", limit))
    return tuple(keys)


def plans(running: Stack, load: Load, keys: Sequence[Key], ends_at: float) -> list[dict[str, Any]]:
    """One for each process of clients: they go round the keys; those that write much have keys without limits."""
    free = [key for key in keys if key.limit is None]
    chosen = [(keys[i % len(keys)], "mixed") for i in range(load.clients)]
    chosen += [(free[i % len(free)], "bulk") for i in range(load.bulk_clients)]
    clients = [
        {"api_key_id": key.api_key_id, "secret": key.secret, "path": key.path, "kind": kind} for key, kind in chosen
    ]
    shared = {"url": running.url, "ends_at": ends_at, "dimension": DIMENSION, "spread_seconds": 1.0}
    return [
        {**shared, "seed": 1000 * number, "clients": clients[number :: load.processes]}
        for number in range(load.processes)
    ]


def start_clients(plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load_clients"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan).encode())
    process.stdin.close()
    process.stdin = None
    return process


def used_by(running: Stack, key: Key) -> int:
    """What the key's own counter of the day says; asked with the key itself, which is free."""
    answer = httpx.get(
        f"{running.url}/v1/quota/me", headers={"Authorization": f"Bearer {key.secret}"}, timeout=30, trust_env=False
    ).json()
    return int(answer["quotas"]["daily_requests"]["used"])


def records_of(running: Stack, key: Key) -> int:
    """Usage records of requests that were admitted."""
    count, token = 0, None
    while True:
        page = {"api_key_id": key.api_key_id, "limit": 1000} | ({"page_token": token} if token else {})
        answer = running.call("GET", "/admin/usage/records", **page)
        count += sum(record["status"] != "quota_exceeded" for record in answer["records"])
        token = answer.get("next_page_token")
        if not token:
            return count


def mismatches(report: Report) -> list[str]:
    """Keys whose clients, counter and records do not tell the same story, or that went beyond their limit."""
    found = []
    for key in report.keys:
        seen, counted = report.answers[key.api_key_id]["200"], report.counted[key.api_key_id]
        story = f"{key.api_key_id}: seen {seen}, counted {counted}, recorded {report.recorded[key.api_key_id]}"
        if not seen == counted == report.recorded[key.api_key_id]:
            found.append(story)
        if key.limit is not None and seen > key.limit:
            found.append(f"{story}, limit {key.limit}")
    return found


def show(report: Report, load: Load) -> None:
    codes = report.codes()
    total = sum(codes.values())
    print(f"{load.clients} clients and {load.bulk_clients} that write batches of 1,000, {load.workers} workers")
    print(f"{total} answers, {codes['200'] / load.seconds:.0f} a second of them 200: {dict(codes)}")
    print(f"faults: {dict(report.faults)}")
    for name, taken in sorted(report.milliseconds.items()):
        print(f"{name:8} n {len(taken):6}  {quantiles(taken)} ms")
    print(f"health   n {len(report.health):6}  {quantiles(report.health)} ms")
    warm = report.memory[int(len(report.memory) * _WARM)]
    print(f"memory of the workers: {warm} MB warm, {report.memory[-1]} MB at the end, {max(report.memory)} MB at most")
    refused = [
        key for key in report.keys if key.limit is not None and report.answers[key.api_key_id]["429 limit_exceeded"]
    ]
    exact = sum(report.answers[key.api_key_id]["200"] == key.limit for key in refused)
    print(f"{exact} of {len(refused)} keys that were refused had been let through exactly as often as their limit says")
    print("clients, counters and records agree" if not mismatches(report) else "\n".join(mismatches(report)))


def quantiles(taken: list[float]) -> str:
    if len(taken) < 2:
        return str(taken)
    cuts = statistics.quantiles(taken, n=100)
    return f"p50 {cuts[49]:7.1f}  p95 {cuts[94]:7.1f}  p99 {cuts[98]:7.1f}  max {max(taken):7.1f}"


def _resident_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def _wait_for(file: Path, up: subprocess.Popen[Any], output: str) -> None:
    deadline = time.monotonic() + _UP_SECONDS
    while not file.exists():
        if up.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"The stack did not start: {Path(output).read_text()}")
        time.sleep(0.05)


def _sum(parts: Iterator[dict[str, dict[str, int]]]) -> dict[str, Counter[str]]:
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.items():
            total.setdefault(name, Counter()).update(counts)
    return total


def _join(parts: Iterator[dict[str, list[float]]]) -> dict[str, list[float]]:
    joined: dict[str, list[float]] = {}
    for part in parts:
        for name, taken in part.items():
            joined.setdefault(name, []).extend(taken)
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--bulk-clients", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    load = Load(
        clients=options.clients,
        bulk_clients=options.bulk_clients,
        seconds=options.seconds,
        workers=options.workers,
    )
    show(run(load), load)


if __name__ == "__main__":
    main()
