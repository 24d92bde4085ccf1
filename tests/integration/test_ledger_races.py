"""Faults and rivals in the middle of sharing a limit: each scene once let too much or too little through."""

from __future__ import annotations

from contextlib import contextmanager, suppress

import pytest

from tests.fixtures.faults import Fault
from tests.fixtures.ledger import NOON, ManualClock, assert_exact, open_instance
from tests.fixtures.races import PROJECT, admitted, before_once, fill_up, patient, projects  # noqa: F401
from vecmeter.errors import CostExceedsLimitError, LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation, Scope


def test_a_grant_that_was_taken_back_on_its_way_is_not_credited(instance, monkeypatch):
    a, b = patient(instance), patient(instance)
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(*PROJECT, max_concurrent=1)
    held = []
    # between a's grant at the parent and its credit to the key, b takes the place back and uses it
    before_once(monkeypatch, a.admissions, "write", lambda: held.append(b.admit(keys[1])))
    with suppress(LimitExceededError):
        held.append(a.admit(keys[0]))
    assert len(held) == 1


def test_a_sealed_request_that_is_admitted_after_all_is_counted(instance, another, faults, clock):
    key = instance.create_key(max_concurrent=1)
    instance.request(key)
    another.admit(key)  # dies
    clock.advance(seconds=61)
    # instance's memory: nothing in flight. first try is lost, second fails on the place.
    faults.fail(Fault.LOST_REQUEST, on="update_item")
    hold = instance.admit(key)
    faults.recover()
    assert instance.in_flight(key) == 1, "admitted and not counted"
    hold.settle(Outcome(vectors=10, collection="docs", namespace="", response_bytes=500))
    assert_exact(instance, key, success=2, unknown=1)


def test_the_same_of_a_request_that_counts_directly(instance, clock):
    instance = patient(instance)
    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, daily_requests=100)
    instance.limit(Scope.USER, "user-1", max_concurrent=1)
    instance.admit(operator, project_id="project-2" if False else "project-1")  # dies
    clock.advance(seconds=61)
    hold = instance.admit(operator, project_id="project-1")
    item = instance.table.get("L#p#project-1", "L")
    assert item[hold.admission.mark.attribute] == hold.admission.mark.text
    assert item["d261121"] == 2


def test_parents_items_are_swept(instance, clock):
    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, daily_requests=1000)
    instance.limit(Scope.USER, "user-1", daily_requests=1)
    for _ in range(5):
        admitted(instance, operator, project_id="project-1")
    instance.limit(Scope.USER, "user-1")
    clock.advance(minutes=40)
    for _ in range(3):
        assert admitted(instance, operator, project_id="project-1")
        clock.advance(days=1)
    item = instance.table.get("L#p#project-1", "L")
    assert not [n for n in item if n[0] == "h"]
    assert len([n for n in item if n[0] == "d"]) <= 2


def test_a_dead_request_that_counted_directly_leaves_its_place(instance, clock):
    instance = patient(instance)
    operator, key = instance.create_key(project=None), instance.create_key()
    instance.limit(*PROJECT, max_concurrent=1)
    instance.admit(operator, project_id="project-1")  # dies
    clock.advance(seconds=61)
    instance.ledger.bury(operator.key.api_key_id)
    assert admitted(instance, key)


def test_a_late_copy_of_a_direct_debit_changes_nothing(instance, faults):
    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, daily_requests=100)
    faults.fail(Fault.TIMED_OUT, on="update_item")
    assert instance.request(operator, project_id="project-1")
    faults.recover()
    faults.deliver()
    item = instance.table.get("L#p#project-1", "L")
    assert (item["d261121"], item["n"]) == (1, 0)


def test_a_cost_above_a_projects_limit_can_never_fit_for_the_operator_either(instance):
    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, writes_per_day=100)
    with pytest.raises(CostExceedsLimitError):
        instance.admit(operator, project_id="project-1", operation=Operation.UPSERT, writes=101)


@pytest.mark.parametrize("burst", [{}, {"burst_requests": 100}])
def test_what_another_thread_used_while_one_waited_is_seen(instance, monkeypatch, burst):
    key = instance.create_key(requests_per_hour=1, **burst)
    instance.limit(*PROJECT, daily_requests=100)
    counts = []
    lock, fired = instance.admissions.lock, []

    @contextmanager
    def waits(name):
        if not fired:
            fired.append(1)
            counts.append(admitted(instance, key))  # the thread that had the lock
        with lock(name):
            yield

    monkeypatch.setattr(instance.admissions, "lock", waits)
    counts.append(admitted(instance, key))
    assert counts == [True, False]


def test_a_key_with_hundreds_of_seals_is_admitted(instance, clock, faults):
    key = instance.create_key()
    instance.request(key)
    for _ in range(260):  # each of them meets one lost request and leaves a seal
        faults.fail(Fault.LOST_REQUEST, on="update_item")
        instance.request(key)
        faults.recover()
    clock.advance(minutes=17)
    sizes = []
    faults.client if hasattr(faults, "client") else None
    update = instance.table.update

    def measured(*a, **k):
        sizes.append(len(k["update"]))
        return update(*a, **k)

    instance.table.update = measured
    instance.request(key)
    assert max(sizes) <= 4096


