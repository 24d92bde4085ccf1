"""docs/ledger.md names tests and attributes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vecmeter.ledger.quotas import LIMIT_CODES, METERS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "ledger.md", ROOT / "docs" / "limits.md", *(ROOT / "docs" / "adr").glob("0002-*.md")]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_the_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = {name for name in re.findall(r"\btest_\w+\b(?!\.py)", text) if not (ROOT / "tests" / name).exists()}
    missing = {name for name in named if f"def {name}(" not in TESTS}
    classes = {name for name in re.findall(r"::(Test\w+)", text) if f"class {name}" not in TESTS}
    files = {name for name in re.findall(r"\b(test_\w+\.py)", text) if not list((ROOT / "tests").rglob(name))}
    assert not missing | classes | files


def test_the_page_shows_every_counter_and_every_limit_of_the_item() -> None:
    text = PAGES[0].read_text()
    limits = PAGES[1].read_text()
    assert {name[0] for name in re.findall(r"`([a-zA-Z]\d{4,6})`", text)} == {meter.letter for meter in METERS}
    table = limits[limits.index("### Limits by their short names") :]
    assert set(re.findall(r"^\| `(\w\w)` \|", table, re.MULTILINE)) == set(LIMIT_CODES)
