"""Switch one mechanism of the ledger off at a time, in a copy, and see the test that guards it fail.

    .venv/bin/python -m scripts.switch_off [NAME ...]

A mechanism whose tests still pass is printed with SURVIVES, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEDGER = "layers/core/vecmeter/ledger/"
TESTS = "tests/integration/test_ledger_"


@dataclass(frozen=True)
class Mechanism:
    """``text`` stands once in the file; with ``instead`` in its place, one of the tests must fail."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


def _of(name: str, file: str, text: str, instead: str, *tests: str) -> Mechanism:
    return Mechanism(name, LEDGER + file, text, instead, tuple(TESTS + test for test in tests))


MECHANISMS = (
    _of(
        "configuration pinned by its version",
        "admission.py",
        'change.require("#v = :v", "v")\n        change.values[":v"] = key.version',
        'change.require("attribute_exists(#v)", "v")',
        "changes.py",
    ),
    _of(
        "the hold marks a request as counted",
        "counting.py",
        'change.require(f"attribute_not_exists(#{mark.attribute})")',
        'change.require("attribute_exists(pk)")',
        "exactness.py",
    ),
    _of(
        "a hold is released once",
        "counting.py",
        'change.require(f"#{mark.attribute} = :mark", mark.attribute)\n    change.values[":mark"] = mark.text',
        'change.require("attribute_exists(pk)")\n    change.names[f"#{mark.attribute}"] = mark.attribute',
        "exactness.py",
        "dead_requests.py",
    ),
    _of(
        "seals",
        "admission.py",
        "sealed = repeated and late_copy_possible",
        "sealed = False and late_copy_possible",
        "exactness.py",
    ),
    _of(
        "room of a calendar quota",
        "accounts.py",
        'change.values[f":{quota.code}_room"] = limit - amount',
        'change.values[f":{quota.code}_room"] = limit * 2',
        "exactness.py",
    ),
    _of(
        "room of a rolling quota",
        "rolling.py",
        'f":{code}_room": limit - amount,',
        'f":{code}_room": limit * 2,',
        "rolling.py",
    ),
    _of(
        "the oldest cell counts whole",
        "rolling.py",
        "from_epoch_ms((cell + 1) * self.quota.cell * 1000)",
        "from_epoch_ms(cell * self.quota.cell * 1000)",
        "rolling.py",
    ),
    _of(
        "a failed batch gives its writes back",
        "counting.py",
        "RollingWindow.of(rolling, item).correct(change, difference, mark.started_at)",
        "pass",
        "rolling.py",
    ),
    _of(
        "requests in flight are limited",
        "accounts.py",
        'change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < :{CONCURRENT_CODE})")',
        'change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < :{CONCURRENT_CODE} OR :one = :one)")',
        "parents.py",
    ),
    _of(
        "an allotment is used up once",
        "allotments.py",
        'change.values[f"{value}_left"] = amount - here',
        'change.values[f"{value}_left"] = -1000',
        "parents.py",
    ),
    _of(
        "places in flight are compared with those granted",
        "allotments.py",
        'change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < #{granted})", IN_FLIGHT, granted)',
        'change.require(f"(attribute_exists(pk) OR #{IN_FLIGHT} < #{granted})", IN_FLIGHT, granted)',
        "parents.py",
    ),
    _of(
        "what other keys left is found before a refusal",
        "parents.py",
        "        for taker in takers(self.items.read(parent)):",
        "        for taker in ():",
        "parents.py",
    ),
    _of(
        "the dead leave their places",
        "metering.py",
        "if not sum(self.bury(api_key_id) for api_key_id in crowded.api_key_ids):",
        "if crowded:",
        "parents.py",
    ),
    _of(
        "a change voids what keys have left of their parents",
        "policies.py",
        '":inherited": {**inherited, "g": before.generation + 1},',
        '":inherited": {**inherited, "g": before.generation},',
        "parents.py",
    ),
    _of(
        "a new limit counts what was used before it",
        "parent_items.py",
        'change.values[f":{quota.code}"] = used.get(quota.code, 0)',
        'change.values[f":{quota.code}"] = 0',
        "parents.py",
    ),
    _of(
        "a change that was cut off is listed",
        "policies.py",
        "try:\n                self.propagate(scope, scope_id)",
        "try:\n                pass",
        "parents.py",
    ),
    _of(
        "what a failed request reserved goes back to its key",
        "allotments.py",
        "if over > 0 and code in held and (isinstance(quota, Quota) or name in item):",
        "if False and over > 0:",
        "parents.py",
    ),
    _of(
        "defaults of the nearest parent",
        "resolution.py",
        "            defaults |= _default(self.policy(scope, scope_id), Scope.KEY)",
        "            defaults = {**_default(self.policy(scope, scope_id), Scope.KEY), **defaults}",
        "policies.py",
    ),
    _of(
        "only keys seen lately read without the ledger",
        "admission.py",
        "if view is None or seen_at is None or not timedelta(0) <= now - seen_at < seen_within:",
        "if view is None or seen_at is None:",
        "outage.py",
    ),
    _of(
        "what is replayed is counted once",
        "usage.py",
        "return insert(self._to_item(record))",
        'return Write("Put", {"Item": insert(self._to_item(record)).request["Item"]})',
        "outage.py",
    ),
    _of(
        "the record before the release",
        "metering.py",
        "            kept = self._usage.keep(record)",
        "            kept = record",
        "exactness.py",
    ),
    Mechanism(
        "a running total is added to once",
        LEDGER + "running_totals.py",
        'condition="v = :old" if before.version else "attribute_not_exists(pk)",',
        'condition="attribute_exists(pk) OR v = :old" if before.version else "attribute_not_exists(pk)",',
        ("tests/integration/test_usage_counters.py",),
    ),
    Mechanism(
        "a total that is older than an hour's roll-up is read again",
        LEDGER + "usage_counters.py",
        "if all(hour.running <= total.version for hour in rolled_up.values()):",
        "if True:",
        ("tests/integration/test_usage_counters.py",),
    ),
)


def survives(mechanism: Mechanism, folder: Path) -> bool:
    """Whether the tests pass without the mechanism."""
    file = folder / mechanism.file
    source = file.read_text()
    assert source.count(mechanism.text) == 1, f"{mechanism.name}: its text is not there once"
    file.write_text(source.replace(mechanism.text, mechanism.instead))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-cov", "-p", "no:cacheprovider", *mechanism.tests]
        paths = os.pathsep.join(str(folder / part) for part in ("layers/core", "functions/admin", "functions/search"))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "LEDGER_SHRINK": "0"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    finally:
        file.write_text(source)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode and not failed:
        raise RuntimeError(f"{mechanism.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    first = failed[0].split(" - ")[0].rpartition("::")[2] if failed else ""
    sys.stdout.write(f"{'fails' if failed else 'SURVIVES':9} {mechanism.name}: {first}\n")
    sys.stdout.flush()
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory(prefix="vecmeter-off-") as temporary:
        folder = Path(temporary)
        for part in ("layers", "functions", "tests", "infra", "docs", "scripts", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "template.yaml"):
            shutil.copy(ROOT / part, folder / part)
        chosen = [each for each in MECHANISMS if not names or each.name in names]
        survivors = [mechanism for mechanism in chosen if survives(mechanism, folder)]
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
