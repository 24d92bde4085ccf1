"""What roll-ups cost and save: ``python -m benchmarks.usage_reports``. Days of one key, and reports over them.

Writes DAYS days of records, rolls them up every six hours, then asks for usage by roll-ups and by records alone.
Times are those of the emulator; items and units are what DynamoDB bills.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from tests.fixtures.ledger import ManualClock, wire_to
from tests.fixtures.usage import Books, open_books, record_at

from vecmeter.ledger.activity import HOUR
from vecmeter.ledger.reports import Selection
from vecmeter.ledger.table import Table, create_table
from vecmeter.ledger.totals import KeyName, summarize
from vecmeter_local.emulator import DynamoDbEmulator

DAYS, PER_HOUR = 10, 8
KEY = KeyName("user-1", "key_1")


class Metered:
    """A client that adds up what calls consumed and returned."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.used: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def metered(**request: Any) -> Any:
            answer = call(**request, ReturnConsumedCapacity="TOTAL")
            kind = "read units" if name in ("query", "get_item") else "write units"
            self.used[kind] += answer["ConsumedCapacity"]["CapacityUnits"]
            self.used["items read"] += len(answer.get("Items", ())) + ("Item" in answer)
            self.used["calls"] += 1
            return answer

        return metered

    def since(self, action: Any) -> str:
        """What an action used, and how long it took."""
        self.used.clear()
        started = time.perf_counter()
        action()
        took = (time.perf_counter() - started) * 1000
        return ", ".join(f"{count:g} {kind}" for kind, count in sorted(self.used.items())) + f", {took:.0f} ms"


def _fill(books: Books, metered: Metered) -> None:
    rolling: Counter[str] = Counter()
    for hour in range(DAYS * 24):
        start = books.clock()
        for number in range(PER_HOUR):
            books.write(record_at(books.clock(), f"{hour:x}a{number}", micro_usd=number))
            books.clock.advance(seconds=3600 / PER_HOUR)
        if hour % 6 == 5:
            before = metered.used.copy()
            books.rollups.roll_up()
            rolling.update(metered.used - before)
        books.clock.now = start + HOUR
    records = DAYS * 24 * PER_HOUR
    writes = metered.used["write units"] - rolling["write units"]
    print(f"{records} records: {writes:g} write units, of which {writes - records:g} for marks")
    print(f"roll-ups of {DAYS * 24} hours: {dict(rolling)}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as folder:
        emulator = DynamoDbEmulator(Path(folder))
        endpoint = emulator.start()
        client = boto3.client(
            "dynamodb",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        create_table(client, "bench")
        metered: Any = Metered(wire_to(endpoint))
        books = open_books(Table(metered, "bench"), ManualClock(datetime(2026, 11, 1, tzinfo=UTC)))
        _fill(books, metered)
        books.clock.advance(minutes=40)
        end = books.clock()
        for name, hours in (("24 hours", 24), ("7 days", 168), (f"{DAYS} days", DAYS * 24)):
            start = end - timedelta(hours=hours) + timedelta(minutes=10)
            for whose, selection in (("key", Selection(key=KEY)), ("user", Selection(user_ids=(KEY.user_id,)))):
                print(
                    f"{name}, {whose}: {metered.since(lambda s=selection, b=start: books.reports.summary(s, b, end))}"
                )
            print(f"{name}, records alone: {metered.since(lambda b=start: summarize(books.raw([KEY], b, end)))}")
        emulator.stop()


if __name__ == "__main__":
    main()
