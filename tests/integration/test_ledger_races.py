"""Changes, faults and rivals in the middle of sharing a limit: each scene once let too much or too little through."""

from __future__ import annotations

import itertools
from contextlib import contextmanager, suppress

import pytest

from tests.fixtures.faults import Fault, ProcessDied
from tests.fixtures.ledger import NOON, ManualClock, assert_exact, open_instance
from vecmeter.errors import CostExceedsLimitError, LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation, Scope
from vecmeter.ledger.policies import Policies
from vecmeter.ledger.resolution import Resolver

PROJECT = (Scope.PROJECT, "project-1")


@pytest.fixture(autouse=True)
def _projects(instance):
    for number in (1, 2):
        instance.projects.create(project_id=f"project-{number}", user_id=f"user-{number}", name=None)


def admitted(instance, key, **changes):
    try:
        return instance.request(key, **changes)
    except LimitExceededError:
        return False


def patient(instance, clock=None):
    return open_instance(instance.table, instance.settings, clock or instance.clock, itertools.count(step=10).__next__)


def fill_up(instances, keys, n):
    """Admit and hold as many as go in."""
    holds = []
    for i in range(n):
        with suppress(LimitExceededError):
            holds.append(instances[i % len(instances)].admit(keys[i % len(keys)]))
    return holds


def before_once(monkeypatch, owner, name, action, after=False):
    """Run action once, just before (or after) owner.name is called."""
    original, done = getattr(owner, name), []

    def wrapped(*a, **k):
        if not done and not after:
            done.append(1)
            action()
        result = original(*a, **k)
        if not done and after:
            done.append(1)
            action()
        return result

    monkeypatch.setattr(owner, name, wrapped)


def test_places_are_counted_anew_when_a_limit_is_removed_and_added_again(instance, another):
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(*PROJECT, max_concurrent=8)
    for hold in fill_up([another], keys, 6):
        hold.settle(Outcome())
    instance.limit(*PROJECT)
    instance.limit(*PROJECT, max_concurrent=1)
    assert len(fill_up([another], keys, 6)) == 1


def test_nobody_enters_while_more_are_in_flight_than_a_lowered_limit_allows(instance, another):
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(*PROJECT, max_concurrent=8)
    holds = fill_up([another], keys, 6)
    assert len(holds) == 6
    instance.limit(*PROJECT, max_concurrent=3)
    holds.pop().settle(Outcome())
    assert not admitted(another, keys[1]), "five are in flight, three may be"


def test_a_new_limit_in_flight_counts_who_is_there_already(instance, another):
    keys = [instance.create_key() for _ in range(2)]
    fill_up([another], keys[:1], 3)
    instance.limit(*PROJECT, max_concurrent=3)
    assert not admitted(another, keys[1]), "three are in flight, three may be"


def test_a_limit_in_flight_is_lowered_while_keys_are_busy(instance, another, monkeypatch):
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(*PROJECT, max_concurrent=8)
    for hold in fill_up([another], keys, 8):
        hold.settle(Outcome())
    items = instance.policies._parents
    # a request begins between reclaim_places' read of the key and its write, for each key
    original = items.reclaim_places

    def busy(parent, name):
        key = next(k for k in keys if k.key.api_key_id == name)
        table, get = instance.table, instance.table.get
        fired = []

        def reading(pk, sk):
            item = get(pk, sk)
            if pk.startswith("K#") and not fired:
                fired.append(1)
                held.append(another.admit(key))
            return item

        table.get = reading
        try:
            return original(parent, name)
        finally:
            table.get = get

    held = []
    monkeypatch.setattr(items, "reclaim_places", busy)
    instance.limit(*PROJECT, max_concurrent=2)
    monkeypatch.undo()
    more = fill_up([another], keys, 8)
    assert len(held) + len(more) <= 2


def test_a_lowering_that_was_cut_off_is_finished(instance, another, monkeypatch, clock):
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(*PROJECT, max_concurrent=8)
    for hold in fill_up([another], keys, 6):
        hold.settle(Outcome())
    with monkeypatch.context() as cut:

        def dies(*_):
            raise ProcessDied

        cut.setattr(instance.policies, "_settle_parents", dies)
        with pytest.raises(ProcessDied):
            instance.limit(*PROJECT, max_concurrent=1)
    clock.advance(minutes=2)
    assert another.policies.finish_pending(clock.now) == 1
    assert len(fill_up([another], keys, 6)) == 1


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


def test_what_a_change_returned_is_not_taken_back_once_more(instance, monkeypatch):
    a = patient(instance)
    quiet, busy = instance.create_key(), instance.create_key()
    instance.limit(*PROJECT, daily_requests=16)
    count = int(admitted(instance, quiet))  # took 8, uses 1
    while sum(1 for _ in ()) == 0 and admitted(a, busy):
        count += 1
        if count == 9:
            break
    fired = []
    original = a.admissions.parents._relieve

    def late(*args, **kw):
        if not fired:
            fired.append(1)
            instance.limit(Scope.USER, "user-1", daily_requests=1000)  # another scope
        return original(*args, **kw)

    monkeypatch.setattr(a.admissions.parents, "_relieve", late)
    for _ in range(40):
        count += admitted(a, busy)
        count += admitted(instance, quiet)
    assert fired
    # What was on its way is lost rather than there twice.
    assert count in (15, 16)


