"""What a stack with several workers survives: the death of each of its parts while clients write."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.fixtures.local_stack import Up, finish, launch, make_collection, stored_ids, until, write
from vecmeter_local.processes import Child, LocalStackError, claim, spawn
from vecmeter_local.supervision import MOST_RESTARTS, Supervision

PARTS = {"postgres": "PostgreSQL", "dynamodb": "The DynamoDB emulator", "worker-1": "Worker 1", "worker-2": "Worker 2"}
COLLECTION = "/v1/projects/p/collections/c"


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack with two workers, for the tests that leave it up."""
    folder = tmp_path_factory.mktemp("workers") / "data"
    up = launch(folder, "--workers", "2").wait_until_up()
    make_collection(up)
    yield up
    finish(up)


class Writers:
    """Clients that write vectors one by one until told to stop, and keep which of them were acknowledged."""

    def __init__(self, up: Up, first: int) -> None:
        self._up = up
        self._next = iter(range(first, first + 1_000_000))
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self.acknowledged: list[int] = []
        self._threads = [threading.Thread(target=self._write) for _ in range(4)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def until_more(self, count: int = 20) -> None:
        """Return once so many more were acknowledged from now on."""
        goal = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= goal, 30)

    def _write(self) -> None:
        while not self._enough.is_set():
            with self._lock:
                number = next(self._next)
            try:
                if write(self._up, number):
                    self.acknowledged.append(number)
            except httpx.TransportError:
                continue  # the worker that had it died; nothing was acknowledged


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_while_clients_write_is_started_again_and_nothing_acknowledged_is_lost(
    workers: Up, part: str
) -> None:
    before = workers.pid_of(part)
    with Writers(workers, first=1_000_000 * (1 + list(PARTS).index(part))) as writers:
        writers.until_more()
        os.kill(before, signal.SIGKILL)
        until(lambda: workers.pid_of(part) not in (0, before))
        writers.until_more()
    written = writers.acknowledged[-1000:]
    assert stored_ids(workers, written) == set(written)
    assert f"{PARTS[part]} ended unexpectedly with status -9; starting it again (1 of" in workers.output()


def test_a_backend_of_the_database_that_is_killed_costs_no_acknowledged_write(workers: Up) -> None:
    with Writers(workers, first=9_000_000) as writers:
        writers.until_more()
        with psycopg.connect(workers.stack["postgres_dsn"]) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
        writers.until_more()
    written = writers.acknowledged[-1000:]
    assert stored_ids(workers, written) == set(written)


def test_what_was_used_is_known_to_the_request_after_the_ledger_was_killed(workers: Up) -> None:
    body = {"user_id": "u", "project_id": "p", "roles": ["search"]}
    key = workers.call("POST", "/v1/admin/keys", body).json()["key"]
    for _ in range(5):
        assert workers.call("POST", f"{COLLECTION}/search", {"vector": [1, 1, 0]}, key=key).status_code == 200
    os.kill(workers.pid_of("dynamodb"), signal.SIGKILL)
    assert workers.call("POST", f"{COLLECTION}/search", {"vector": [1, 1, 0]}, key=key).status_code == 200
    assert workers.call("GET", "/v1/quota/me", key=key).json()["quotas"]["daily_requests"]["used"] == 6
    assert workers.call("GET", "/v1/usage/me", key=key).json()["total_requests"] == 6


@dataclass
class Dying:
    """A part whose process ends at once, whenever it is started."""

    folder: Path
    name: str = "Mayfly"
    child: Child | None = None
    starts: int = 0

    def start(self) -> None:
        stop_signals = ((signal.SIGTERM, 1.0),)
        self.starts += 1
        self.child = spawn(
            self.name,
            ["false"],
            lock=claim(self.folder / "dying.lock", stop_signals),
            stop_signals=stop_signals,
            environment=os.environ,
            log=self.folder / "log",
        )
        self.child.process.wait()


class TestSupervision:
    def test_a_part_that_keeps_dying_is_given_up_and_told_of(self, tmp_path: Path) -> None:
        part = Dying(tmp_path)
        part.start()
        supervision = Supervision([part], clock=lambda: 0.0)
        with pytest.raises(LocalStackError, match=r"Mayfly ended .* status 1, after 20 new starts within 60 s"):
            self.forever(supervision.look)
        assert part.starts == 1 + MOST_RESTARTS

    def test_a_part_that_dies_now_and_then_is_started_again_every_time(self, tmp_path: Path) -> None:
        part, now = Dying(tmp_path), [0.0]
        part.start()
        supervision = Supervision([part], clock=lambda: now[0])
        for _ in range(3 * MOST_RESTARTS):
            supervision.look()
            now[0] += 13
        assert part.starts == 1 + 3 * MOST_RESTARTS

    def test_a_start_that_fails_is_tried_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        part = Dying(tmp_path)
        part.start()
        part.child, start = None, part.start
        failures = iter([LocalStackError("no room")])

        def fails_once() -> None:
            for failure in failures:
                raise failure
            start()

        part.start = fails_once  # type: ignore[method-assign]
        supervision = Supervision([part])
        supervision.look()
        supervision.look()
        assert part.starts == 2
        assert "no room" in capsys.readouterr().err

    @staticmethod
    def forever(action: Callable[[], None]) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            action()
