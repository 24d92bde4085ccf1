"""What limits cost: write units by windows, scopes and keys, and the pace of many processes.

    .venv/bin/python -m benchmarks.ledger_scopes [--requests N]

Write units are DynamoDB's own count (``ReturnConsumedCapacity``). The emulator runs in a process of its own; CPU is
that of the process that asks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vecmeter.errors import LimitExceededError
from vecmeter.ledger.admission import Admissions
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.audit import AuditLog
from vecmeter.ledger.demands import Demand
from vecmeter.ledger.keys import Keys, parse_secret
from vecmeter.ledger.metering import Ledger, Outcome
from vecmeter.ledger.model import Cost, Operation, Policy, Role, Scope
from vecmeter.ledger.policies import Policies
from vecmeter.ledger.prices import PriceList
from vecmeter.ledger.projects import Projects
from vecmeter.ledger.table import Table, create_client, create_table
from vecmeter.ledger.usage import UsageLog
from vecmeter.ledger.wire import create_wire
from vecmeter.settings import Settings
from vecmeter_local.emulator import DynamoDbEmulator

TABLE = "vecmeter-bench"
LARGE = 10**9
CALENDAR = (
    "daily_requests",
    "monthly_requests",
    "daily_tokens",
    "monthly_tokens",
    "daily_cost_usd",
    "monthly_cost_usd",
)
ROLLING = ("requests_per_minute", "requests_per_hour", "requests_per_day", "searches_per_day", "writes_per_day")

Limits = Mapping[Scope, tuple[str, ...]]
VARIANTS: Mapping[str, Limits] = {
    "key: calendar windows": {Scope.KEY: CALENDAR},
    "key: and requests per minute": {Scope.KEY: (*CALENDAR, "requests_per_minute")},
    "key: and all rolling windows": {Scope.KEY: (*CALENDAR, *ROLLING)},
    "key: and requests in flight": {Scope.KEY: (*CALENDAR, *ROLLING, "max_concurrent")},
    "and a project: calendar": {Scope.KEY: CALENDAR, Scope.PROJECT: CALENDAR},
    "and three parents: calendar": {Scope.KEY: CALENDAR, **dict.fromkeys(list(Scope)[1:], CALENDAR)},
    "and three parents: an hour, in flight": dict.fromkeys(
        Scope, ("daily_requests", "requests_per_hour", "max_concurrent")
    ),
    "and three parents: a minute": dict.fromkeys(Scope, ("daily_requests", "requests_per_minute")),
}


class CountingClient:
    """Asks what each write consumed; one that is refused on its condition is billed as one unit."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.units: Counter[str] = Counter()
        self.on = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def counted(**request: Any) -> Any:
            if not self.on or name not in ("update_item", "put_item"):
                return call(**request)
            table_part = request.get("Key", request.get("Item", {}))["pk"]["S"][0]
            kind = {"K": "key", "L": "parents", "R": "record"}.get(table_part, "other")
            self.units[kind] += 1
            answer = call(**request, ReturnConsumedCapacity="TOTAL")
            self.units[kind] += answer["ConsumedCapacity"]["CapacityUnits"] - 1
            return answer

        return counted if name != "close" else call


class Instance:
    """One process's ledger on the table."""

    def __init__(self) -> None:
        settings = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": TABLE})
        self.client = CountingClient(create_wire(8))
        client: Any = self.client
        table = Table(client, TABLE)
        audit = AuditLog(table, _now, 1)
        self.projects = Projects(table, _now, audit)
        self.keys = Keys(table, _now, "test", self.projects, audit)
        self.admissions = Admissions(table, self.keys, settings, _now)
        alerts = Alerts(table, _now, 1, lambda project: self.projects.get(project).user_id)
        usage = UsageLog(table, 1, _now)
        self.ledger = Ledger(self.admissions, usage, PriceList.from_settings(settings), alerts, settings, _now)
        self.policies = Policies(table, self.keys, self.admissions.parents.items, settings, _now)

    def set_up(self, limits: Limits, keys: int, amount: int = LARGE) -> list[tuple[str, str]]:
        """A user with a project and keys under these limits; returns (project, secret) of each key."""
        user, project = f"user-{uuid.uuid4().hex[:6]}", f"project-{uuid.uuid4().hex[:6]}"
        self.policies.create_project(project_id=project, user_id=user, name=None)
        made = [
            self.policies.create_key(user_id=user, project_id=project, roles=("search", "write")) for _ in range(keys)
        ]
        ids = {Scope.PROJECT: project, Scope.USER: user, Scope.SYSTEM: "system"}
        for scope in (Scope.SYSTEM, Scope.USER, Scope.PROJECT):
            policy = Policy(**dict.fromkeys(limits.get(scope, ()), amount))
            self.policies.change(scope, ids[scope], lambda _, policy=policy: policy)  # type: ignore[misc]
        for key in made:
            policy = Policy(**dict.fromkeys(limits.get(Scope.KEY, ()), LARGE))
            self.policies.change(Scope.KEY, key.key.api_key_id, lambda _, policy=policy: policy)  # type: ignore[misc]
        return [(project, key.secret) for key in made]

    def request(self, project: str, secret: str) -> None:
        demand = Demand(
            request_id=uuid.uuid4().hex[:16],
            credential=parse_secret(secret),
            role=Role.SEARCH,
            operation=Operation.SEARCH,
            endpoint="POST /v1/projects/{project}/collections/{collection}/search",
            project_id=project,
            request_bytes=1000,
            cost=Cost(tokens=7, micro_usd=6, searches=1),
        )
        with self.ledger.admit(demand) as hold:
            hold.settle(Outcome(vectors=10, collection="docs", response_bytes=900))