def test_a_clock_a_little_behind_keeps_the_new_months_allotment(instance, clock):
    clock.now = NOON.replace(day=30, hour=23, minute=59, second=59, microsecond=800_000)
    slow = open_instance(instance.table, instance.settings, ManualClock(clock.now))
    key = instance.create_key()
    instance.limit(*PROJECT, monthly_requests=20)
    assert admitted(slow, key)
    clock.advance(seconds=0.9)
    count = int(admitted(instance, key))
    assert admitted(slow, key)  # still November there
    for _ in range(40):
        count += admitted(instance, key)
    assert count == 20


def test_leftovers_of_the_newest_cell_are_returned(instance, clock):
    instance = patient(instance)
    key = instance.create_key()
    instance.limit(*PROJECT, writes_per_day=100)
    write = {"operation": Operation.UPSERT}
    assert admitted(instance, key, writes=10, vectors=10, **write)
    clock.advance(hours=1)
    assert admitted(instance, key)  # a search
    assert admitted(instance, key, writes=60, vectors=60, **write)


def test_leftovers_of_one_limit_are_not_lost_by_taking_of_another(instance, clock):
    instance = patient(instance)
    key = instance.create_key()
    instance.limit(*PROJECT, requests_per_day=40, requests_per_minute=1000)
    count = 0
    for _ in range(4):
        count += admitted(instance, key)
        clock.advance(seconds=10)
        count += admitted(instance, key)
        clock.advance(hours=1)
    count += sum(admitted(instance, key) for _ in range(60))
    assert count == 40


def test_the_last_of_a_limit_goes_to_whoever_comes(instance):
    a = patient(instance)
    quiet, busy = instance.create_key(), instance.create_key()
    instance.limit(*PROJECT, daily_requests=16)
    count = int(admitted(instance, quiet))
    for _ in range(9):
        count += admitted(a, busy)
    for _ in range(40):
        count += admitted(a, busy)
        count += admitted(instance, quiet)
    assert count == 16


def test_an_hour_later_unused_writes_are_there_again(instance, clock):
    instance = patient(instance)
    key = instance.create_key()
    instance.limit(*PROJECT, writes_per_day=100)
    write = {"operation": Operation.UPSERT}
    assert admitted(instance, key, writes=10, vectors=10, **write)
    clock.advance(hours=1)
    assert admitted(instance, key, writes=60, vectors=60, **write)


def test_nothing_is_given_back_while_a_copy_may_arrive(instance, another, faults, monkeypatch):
    a = patient(instance)
    b = patient(instance)
    key, other = instance.create_key(max_concurrent=1), instance.create_key()
    instance.limit(*PROJECT, daily_requests=16)
    # a takes 8; its write times out, and its second try meets a place that b took meanwhile
    held, count = [], 0
    real_write = a.admissions.write

    def write(*args):
        if not held:
            # b's own request of this key: admitted with what b takes
            held.append(b.admit(key))
            faults.fail(Fault.TIMED_OUT, on="update_item")
            try:
                return real_write(*args)
            finally:
                faults.recover()
        return real_write(*args)

    monkeypatch.setattr(a.admissions, "write", write)
    # the seal cannot be written: throttled for a moment
    real_withdraw_update = a.table.update

    def update(pk, sk, **k):
        if k["update"] == "SET #hold = :seal":
            raise LedgerUnavailableError("away")
        return real_withdraw_update(pk, sk, **k)

    monkeypatch.setattr(a.table, "update", update)
    count += admitted(a, key)
    monkeypatch.undo()
    count += 1
    held[0].settle(Outcome())
    assert faults.deliver() == 1  # unknown: one request more
    for _ in range(30):
        count += admitted(b, other)
    for _ in range(30):
        with suppress(LedgerUnavailableError):
            count += admitted(b, key)
        instance.clock.advance(seconds=61)
    total = sum(instance.used(k)["requests"] for k in (key, other))
    assert total <= 16, total


def test_a_debit_stays_where_the_request_may_be_counted(instance, faults, clock):
    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, daily_requests=100)
    instance.request(operator, project_id="project-1")
    real = instance.admissions.write

    def write(*args):
        faults.fail(Fault.LOST_ANSWER, Fault.AWAY, Fault.AWAY, on="update_item")
        try:
            return real(*args)
        finally:
            faults.recover()

    instance.admissions.write = write
    with pytest.raises(LedgerUnavailableError):
        instance.admit(operator, project_id="project-1")
    clock.advance(seconds=61)
    instance.ledger.bury(operator.key.api_key_id)
    item = instance.table.get("L#p#project-1", "L")
    assert item["d261121"] == instance.used(operator)["requests"] == 2


def test_an_admin_request_gives_nothing_back_that_it_did_not_take(instance):
    from vecmeter.ledger.model import Role

    key = instance.create_key(roles=(Role.SEARCH, Role.WRITE, Role.ADMIN))
    instance.limit(*PROJECT, daily_requests=10)
    count = sum(admitted(instance, key) for _ in range(3))
    for _ in range(5):
        with instance.admit(key, operation=Operation.ADMIN) as hold:
            hold.settle(Outcome(replayed=True))
    count += sum(admitted(instance, key) for _ in range(30))
    assert count == 10
