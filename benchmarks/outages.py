"""How long callers wait for an answer while the database or the ledger is away, hangs or is slow.

.venv/bin/python -m benchmarks.outages
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.testclient import TestClient
from tests.fixtures.faults import FaultyEndpoint, Reply

from benchmarks.stack import stack
from search_function.routes import router as search_router
from upsert_function.routes import router as upsert_router
from vecmeter.http.app import create_app
from vecmeter.ledger.model import Policy, Role
from vecmeter.runtime import Runtime, build_runtime
from vecmeter.settings import Settings


class Caller:
    """A key with a collection, and its two requests."""

    def __init__(self, runtime: Runtime, project: str) -> None:
        self.runtime = runtime
        self._project = project
        self._client = TestClient(create_app(runtime, search_router, upsert_router, service="bench"))
        runtime.projects.create(project_id=project, user_id="bench", name=None)
        key = runtime.policies.create_key(
            user_id="bench", project_id=project, roles=(Role.SEARCH, Role.WRITE), policy=Policy()
        )
        self._headers = {"Authorization": f"Bearer {key.secret}"}
        self.post("", {"name": "c", "dimension": 3})
        self.write()
        self.search()

    def post(self, path: str, body: Any) -> Any:
        return self._client.post(f"/v1/projects/{self._project}/collections{path}", json=body, headers=self._headers)

    def write(self) -> Any:
        return self.post("/c/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3]}]})

    def search(self) -> Any:
        return self.post("/c/search", {"vector": [1, 2, 3]})


@contextmanager
def caller(project: str) -> Iterator[Caller]:
    named = {"METRICS_ENABLED": "false", "RESULT_CACHE_MB": "0", "DATABASE_POOL_SIZE": "1"}
    runtime = build_runtime(Settings.from_environment({**os.environ, **named}))
    yield Caller(runtime, project)
    runtime.close()


def show(what: str, request: Callable[[], Any], times: int) -> None:
    """Make the request so often; print what came of each, how long the first took and the rest."""
    took, told = [], []
    for _ in range(times):
        started = time.perf_counter()
        answer = request()
        took.append((time.perf_counter() - started) * 1000)
        told.append(str(answer.json().get("code", answer.status_code)))
    rest = f"then {statistics.median(took[1:]):8.1f} ms, at most {max(took[1:]):8.1f}" if times > 1 else ""
    print(f"| {what} | {', '.join(dict.fromkeys(told))} | {took[0]:8.1f} ms {rest} |")


def database() -> None:
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent, caller("one") as one:
        silent.bind(str(Path(folder) / ".s.PGSQL.5432"))
        silent.listen()
        show("database there, search", one.search, 200)
        one.runtime.database.close()
        # A server that accepts connections and never answers: each attempt takes its whole time-out.
        one.runtime.database._dsn = lambda: f"postgresql://postgres@/x?host={folder}"
        show("database silent, circuit closed, search", one.search, 5)
        show("database silent, circuit open, search", one.search, 200)
        show("database silent, circuit open, write", one.write, 200)


def ledger() -> None:
    treatment, pause = Reply.PASS, 0.0

    def treat() -> Reply:
        time.sleep(pause)
        return treatment

    with FaultyEndpoint(os.environ["AWS_ENDPOINT_URL_DYNAMODB"], iter(treat, None)) as endpoint:
        os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = endpoint.url
        with caller("two") as one:
            show("ledger there, write", one.write, 50)
            for name, fault in (("silent", Reply.SILENCE), ("gone", Reply.CLOSE)):
                treatment = fault
                show(f"ledger {name}, write", one.write, 20)
                show(f"ledger {name}, search by a key seen lately", one.search, 20)
                treatment = Reply.PASS
                while one.write().status_code != 200:
                    time.sleep(0.1)
            pause = 2.0
            show("ledger answers after 2 s, write", one.write, 3)


if __name__ == "__main__":
    print("| | answers | the first took |\n|---|---|---|")
    with stack():
        database()
        ledger()