def _now() -> datetime:
    return datetime.now(UTC)


def measure(instance: Instance, keys: list[tuple[str, str]], requests: int) -> str:
    for key in keys:
        for _ in range(3):
            instance.request(*key)
    instance.client.units.clear()
    instance.client.on = True
    used = time.process_time()
    for number in range(requests):
        instance.request(*keys[number % len(keys)])
    used, instance.client.on = time.process_time() - used, False
    units = instance.client.units
    whole = sum(units.values()) / requests
    admission = (units["key"] + units["parents"]) / requests - 1  # the settlement is one
    return f"{admission:10.3f}{units['parents'] / requests:10.3f}{whole:10.3f}{1000 * used / requests:10.2f}"


def work(arguments: tuple[list[tuple[str, str]], float]) -> tuple[int, int, Counter[str]]:
    """Request after request for so many seconds, in a process of its own: admitted, refused, units."""
    keys, seconds = arguments
    instance = Instance()
    instance.client.on = True
    end, admitted, refused, number = time.monotonic() + seconds, 0, 0, 0
    while time.monotonic() < end:
        number += 1
        try:
            instance.request(*keys[number % len(keys)])
            admitted += 1
        except LimitExceededError:
            refused += 1
    return admitted, refused, instance.client.units


def processes(instance: Instance, seconds: float) -> None:
    limits: Limits = {Scope.PROJECT: ("daily_requests",), Scope.USER: ("daily_requests",)}
    print(f"\n{'processes':44}{'a second':>10}{'refused':>10}{'adm. WU':>10}")
    for count, keys in ((1, 1), (2, 1), (4, 1), (4, 4), (4, 16)):
        made = instance.set_up(limits, keys)
        with ProcessPoolExecutor(count) as pool:
            done = list(pool.map(work, [(made, seconds)] * count))
        admitted, refused = (sum(each[place] for each in done) for place in (0, 1))
        units = sum((each[2] for each in done), Counter())
        name = f"{count} on {keys} keys of a project"
        print(
            f"{name:44}{admitted / seconds:10.0f}{refused:10}{(units['key'] + units['parents']) / admitted - 1:10.3f}"
        )


def exactness(instance: Instance) -> None:
    made = instance.set_up({Scope.PROJECT: ("daily_requests",)}, 4, amount=500)
    with ProcessPoolExecutor(4) as pool:
        done = list(pool.map(work, [(made, 4.0)] * 4))
    admitted, refused = (sum(each[place] for each in done) for place in (0, 1))
    print(f"\na project's limit of 500, 4 processes on 4 keys: {admitted} admitted, {refused} refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as folder:
        emulator = DynamoDbEmulator(Path(folder))
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = emulator.start()
        with suppress(KeyboardInterrupt):
            try:
                create_table(create_client(), TABLE)
                instance = Instance()
                print(f"{'per request':44}{'adm. WU':>10}{'parents':>10}{'whole WU':>10}{'CPU ms':>10}")
                for name, limits in VARIANTS.items():
                    print(f"{name:44}{measure(instance, instance.set_up(limits, 1), requests)}")
                three: Callable[[int], list[tuple[str, str]]] = lambda keys: instance.set_up(  # noqa: E731
                    dict.fromkeys(Scope, ("daily_requests", "daily_cost_usd")), keys
                )
                for keys in (4, 16, 64):
                    name = f"three parents: calendar, {keys} keys in turn"
                    print(f"{name:44}{measure(instance, three(keys), requests)}")
                processes(instance, 4.0)
                exactness(instance)
            finally:
                emulator.stop()


if __name__ == "__main__":
    main()