@pytest.mark.parametrize("how", ["change", "adopt"])
def test_a_slow_change_does_not_undo_one_that_was_answered(instance, another, monkeypatch, how):
    key = instance.create_key()
    _original, fired = Policies._give_key, []
    read = instance.keys.get_with_counters

    def slow(name):
        result = read(name)
        if not fired and armed:
            fired.append(1)
            another.limit(Scope.SYSTEM, "system", daily_requests=1)  # answered here
        return result

    armed = []
    instance.limit(*PROJECT, daily_requests=1000)
    resolver_inherited = Resolver.inherited

    def inherited(self, k):
        result = resolver_inherited(self, k)
        if armed and not fired:
            fired.append(1)
            another.limit(Scope.SYSTEM, "system", daily_requests=1)
        return result

    monkeypatch.setattr(Resolver, "inherited", inherited)
    armed.append(1)
    if how == "change":
        instance.limit(*PROJECT, daily_requests=900)
    else:
        key = instance.create_key()
    assert fired
    assert sum(admitted(another, key) for _ in range(5)) == 1


def test_what_is_taken_while_a_limit_is_being_set_is_counted(instance, another, monkeypatch):
    key = instance.create_key()
    for _ in range(9):
        assert admitted(another, key)
    before_once(monkeypatch, instance.policies, "_settle_parents", lambda: admitted(another, key))
    instance.limit(*PROJECT, daily_requests=10)
    # ten are used now: the change has been answered
    assert sum(admitted(another, key) for _ in range(10)) == 0


def test_a_key_made_while_a_limit_is_being_set_hides_nobodys_use(instance, another, monkeypatch):
    key = instance.create_key()
    for _ in range(9):
        assert admitted(another, key)
    before_once(monkeypatch, instance.policies, "propagate", another.create_key)
    instance.limit(*PROJECT, daily_requests=10)
    assert sum(admitted(another, key) for _ in range(10)) == 1


def test_of_two_changes_of_a_scope_the_later_counts_on(instance, another, monkeypatch):
    key = instance.create_key()
    instance.limit(*PROJECT, daily_requests=20)
    for _ in range(9):
        assert admitted(another, key)
    # a removal is slow in its last step; a later change sets a limit and is answered
    before_once(monkeypatch, instance.policies, "_settle_parents", lambda: another.limit(*PROJECT, daily_requests=10))
    instance.limit(*PROJECT)
    assert sum(admitted(another, key) for _ in range(10)) == 1


def test_what_a_request_did_not_use_comes_back_though_a_policy_changed_meanwhile(instance):
    key = instance.create_key()
    instance.limit(*PROJECT, daily_tokens=1000)
    with instance.admit(key, tokens=900):  # fails: gives its tokens back
        instance.limit(Scope.USER, "user-1", daily_requests=1000)
    assert admitted(instance, key, tokens=900)


def test_a_rolling_limit_that_was_removed_and_added_again_knows_what_was_used(instance):
    key, other = instance.create_key(), instance.create_key()
    instance.limit(*PROJECT, requests_per_day=20)
    assert admitted(instance, key)
    instance.limit(*PROJECT)
    instance.limit(*PROJECT, requests_per_day=20)
    assert sum(admitted(instance, other) for _ in range(30)) >= 19


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


def test_a_project_that_never_stands_still_is_unavailable(instance, monkeypatch):
    from vecmeter.ledger.table import ConditionFailed

    operator = instance.create_key(project=None)
    instance.limit(*PROJECT, daily_requests=100)
    update = instance.table.update

    def lost(pk, *a, **k):
        if pk == "L#p#project-1":
            raise ConditionFailed([{}])
        return update(pk, *a, **k)

    monkeypatch.setattr(instance.table, "update", lost)
    with pytest.raises((LedgerUnavailableError, LimitExceededError)):
        instance.admit(operator, project_id="project-1")


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


def test_a_pending_change_of_a_deleted_project_keeps_no_other_waiting(instance, another, monkeypatch, clock):
    with monkeypatch.context() as cut:
        cut.setattr(instance.policies, "propagate", lambda *_: None)
        instance.limit(Scope.PROJECT, "project-2", daily_requests=1)
        instance.limit(Scope.USER, "user-1", daily_requests=1)
    instance.projects.delete("project-2", list)
    instance.create_key()
    clock.advance(minutes=2)
    another.policies.finish_pending(clock.now)
    assert another.policies.finish_pending(clock.now) == 0


def test_a_change_does_not_strike_off_a_later_one(instance, another, monkeypatch, clock):
    instance.create_key()

    def second():
        with monkeypatch.context() as cut:
            cut.setattr(another.policies, "propagate", lambda *_: None)  # dies
            another.limit(*PROJECT, daily_requests=1)

    before_once(monkeypatch, instance.table, "delete_if", second)
    instance.limit(*PROJECT, daily_requests=1000)
    clock.advance(minutes=2)
    assert instance.policies.finish_pending(clock.now) == 1


def test_what_was_taken_under_a_limit_that_began_anew_is_not_used(instance, another, monkeypatch):
    key = instance.create_key()
    instance.limit(*PROJECT, daily_requests=20)

    def remove_and_add():
        another.limit(*PROJECT)
        another.limit(*PROJECT, daily_requests=20)

    before_once(monkeypatch, instance.admissions, "write", remove_and_add)
    count = sum(admitted(instance, key) for _ in range(40))
    assert count == 20


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


def test_a_grant_that_never_arrived_is_bound_to_the_limit_of_today(instance, another, monkeypatch):
    a = patient(instance)
    key = instance.create_key()
    instance.limit(*PROJECT, max_concurrent=4)
    instance.limit(Scope.USER, "user-1", daily_requests=0)
    assert not admitted(a, key)  # granted by the project, refused by the user
    instance.limit(*PROJECT)
    instance.limit(Scope.USER, "user-1")
    instance.limit(*PROJECT, max_concurrent=0)
    assert not admitted(a, key)


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
