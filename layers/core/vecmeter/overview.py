"""The whole service in numbers, from the ledger and the database: the same whichever instance is asked."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from vecmeter.errors import ApiKeyNotFoundError, UnavailableError
from vecmeter.ledger.holds import live_holds
from vecmeter.ledger.model import Operation
from vecmeter.ledger.totals import KeyName, Totals
from vecmeter.ledger.usage_counters import AT_ONCE, UsageCounters
from vecmeter.runtime import Runtime
from vecmeter.tasks import task_names
from vecmeter.vectors.state import DatabaseState, read_state

_logger = logging.getLogger("vecmeter.overview")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Counters since each key's first roll-up, which never fall, and the state of the present moment.

    ``projects`` and ``keys``: those with the most requests. ``database``: None while it does not answer.
    """

    operations: Mapping[Operation, Totals]
    projects: Mapping[str, Totals]
    keys: Mapping[str, Totals]
    active_keys: int
    in_flight: int
    database: DatabaseState | None

    @property
    def total(self) -> Totals:
        whole = Totals()
        for totals in self.operations.values():
            whole.merge(totals)
        return whole


def take_overview(runtime: Runtime, most: int) -> Overview:
    """Look at everything now, and at up to ``most`` projects, keys and collections. Raises LedgerUnavailableError."""
    reading = UsageCounters(runtime.rollups, runtime.usage, runtime.clock)
    active = reading.active()
    counters = reading.read(active)
    operations: defaultdict[Operation, Totals] = defaultdict(Totals)
    projects: defaultdict[str, Totals] = defaultdict(Totals)
    keys: defaultdict[str, Totals] = defaultdict(Totals)
    for key, usage in counters.items():
        for group, totals in usage.items():
            operations[group.operation].merge(totals)
            keys[key.api_key_id].merge(totals)
            if group.project_id is not None:
                projects[group.project_id].merge(totals)
    return Overview(
        operations=dict(sorted(operations.items())),
        projects=_busiest(projects, most),
        keys=_busiest(keys, most),
        active_keys=len(active),
        in_flight=_in_flight(runtime, active),
        database=_database(runtime, most),
    )


def _busiest(totals: Mapping[str, Totals], most: int) -> dict[str, Totals]:
    ranked = sorted(totals.items(), key=lambda entry: (-entry[1].requests - entry[1].refused, entry[0]))
    return dict(ranked[:most])


def _in_flight(runtime: Runtime, keys: Iterable[KeyName]) -> int:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(partial(_holds, runtime), keys))


def _holds(runtime: Runtime, key: KeyName) -> int:
    try:
        _, item = runtime.keys.get_with_counters(key.api_key_id)
    except ApiKeyNotFoundError:
        return 0  # deleted, or what storage is billed to
    return live_holds(item, runtime.clock(), runtime.settings.hold_seconds)


def _database(runtime: Runtime, most: int) -> DatabaseState | None:
    try:
        return read_state(runtime.database, most_collections=most, tasks=task_names())
    except UnavailableError:
        _logger.warning("the database does not answer: its metrics are left out")
        return None
