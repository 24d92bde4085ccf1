"""What the ledger costs a warm request: write units, calls, wall and CPU time, by our wire and by boto3.

    .venv/bin/python -m benchmarks.ledger_request [--requests N]

The emulator runs in a process of its own; CPU is this process's. All variants take turns, so that a slow moment of the
machine meets each of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.fixtures.boto3_client import Boto3Client

from vecmeter.errors import LimitExceededError
from vecmeter.ledger.admission import Admissions
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.audit import AuditLog
from vecmeter.ledger.demands import Demand
from vecmeter.ledger.encoding import decode, encode
from vecmeter.ledger.keys import CreatedKey, Keys, parse_secret
from vecmeter.ledger.metering import Ledger, Outcome
from vecmeter.ledger.model import Cost, Operation, Policy, Role
from vecmeter.ledger.prices import PriceList
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.table import Table, create_client, create_table
from vecmeter.ledger.usage import UsageLog
from vecmeter.ledger.wire import create_wire
from vecmeter.settings import Settings
from vecmeter_local.emulator import DynamoDbEmulator

TABLE = "vecmeter-bench"


class MeteredClient:
    """Asks what each call consumed; a write refused on its condition is billed as one unit."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.units: Counter[str] = Counter()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)
        if name == "transact_write_items":  # to create the key
            return call

        def metered(**request: Any) -> Any:
            kind = "read units" if name in ("get_item", "query") else "write units"
            self.calls += 1
            self.units[kind] += 1
            answer = call(**request, ReturnConsumedCapacity="TOTAL")
            self.units[kind] += answer["ConsumedCapacity"]["CapacityUnits"] - 1
            return answer

        return metered


class Requests:
    """A ledger and a key, and requests with it."""

    def __init__(self, client: Any, settings: Settings, **policy: int) -> None:
        table = Table(client, TABLE)
        audit = AuditLog(table, _now, retention_days=1)
        projects = Projects(table, _now, audit)
        keys = Keys(table, _now, "test", projects, audit)
        self.usage = UsageLog(table, settings.usage_retention_days, _now)
        self.admissions = Admissions(table, keys, settings, _now)
        alerts = Alerts(table, _now, 1, lambda project: projects.get(project).user_id)
        self.ledger = Ledger(self.admissions, self.usage, PriceList.from_settings(settings), alerts, settings, _now)
        self.key: CreatedKey = keys.create(
            user_id="bench", project_id="bench", roles=("search",), policy=Policy(**policy)
        )

    def one(self, _: int = 0) -> None:
        demand = Demand(
            request_id=uuid.uuid4().hex[:16],
            credential=parse_secret(self.key.secret),
            role=Role.SEARCH,
            operation=Operation.SEARCH,
            endpoint="POST /v1/projects/{project}/collections/{collection}/search",
            project_id="bench",
            request_bytes=1000,
            cost=Cost(tokens=7, micro_usd=6),
        )
        with self.ledger.admit(demand) as hold:
            hold.settle(Outcome(vectors=10, collection="docs", namespace="", response_bytes=900))


def _now() -> datetime:
    return datetime.now(UTC)


def in_turns(works: dict[str, Callable[[int], Any]], rounds: int) -> None:
    """Print p50 and p95 of the wall time and the mean of the CPU time of each, in milliseconds."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu = dict.fromkeys(works, 0.0)
    for turn in range(-50, rounds):
        for name, work in works.items():
            started, used = time.perf_counter(), time.process_time()
            work(turn)
            if turn >= 0:
                wall[name].append((time.perf_counter() - started) * 1000)
                cpu[name] += (time.process_time() - used) * 1000
    for name, times in wall.items():
        p95 = statistics.quantiles(times, n=20)[18]
        print(f"  {name:34}{statistics.median(times):8.3f}{p95:8.3f}{cpu[name] / rounds:10.3f}")


def write_units(settings: Settings, rounds: int) -> None:
    metered = MeteredClient(create_wire(4))
    requests = Requests(metered, settings, daily_requests=10**9, monthly_requests=10**9)
    requests.one()
    metered.units.clear()
    metered.calls = 0
    for turn in range(rounds):
        requests.one(turn)
    print(f"admitted: {metered.calls / rounds:.3f} calls, {metered.units['write units'] / rounds:.3f} write units each")
    refused = Requests(metered, settings, daily_requests=1)
    refused.one()
    metered.units.clear()
    for _ in range(rounds):
        with suppress(LimitExceededError):
            refused.one()
    print(f"refused:  {dict(metered.units)} for {rounds}")


def after_the_work(requests: Requests) -> dict[str, Callable[[int], Any]]:
    """Two writes of the sizes of record and settlement, one after the other and side by side."""
    executor = ThreadPoolExecutor(1)
    item = {"pk": "bench", "sk": "record", "e": "x" * 200}
    table = Table(create_wire(4), TABLE)

    def settle() -> None:
        table.update("bench", "key", update="SET a = :a", condition=":a = :a", values={":a": 1}, attempts=1)

    def one_after_the_other(_: int) -> None:
        table.put(item)
        settle()

    def side_by_side(_: int) -> None:
        record = executor.submit(table.put, item)
        settle()
        record.result()

    return {"record, then settlement": one_after_the_other, "record and settlement in threads": side_by_side}


def encoding() -> None:
    from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

    serialize, deserialize = TypeSerializer().serialize, TypeDeserializer().deserialize
    item = {"pk": "K#key_abcdefghijk", "sk": "K", "s": b"x" * 32, "st": "a", "v": 3, "u": "u" * 36, "p": "p" * 36}
    item |= {f"{letter}261121": 123_456 for letter in "dtc"} | {f"{letter}2611": 1_234_567 for letter in "MTC"}
    item |= {f"h{number:016x}": "smwqcvpc0.1.7.6" for number in range(3)}
    record = {**dict.fromkeys("abcdefgh", "some text"), **dict.fromkeys("ijklmnop", 1234), "ms": Decimal("1.234")}
    typed = {name: serialize(value) for name, value in item.items()}

    def by_us(_: int) -> None:
        encode(record)
        decode(typed)
        decode(typed)

    def by_boto3(_: int) -> None:
        {name: serialize(value) for name, value in record.items()}
        for _ in range(2):
            {name: deserialize(value) for name, value in typed.items()}

    in_turns({"encoding of a request, ours": by_us, "encoding of a request, boto3's": by_boto3}, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    rounds = parser.parse_args().requests
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as folder:
        emulator = DynamoDbEmulator(Path(folder))
        os.environ.update(
            AWS_ACCESS_KEY_ID="bench",
            AWS_SECRET_ACCESS_KEY="bench",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_ENDPOINT_URL_DYNAMODB=emulator.start(),
        )
        try:
            create_table(create_client(), TABLE)
            settings = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": TABLE})
            write_units(settings, rounds)
            print(f"  {'milliseconds':34}{'p50':>8}{'p95':>8}{'CPU mean':>10}")
            large = {"daily_requests": 10**9, "monthly_requests": 10**9, "daily_tokens": 10**9}
            wire, boto3 = (
                Requests(client, settings, **large) for client in (create_wire(4), Boto3Client(create_client()))
            )
            in_turns({"whole request, our wire": wire.one, "whole request, boto3": boto3.one}, rounds)
            in_turns(after_the_work(wire), rounds)
            encoding()
        finally:
            emulator.stop()


if __name__ == "__main__":
    main()
