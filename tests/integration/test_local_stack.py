"""What ``vecmeter-local up`` promises, kept under signals, kills and neighbours. Real processes, no fixed sleeps."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tqdm import tqdm

from tests.fixtures.local_stack import (
    START_SECONDS,
    Start,
    Up,
    finish,
    launch,
    make_collection,
    stored_ids,
    until,
    write,
)
from vecmeter_local import demo as demo_module
from vecmeter_local.corpus import read_texts, source_files
from vecmeter_local.data_folder import DataFolder
from vecmeter_local.demo import Demo

STACK_KEYS = {"url", "admin_key", "postgres_dsn", "dynamodb_endpoint", "table_name", "pid"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Up]:
    """One stack for the tests that leave it as it is."""
    with tempfile.TemporaryDirectory(prefix="vecmeter-test-") as name:
        up = launch(Path(name) / "data").wait_until_up()
        yield up
        finish(up)


def run_task(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vecmeter_local.cli", "task", name, "--data-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_answers_and_writes_a_private_stack_json_with_exactly_its_keys(shared: Up) -> None:
    stack = shared.stack
    assert set(stack) == STACK_KEYS
    assert (shared.folder / "stack.json").stat().st_mode & 0o077 == 0
    assert (shared.folder / "admin-key.json").stat().st_mode & 0o077 == 0
    assert stack["pid"] == shared.process.pid
    assert shared.call("GET", "/health").status_code == 200
    assert shared.call("GET", "/v1/quota/me").status_code == 200


def test_a_second_up_on_the_same_folder_is_refused_and_told_the_pid(shared: Up) -> None:
    second = launch(shared.folder)
    assert second.process.wait(START_SECONDS) == 1
    assert str(shared.process.pid) in second.output()
    assert shared.call("GET", "/health").status_code == 200


def test_a_maintenance_task_runs_from_the_command_line(shared: Up) -> None:
    done = run_task("get_index_stats", shared.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status" in json.loads(done.stdout)


def test_an_unknown_task_is_a_failure_of_the_command(shared: Up) -> None:
    done = run_task("no_such_task", shared.folder)
    assert done.returncode == 1
    assert "no_such_task" in done.stdout


def test_a_task_without_a_stack_says_how_to_start_one(root: Path) -> None:
    done = run_task("get_index_stats", root)
    assert done.returncode == 1
    assert "vecmeter-local up" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_leaves_no_process_no_socket_and_no_stack_json(start: Start, number: signal.Signals) -> None:
    up = start().wait_until_up()
    assert up.stop(number) == 0
    assert up.leftovers() == []


def test_sigint_stops_a_stack_that_a_script_started_in_the_background(start: Start) -> None:
    # A shell without job control makes what it starts with & ignore SIGINT.
    up = start(prefix=("sh", "-c", "trap '' INT; exec \"$@\"", "sh")).wait_until_up()
    assert up.stop(signal.SIGINT) == 0
    assert up.leftovers() == []


def test_a_stop_during_the_start_leaves_nothing_either(start: Start) -> None:
    up = start()
    until((up.folder / "postgres.lock").exists, START_SECONDS)
    assert up.stop() == 0
    assert up.leftovers() == []


def test_a_second_signal_does_not_wait_for_requests_in_flight(start: Start) -> None:
    up = start().wait_until_up()
    host, port = up.stack["url"].removeprefix("http://").split(":")
    key = up.stack["admin_key"]
    with socket.create_connection((host, int(port))) as unfinished:
        head = f"POST /v1/admin/projects HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        unfinished.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        up.process.send_signal(signal.SIGTERM)
        until(lambda: not (up.folder / "stack.json").exists())
        up.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert up.process.wait(START_SECONDS) == 0
        assert time.monotonic() - started < 10
    assert up.leftovers() == []


def test_kill_9_loses_no_acknowledged_vector_and_the_next_up_recovers_with_the_same_key(start: Start) -> None:
    up = start().wait_until_up()
    make_collection(up)
    admin_key = up.stack["admin_key"]
    acknowledged: list[int] = []

    def write_until_it_fails() -> None:
        with suppress(httpx.TransportError):
            for number in range(1_000_000):
                if write(up, number):
                    acknowledged.append(number)

    writer = threading.Thread(target=write_until_it_fails)
    writer.start()
    until(lambda: len(acknowledged) >= 20)
    up.process.kill()
    writer.join()

    again = start().wait_until_up()
    assert again.stack["admin_key"] == admin_key
    assert again.stack["pid"] == again.process.pid
    assert stored_ids(again, acknowledged[-500:]) == set(acknowledged[-500:])


def test_when_every_process_is_killed_the_next_up_still_has_every_vector_and_all_that_was_used(start: Start) -> None:
    up = start().wait_until_up()
    make_collection(up)
    written = [number for number in range(5) if write(up, number)]
    used = up.call("GET", "/v1/usage/me").json()["total_requests"]
    up.process.kill()
    for part in ("postgres", "dynamodb", "worker-1"):
        os.kill(up.pid_of(part), signal.SIGKILL)
    up.process.wait()

    again = start().wait_until_up()
    assert again.call("GET", "/v1/usage/me").json()["total_requests"] == used == 2 + len(written)
    assert stored_ids(again, written) == set(written)


def test_two_stacks_with_different_folders_run_side_by_side(start: Start) -> None:
    first, second = start("first"), start("second")
    first.wait_until_up()
    second.wait_until_up()
    make_collection(first)
    assert first.stack["url"] != second.stack["url"]
    assert second.call("GET", "/v1/projects/p/collections/c").status_code == 404
    assert second.call("GET", "/v1/quota/me", key=first.stack["admin_key"]).status_code == 401
    assert first.stop() == 0
    assert second.call("GET", "/health/ready").status_code == 200


def test_a_taken_port_is_a_clear_error_that_leaves_nothing_behind(start: Start, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start("data", "--port", str(port))
        assert up.process.wait(START_SECONDS) == 1
        output = up.output()
    assert f"Port {port}" in output
    assert "--port" in output
    assert not (root / "data").exists()


def test_a_folder_that_only_its_owner_may_enter_will_do(start: Start, root: Path) -> None:
    (root / "closed").mkdir(mode=0o700)
    up = start("closed/deeper/data").wait_until_up()
    assert up.call("GET", "/health/ready").status_code == 200
    assert up.stop() == 0
    assert up.leftovers() == []


def test_a_stale_stack_json_is_gone_when_the_start_fails(start: Start, root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "stack.json").write_text("{}")
    up = start(environment={"MAX_TOP_K": "many"})
    assert up.process.wait(START_SECONDS) == 1
    assert "MAX_TOP_K" in up.output()
    assert up.leftovers() == []


def test_a_database_of_the_users_own_is_used_instead(start: Start, database_url: str) -> None:
    up = start(environment={"DATABASE_URL": database_url, "API_PREFIX": "/api"}).wait_until_up()
    assert up.stack["postgres_dsn"] == database_url
    assert "DATABASE_URL is set" in up.output()
    assert not (up.folder / "postgres").exists()
    assert up.call("GET", "/api/quota/me").status_code == 200


def demo_of(up: Up) -> Demo:
    stack = up.stack
    return Demo(
        url=stack["url"],
        prefix="/v1",
        admin_key=stack["admin_key"],
        folder=DataFolder(up.folder),
        stopping=threading.Event(),
    )


def test_an_interrupted_demo_is_completed_shows_cost_and_quota_and_then_only_searches(
    shared: Up, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [path for path in source_files() if path.stem in {"zipfile", "tarfile", "shutil", "tasks", "bisect"}]
    monkeypatch.setattr(demo_module, "source_files", lambda: few)
    demo = demo_of(shared)
    whole = len(list(read_texts(few)))

    interrupted = demo_of(shared)
    monkeypatch.setattr(demo_module, "_BATCH", 50)
    monkeypatch.setattr(tqdm, "update", lambda *_: interrupted.stopping.set())
    interrupted.run()
    assert "Search:" not in capsys.readouterr().out
    assert shared.call("GET", "/v1/projects/demo/collections/python-docs").json()["count"] == 50
    monkeypatch.undo()
    monkeypatch.setattr(demo_module, "source_files", lambda: few)

    demo.run()
    first = capsys.readouterr()
    assert "failed" not in first.err
    assert shared.call("GET", "/v1/projects/demo/collections/python-docs").json()["count"] == whole > 50
    assert first.out.count("Search:") == 3
    assert first.out.count("left today") == 3
    assert "asyncio.tasks.wait" in first.out
    assert first.out.count("curl ") == 1

    demo.run()
    second = capsys.readouterr()
    assert "Indexing" not in second.out
    assert second.out.count("Search:") == 3
    keys = [line for line in first.out.splitlines() if " key " in line]
    assert keys == [line for line in second.out.splitlines() if " key " in line]
    assert DataFolder(shared.folder).path.joinpath("demo-keys.json").stat().st_mode & 0o077 == 0
