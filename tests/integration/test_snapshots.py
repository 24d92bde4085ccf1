"""Copies of one started process, as SnapStart resumes them: nothing that must be a copy's own is shared."""

from __future__ import annotations

import ast
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, make_world
from tests.fixtures.artifacts import PROJECT
from tests.integration.test_http_lambda import event

COPIES = 3

# A fork is the copy. Python reseeds `random` in a forked child, which a resumed machine does not notice it is: hence
# the state as it was.
PROCESS = """
import json, os, random, socket, sys
from types import SimpleNamespace
from awslambdaric import lambda_runtime_hooks_runner as hooks
from upsert_function.handler import handler

def peers():
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as one:
                found.append(str(one.getpeername()))
        except OSError:
            continue
    return [peer for peer in found if peer]  # the event loop's own pair has no name

def request(event):
    context = SimpleNamespace(aws_request_id="lambda-id", get_remaining_time_in_millis=lambda: 29_000)
    answer = handler(event, context)
    return {"status": answer["statusCode"], "request_id": answer["headers"]["x-request-id"]}

events = json.loads(sys.argv[1])
report = {"started": peers(), "answers": [request(events[0])], "open": peers()}
hooks.run_before_snapshot()
report |= {"snapshot": peers(), "drawn": []}
state = random.getstate()
for event in events[1:]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        random.setstate(state)
        hooks.run_after_restore()
        os.write(writer, json.dumps([request(event), random.getrandbits(64)]).encode())
        os._exit(0)
    os.wait()
    answer, drawn = json.loads(os.read(reader, 65536))
    report["answers"].append(answer)
    report["drawn"].append(drawn)
print("REPORT " + json.dumps(report))
"""


@pytest.fixture
def container() -> Iterator[list[str]]:
    """Where Lambda gives credentials to such a function: its URL, then one line for each time it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            expiry = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            given = {"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "token", "Expiration": expiry}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(given).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked.append(f"http://127.0.0.1:{server.server_address[1]}/credentials")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def run(api: Api, events: list[Any], credentials: str) -> dict[str, Any]:
    settings = api.runtime.settings
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "PATH"}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # which are not there with SnapStart
        del environment[name]
    environment |= {"AWS_CONTAINER_CREDENTIALS_FULL_URI": credentials, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "secret"}
    environment |= {"DATABASE_URL": settings.database_url, "TABLE_NAME": settings.table_name}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, json.dumps(events)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("REPORT "))
    report: dict[str, Any] = json.loads(line.removeprefix("REPORT "))
    return report


def test_copies_of_one_process_connect_anew_and_repeat_no_id_and_no_receipt(api: Api, container: list[str]) -> None:
    world = make_world(api)
    api.clock.advance(days=1)  # the copies go by the real one, which may be past its noon
    path = f"/v1{world.tenant.base}/c/vectors"
    key = world.tenant.key
    writes = [event("PUT", f"{path}/{number}", key, {"vector": [1, 2, number]}) for number in range(COPIES + 1)]
    receipts = "SELECT count(*) FROM vecmeter.receipts"
    with api.runtime.database.connection() as connection:
        before = connection.execute(receipts).fetchone()[0]  # type: ignore[index]
    recorded = len(api.records(key))

    report = run(api, writes, container[0])

    assert report["started"] == [], "nothing connects before the first request"
    assert report["open"], "a request leaves its connections open"
    assert report["snapshot"] == [], "no connection is copied"
    assert [answer["status"] for answer in report["answers"]] == [200] * (COPIES + 1)
    assert len({answer["request_id"] for answer in report["answers"]}) == COPIES + 1
    assert len(set(report["drawn"])) == COPIES
    with api.runtime.database.connection() as connection:
        assert connection.execute(receipts).fetchone()[0] == before + COPIES + 1  # type: ignore[index]
    assert len({record.request_id for record in api.records(key)}) == recorded + COPIES + 1
    assert set(container[1:]) == {"secret"}
    assert len(container[1:]) > COPIES + 1, "credentials are renewed, by every copy"
    stored = {row[1] for row in world.tenant.contents()["c"]}
    assert stored >= {str(number) for number in range(COPIES + 1)}


def test_no_id_and_no_secret_comes_from_the_generator_a_snapshot_copies() -> None:
    """``secrets``, ``uuid4`` and ``os.urandom`` ask the kernel; the shared state of ``random`` is for libraries."""
    used = set()
    for folder in ("layers/core/vecmeter", "functions"):
        for path in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.ImportFrom) and node.module == "random"), path
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                    used.add(node.attr)
    assert used - {"Random"} == {"seed"}, "a Random of one's own has a seed of one's own"
