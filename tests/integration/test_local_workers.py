"""Several workers on one socket: one schedule for all, and an end that leaves none of them behind."""

from __future__ import annotations

import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.local_stack import Start, is_held, make_collection, until, write

COLLECTION = "/v1/projects/p/collections/c"


def test_the_schedule_runs_once_however_many_workers_there_are(start: Start, root: Path) -> None:
    (root / "data").mkdir()
    # The others are due in an hour at the earliest.
    (root / "data" / "schedule.json").write_text('{"get_index_stats": 0, "vacuum_analyze": 0}')
    up = start("data", "--workers", "3").wait_until_up()
    due = up.folder / "schedule.json"
    until(lambda: '"vacuum_analyze": 0' not in due.read_text(), 30)
    runs = up.call("GET", "/v1/admin/maintenance/runs?task=vacuum_analyze").json()["runs"]
    assert len(runs) == 1


def test_a_stop_finishes_what_is_in_flight_refuses_what_is_new_and_ends_every_worker(start: Start) -> None:
    up = start("data", "--workers", "2").wait_until_up()
    make_collection(up)
    assert write(up, 1)
    address = up.stack["url"].removeprefix("http://").split(":")
    with ThreadPoolExecutor(4) as pool, psycopg.connect(up.stack["postgres_dsn"]) as lock:
        [(number,)] = lock.execute("SELECT collection_id FROM vecmeter.collections").fetchall()
        lock.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("vecmeter", f"vectors_{number}")))
        searches = [pool.submit(up.call, "POST", f"{COLLECTION}/search", {"vector": [1, 1, 0]}) for _ in range(4)]
        until(lambda: waiting(up.stack["postgres_dsn"]) == 4)
        up.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(address[0], int(address[1])))
        assert not any(search.done() for search in searches)
        lock.rollback()
        assert [search.result().status_code for search in searches] == [200] * 4
    assert up.process.wait(40) == 0
    assert up.leftovers() == []


def waiting(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    assert row is not None
    return int(row[0])


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_kill_9_of_the_stack_leaves_no_worker_behind_and_its_port_is_free_again(start: Start) -> None:
    up = start("data", "--workers", "3").wait_until_up()
    port = int(up.stack["url"].rsplit(":", 1)[1])
    up.process.kill()
    up.process.wait()
    until(lambda: not any(is_held(lock) for lock in up.folder.glob("*.lock")), 40)
    socket.create_server(("127.0.0.1", port)).close()
