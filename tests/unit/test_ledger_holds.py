"""Marks of requests in flight: nothing is lost on the way to the item and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from vecmeter.ledger.holds import SEAL_LIFE, HoldMark, dead_holds, old_seals, seal
from vecmeter.ledger.model import Cost, Operation, from_epoch_ms
from vecmeter.ledger.quotas import METERS

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AMOUNTS = st.integers(0, 10**15)
MARKS = st.builds(
    HoldMark,
    request_id=st.from_regex(r"[0-9a-f]{16}", fullmatch=True) | st.text(min_size=1),
    started_at=st.integers(0, 4_000_000_000_000).map(from_epoch_ms),
    operation=st.sampled_from(Operation),
    project_id=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
    reserved=st.builds(Cost, requests=AMOUNTS, tokens=AMOUNTS, micro_usd=AMOUNTS),
)


def mark(request_id: str, started_at: datetime) -> HoldMark:
    return HoldMark(
        request_id=request_id, started_at=started_at, operation=Operation.SEARCH, project_id=None, reserved=Cost()
    )


@given(MARKS)
def test_a_dead_hold_is_read_back_as_it_was_written(written: HoldMark) -> None:
    item = {"pk": "K#key", "hits": 3, written.attribute: written.text}
    found = list(dead_holds(item, written.started_at + timedelta(seconds=61), 60))
    assert found == [written]
    assert found[0].text == written.text


def test_a_hold_is_dead_once_its_life_is_over_and_not_before() -> None:
    held = mark("a", NOW)
    item = {held.attribute: held.text}
    assert list(dead_holds(item, NOW + timedelta(seconds=60), 60)) == []
    assert list(dead_holds(item, NOW + timedelta(seconds=60, milliseconds=1), 60)) == [held]
    assert list(dead_holds(item, NOW - timedelta(days=1), 60)) == []


def test_a_seal_is_no_hold_and_is_old_when_no_copy_can_arrive() -> None:
    item = {"ha": seal(NOW), "hb": mark("b", NOW).text}
    later = NOW + timedelta(days=1)
    assert [hold.request_id for hold in dead_holds(item, later, 60)] == ["b"]
    assert list(old_seals(item, NOW + SEAL_LIFE)) == []
    assert list(old_seals(item, NOW + SEAL_LIFE + timedelta(milliseconds=1))) == ["ha"]


@given(st.sets(st.sampled_from(["pk", "sk", "s", "st", "v", "u", "p", "ro", "xp", "lim", "n"])), MARKS)
def test_no_other_attribute_is_taken_for_a_hold(names: set[str], written: HoldMark) -> None:
    counters = {meter.counter(NOW): 5 for meter in METERS}
    item = {**dict.fromkeys(names, "x"), **counters, written.attribute: written.text}
    assert len(list(dead_holds(item, datetime(2200, 1, 1, tzinfo=UTC), 60))) == 1
    assert list(old_seals(item, datetime(2200, 1, 1, tzinfo=UTC))) == []


def test_every_operation_has_a_letter_of_its_own() -> None:
    texts = {
        HoldMark(request_id="a", started_at=NOW, operation=operation, project_id=None, reserved=Cost()).text
        for operation in Operation
    }
    assert len(texts) == len(Operation)
