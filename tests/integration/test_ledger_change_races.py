"""Limits that change while they are used: each scene once let too much or too little through."""

from __future__ import annotations

import pytest

from tests.fixtures.faults import ProcessDied
from tests.fixtures.races import PROJECT, admitted, before_once, fill_up, patient, projects  # noqa: F401
from vecmeter.errors import LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Scope
from vecmeter.ledger.policies import Policies
from vecmeter.ledger.resolution import Resolver


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
