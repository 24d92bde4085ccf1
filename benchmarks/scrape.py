"""What a scrape costs: ``python -m benchmarks.scrape``. KEYS keys that are all in use, COLLECTIONS collections.

Calls and items are what DynamoDB sees; units are reckoned as it bills them (4 KB of items per unit of a strongly
consistent read), since the emulator counts every query as one. Times are those of the emulator, which answers in
2 to 4 ms and one call at a time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fixtures.ledger import item_size

from benchmarks.stack import TABLE, stack
from vecmeter.exposition import render
from vecmeter.ledger.activity import HOUR, SETTLED_AFTER
from vecmeter.ledger.encoding import decode
from vecmeter.ledger.model import Operation, Role, Status, UsageRecord
from vecmeter.overview import take_overview
from vecmeter.runtime import Runtime, build_runtime
from vecmeter.settings import Settings
from vecmeter.vectors.model import IndexDefinition, Metric

KEYS, COLLECTIONS, RECORDS = 1_000, 100, 5
SCRAPES = 5


class Counted:
    """A client that counts calls and what they read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.seen: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if not callable(call):
            return call

        def counted(**request: Any) -> Any:
            answer = call(**request)
            items = answer.get("Items", [answer["Item"]] if "Item" in answer else [])
            self.seen["calls"] += 1
            self.seen["items"] += len(items)
            self.seen["read units"] += max(1, math.ceil(sum(item_size(decode(item)) for item in items) / 4096))
            return answer

        return counted


def _fill(runtime: Runtime, now: list[datetime]) -> None:
    """Every key was in use in an hour that is rolled up, and is in use now."""
    keys = []
    for number in range(KEYS):
        project = f"project-{number // 10:04}"
        if number % 10 == 0:
            runtime.projects.create(project_id=project, user_id=f"user-{number // 100}", name=None)
        keys.append(runtime.keys.create(user_id=f"user-{number // 100}", project_id=project, roles=(Role.SEARCH,)).key)
    for _ in range(2):
        runtime.rollups.roll_up()
        for key in keys:
            for number in range(RECORDS):
                runtime.usage.keep(
                    UsageRecord(
                        request_id=f"{number}{now[0].hour}a",
                        started_at=now[0],
                        api_key_id=key.api_key_id,
                        user_id=key.user_id,
                        project_id=key.project_id,
                        operation=list(Operation)[number % 4],
                        endpoint="POST /v1/projects/{project}/collections/{collection}/search",
                        status=Status.SUCCESS,
                        duration_ms=12.5,
                        micro_usd=5,
                    )
                )
        now[0] += HOUR + SETTLED_AFTER
    # What was written last is not settled yet.
    now[0] -= HOUR + SETTLED_AFTER - timedelta(minutes=1)


def _measure(runtime: Runtime, counted: Counted) -> None:
    for number in range(SCRAPES):
        counted.seen.clear()
        started, cpu = time.perf_counter(), time.process_time()
        overview = take_overview(runtime, 100)
        looked = time.perf_counter()
        text, _ = render(overview, "")
        ended = time.perf_counter()
        figures = ", ".join(f"{count} {name}" for name, count in counted.seen.items())
        print(
            f"scrape {number + 1}: {figures}; {(looked - started) * 1000:.0f} ms to read, "
            f"{(ended - looked) * 1000:.0f} ms to write {len(text) / 1000:.0f} KB; "
            f"{(time.process_time() - cpu) * 1000:.0f} ms of CPU"
        )


def main() -> None:
    now = [datetime(2026, 11, 21, 10, 5, tzinfo=UTC)]
    with stack() as dsn:
        settings = Settings.from_environment({"DATABASE_URL": dsn, "TABLE_NAME": TABLE})
        runtime = build_runtime(settings, lambda: now[0])
        _fill(runtime, now)
        for number in range(COLLECTIONS):
            runtime.collections.create(
                f"project-{number:04}",
                "docs",
                dimension=3,
                metric=Metric.COSINE,
                index=IndexDefinition(),
                embedder=None,
            )
        counted: Any = Counted(runtime.table._client)
        runtime.table._client = counted
        _measure(runtime, counted)
        runtime.close()


if __name__ == "__main__":
    main()
