"""A stack whose disk runs full: writes are refused whole, searches go on, and it recovers when there is room again."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.fixtures.local_stack import Up, finish, launch, make_collection, until
from vecmeter_local.disk_space import MIB, RESERVE_BYTES, DiskSpace
from vecmeter_local.emulator import DynamoDbEmulator
from vecmeter_local.processes import LocalStackError

DISK_MB = 384
COLLECTION = "/v1/projects/p/collections/c"
# Only the stack's processes see the file system, and it goes with the last of them.
OWN_DISK = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={DISK_MB}m,mode=755 small "$0" && exec "$@"')
ALLOWED = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Up]:
    """A stack on a disk of its own."""
    if not ALLOWED:
        pytest.skip("to mount a small disk takes root")
    up = launch(tmp_path, prefix=(*OWN_DISK, str(tmp_path)))
    seen = Up(up.process, Path(f"/proc/{up.process.pid}/root{tmp_path}"))
    try:
        until((seen.folder / "stack.json").exists, 40)
        make_collection(seen)
        yield seen
    finally:
        finish(up)


def leave(folder: Path, megabytes: int) -> Path:
    """Fill the disk up to so much."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - megabytes * MIB)
    return ballast


def batch(number: int, size: int = 20, document: str = "") -> dict[str, Any]:
    vectors = [{"id": f"{number}-{i}", "vector": [i + 1, number, 1], "document": document} for i in range(size)]
    return {"vectors": vectors}


def stored(up: Up, number: int) -> int:
    ids = [vector["id"] for vector in batch(number)["vectors"]]
    answer = up.call("POST", f"{COLLECTION}/vectors/fetch", {"ids": ids})
    assert answer.status_code == 200, answer.text
    return len(answer.json()["vectors"])


def refuses(up: Up, number: int) -> bool:
    answer = up.call("POST", f"{COLLECTION}/vectors", batch(number))
    if answer.is_success:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "writes_refused")
    assert int(answer.headers["Retry-After"]) > 0
    return True


def searches(up: Up, number: int) -> bool:
    return up.call("POST", f"{COLLECTION}/search", {"vector": [1, number, 1]}).status_code == 200


def test_while_little_room_is_left_writes_are_refused_whole_and_searches_go_on(small: Up) -> None:
    assert not refuses(small, 1)
    ballast = leave(small.folder, RESERVE_BYTES // MIB // 2)
    tried = iter(range(100, 10_000))
    until(lambda: refuses(small, next(tried)), 30)
    refused = next(tried)
    # More than it takes to open a circuit.
    assert all(refuses(small, refused) for _ in range(8))
    assert stored(small, refused) == 0
    assert stored(small, 1) == 20
    assert all(searches(small, number) for number in range(10))
    assert "writes are refused" in small.output()
    ballast.unlink()
    until(lambda: not refuses(small, refused), 30)
    assert stored(small, refused) == 20


def test_a_disk_that_is_full_at_a_stroke_costs_no_acknowledged_write(small: Up) -> None:
    assert not refuses(small, 1)
    ballast = leave(small.folder, 0)
    kept, number = [1], 1
    refused = False
    while not refused:
        number += 1
        answer = small.call("POST", f"{COLLECTION}/vectors", batch(number, document=os.urandom(20_000).hex()))
        if answer.is_success:
            kept.append(number)
        refused = answer.status_code == 503 and answer.json()["code"] == "writes_refused"
        assert refused or answer.is_success, answer.text
    ballast.unlink()
    until(lambda: small.call("GET", "/health/ready").status_code == 200, 60)
    until(lambda: not small.call("POST", f"{COLLECTION}/vectors", batch(10_000)).is_error, 60)
    assert [stored(small, one) for one in kept] == [20] * len(kept)
    assert stored(small, number) == 0


def test_the_ledger_acknowledges_nothing_that_its_journal_has_no_room_for(tmp_path: Path) -> None:
    emulator = DynamoDbEmulator(tmp_path)
    client = boto3.client("dynamodb", endpoint_url=emulator.start(), config=Config(retries={"total_max_attempts": 1}))
    client.create_table(
        TableName="items",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    try:
        assert emulator.child is not None
        pid = emulator.child.process.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        kept = list(itertools.takewhile(lambda key: is_kept(client, key), map(str, range(1000))))
        assert 10 < len(kept) < 100
        assert keys(client) == set(kept)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        put(client, "after")
        os.kill(pid, signal.SIGKILL)
        emulator.child.process.wait()
        emulator.start()
        assert keys(client) == {*kept, "after"}
    finally:
        client.close()
        emulator.stop()


def put(client: Any, key: str) -> None:
    client.put_item(TableName="items", Item={"pk": {"S": key}, "text": {"S": "x" * 500}})


def is_kept(client: Any, key: str) -> bool:
    try:
        put(client, key)
    except client.exceptions.InternalServerError:
        return False
    return True


def keys(client: Any) -> set[str]:
    return {item["pk"]["S"] for item in client.scan(TableName="items")["Items"]}


def test_a_stack_does_not_start_where_less_than_the_reserve_is_left(tmp_path: Path) -> None:
    space = DiskSpace(tmp_path, "postgresql://nowhere.invalid", free=lambda _: RESERVE_BYTES - 1)
    with pytest.raises(LocalStackError, match="127 MB are left"):
        space.require()
