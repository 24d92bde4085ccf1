"""What alerts cost: the CPU of a request that has none to make, the write units and the time of one that has.

python -m benchmarks.alerts
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vecmeter.ledger.access import Access
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.events import create_event_bridge
from vecmeter.ledger.model import ApiKey, LimitState, Policy
from vecmeter.ledger.signature import Credentials
from vecmeter.ledger.table import Table, create_table
from vecmeter.ledger.wire import DynamoDbWire
from vecmeter_local.emulator import DynamoDbEmulator

QUOTAS = ("daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens", "daily_cost_usd", "monthly_cost_usd")
ROLLING = ("requests_per_minute", "requests_per_hour", "requests_per_day")
CALLS = 20_000
CROSSINGS = 200


class Metered:
    """A client that asks for the consumed capacity of each transaction."""

    def __init__(self, client: DynamoDbWire) -> None:
        self._client = client
        self.units: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def transact_write_items(self, **request: Any) -> Any:
        answer = self._client.transact_write_items(**request, ReturnConsumedCapacity="TOTAL")
        self.units.append(sum(one["CapacityUnits"] for one in answer.get("ConsumedCapacity", [])))
        return answer


def _states(used: int, key: str) -> list[LimitState]:
    """Four scopes with every quota and rolling limit."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return [
        LimitState(
            name=name,
            scope=scope,
            scope_id=f"{scope}-{key}",
            limit=100,
            used=used,
            resets_at=midnight,
            window_seconds=86400,
        )
        for scope in ("key", "project", "user", "system")
        for name in (*QUOTAS, *ROLLING)
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        emulator = DynamoDbEmulator(Path(folder))
        endpoint = emulator.start()
        try:
            _measure(endpoint)
        finally:
            emulator.stop()


def _measure(endpoint: str) -> None:
    import boto3

    access = Access("us-east-1", lambda: Credentials("test", "test"))
    made_by: Any = boto3.client(
        "dynamodb", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    create_table(made_by, "alerts")
    client: Any = Metered(DynamoDbWire(endpoint, access, 4))
    os.environ["AWS_ENDPOINT_URL_EVENTBRIDGE"] = endpoint
    bus = create_event_bridge("default", access)
    alerts = Alerts(Table(client, "alerts"), lambda: datetime.now(UTC), 90, lambda project: "user-1", bus)
    key = ApiKey(
        api_key_id="key_1",
        secret_hash=b"",
        revoked=False,
        version=1,
        expires_at=None,
        user_id="user-1",
        project_id="project-1",
        roles=frozenset(),
        policy=Policy(),
    )
    for title, used in (("below every threshold", 50), ("all 24 calendar limits above, alerted before", 90)):
        states = _states(used, "k")
        alerts.observe(key, states, threshold_pct=80)
        started = time.process_time()
        for _ in range(CALLS):
            alerts.observe(key, states, threshold_pct=80)
        spent = (time.process_time() - started) / CALLS * 1e6
        print(f"{len(states)} limits, {title}: {spent:.1f} us of CPU per request")
    client.units.clear()
    times = []
    for number in range(CROSSINGS):
        state = _states(90, f"k{number}")[0]
        started = time.perf_counter()
        alerts.observe(key, [state], threshold_pct=80)
        times.append((time.perf_counter() - started) * 1000)
    times.sort()
    print(f"a request that crosses waits {times[len(times) // 2]:.1f} ms more, p95 {times[len(times) * 95 // 100]:.1f}")
    units = f"{sum(client.units) / CROSSINGS:.1f}" if client.units else "unknown"
    print(f"write units of an alert: {units}, and one to say that it was told")


if __name__ == "__main__":
    main()
