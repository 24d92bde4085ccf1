"""Tables are vacuumed by the part of their rows that are dead, and analyzed by what has changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.vectors.vacuum import Remedy, TableCounts, VacuumThresholds, judge

THRESHOLDS = VacuumThresholds(dead_percent=10, changed_percent=20)


def counts(live: int, dead: int = 0, changed: int = 0, inserted: int = 0) -> TableCounts:
    return TableCounts(
        table="t", live_tuples=live, dead_tuples=dead, changed_since_analyze=changed, inserted_since_vacuum=inserted
    )


@pytest.mark.parametrize(
    ("of", "remedy", "why"),
    [
        (counts(900, dead=100), Remedy.VACUUM, "10 % of its rows are dead"),
        (counts(1000, dead=100), Remedy.NONE, "9 % of its rows are dead, less than 10 %"),
        (counts(10, dead=49), Remedy.NONE, "83 % of its rows are dead, but fewer than 50"),
        (counts(0, dead=50), Remedy.VACUUM, "100 % of its rows are dead"),
        (counts(10_000, inserted=3000), Remedy.VACUUM, "3000 rows were inserted since it was vacuumed"),
        (counts(10_000, inserted=2999), Remedy.NONE, "0 % of its rows are dead, less than 10 %"),
        (counts(1000, changed=250), Remedy.ANALYZE, "250 rows were changed since it was analyzed"),
        (counts(1000, changed=249), Remedy.NONE, "0 % of its rows are dead, less than 10 %"),
        (counts(0), Remedy.NONE, "0 % of its rows are dead, less than 10 %"),
    ],
)
def test_the_figures_decide_and_are_the_reason(of: TableCounts, remedy: Remedy, why: str) -> None:
    assert judge(of, THRESHOLDS) == (remedy, why)
    assert judge(of, THRESHOLDS, force=True) == (Remedy.VACUUM, "it is forced")


rows = st.integers(0, 10**9)


@given(rows, rows, rows, rows, rows)
def test_more_dead_rows_never_need_less(live: int, dead: int, more: int, changed: int, inserted: int) -> None:
    order = [Remedy.NONE, Remedy.ANALYZE, Remedy.VACUUM]
    less, _ = judge(counts(live, dead, changed, inserted), THRESHOLDS)
    needs, _ = judge(counts(live, dead + more, changed, inserted), THRESHOLDS)
    assert order.index(needs) >= order.index(less)
