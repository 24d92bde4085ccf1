"""Rotated, changed and revoked keys: what works from when to when, on every instance, whatever gets lost on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import Instance, ManualClock, item_size, secret_with
from vecmeter.errors import (
    ApiKeyNotFoundError,
    ApiKeyRevokedError,
    AuthenticationError,
    LedgerUnavailableError,
    MissingRoleError,
    ProjectBeingDeletedError,
)
from vecmeter.ledger.keys import CreatedKey, parse_secret
from vecmeter.ledger.model import ApiKey, Role

HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)


def works(instance: Instance, secret: str) -> bool:
    try:
        return instance.request(secret)
    except AuthenticationError:
        return False


def rotate(instance: Instance, key: CreatedKey | str, grace: timedelta = NO_GRACE) -> str:
    name = key if isinstance(key, str) else key.key.api_key_id
    return instance.keys.rotate(name, grace).secret


class TestRotation:
    @pytest.fixture
    def key(self, instance: Instance, another: Instance) -> CreatedKey:
        """Both instances have a view of it."""
        key = instance.create_key()
        assert instance.request(key)
        assert another.request(key)
        return key

    def test_without_grace_the_old_secret_ends_with_its_next_request_on_every_instance(
        self, instance: Instance, another: Instance, key: CreatedKey
    ) -> None:
        secret = rotate(instance, key)
        assert secret != key.secret
        assert parse_secret(secret).api_key_id == key.key.api_key_id
        for each in (another, instance):
            assert not works(each, key.secret)
            assert works(each, secret)

    def test_with_grace_both_secrets_work_until_it_ends_to_the_millisecond(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        secret = rotate(instance, key, HOUR)
        for each in (another, instance):
            assert works(each, secret)
            assert works(each, key.secret)
        clock.advance(minutes=59, seconds=59.999)
        for each in (another, instance):
            assert works(each, key.secret)
        clock.advance(milliseconds=1)
        for each in (another, instance):
            assert not works(each, key.secret)
            assert works(each, secret)

    def test_the_old_secret_never_outlives_the_expiry_it_had(
        self, instance: Instance, another: Instance, clock: ManualClock
    ) -> None:
        key = instance.create_key(expires_at=clock() + HOUR)
        secret = rotate(instance, key, 5 * HOUR)
        # Not even when the key is given more time afterwards.
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, expires_at=None))
        clock.advance(minutes=59, seconds=59.999)
        assert works(another, key.secret)
        clock.advance(milliseconds=1)
        assert not works(another, key.secret)
        assert works(another, secret)

    def test_an_expired_key_stays_expired_when_it_is_rotated(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(expires_at=clock() + HOUR)
        clock.advance(hours=2)
        secret = rotate(instance, key, HOUR)
        assert not works(instance, secret)
        assert not works(instance, key.secret)

    def test_a_shorter_expiry_ends_both_secrets(self, instance: Instance, key: CreatedKey, clock: ManualClock) -> None:
        secret = rotate(instance, key, 5 * HOUR)
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, expires_at=clock() + HOUR))
        clock.advance(hours=1)
        assert not works(instance, key.secret)
        assert not works(instance, secret)

    def test_of_a_key_that_is_rotated_again_only_the_newest_old_secret_is_left(
        self, instance: Instance, another: Instance, key: CreatedKey
    ) -> None:
        second = rotate(instance, key, HOUR)
        third = rotate(another, key, HOUR)
        assert [works(instance, secret) for secret in (key.secret, second, third)] == [False, True, True]
        fourth = rotate(instance, key)
        assert [works(another, secret) for secret in (key.secret, second, third, fourth)] == [False, False, False, True]

    def test_revoking_ends_both_secrets(self, instance: Instance, another: Instance, key: CreatedKey) -> None:
        secret = rotate(instance, key, HOUR)
        instance.keys.revoke(key.key.api_key_id)
        assert not works(another, secret)
        assert not works(another, key.secret)

    def test_counters_records_limits_and_requests_in_flight_stay(
        self, instance: Instance, another: Instance, clock: ManualClock
    ) -> None:
        key = instance.create_key(daily_requests=3)
        instance.request(key, tokens=70)
        with another.admit(key, tokens=30) as hold:
            before = instance.used(key)
            secret = rotate(instance, key)
            assert instance.used(key) == before == {"requests": 2, "tokens": 100, "micro_usd": before["micro_usd"]}
            assert instance.in_flight(key) == 1
            assert hold is not None
        assert instance.in_flight(key) == 0
        assert works(instance, secret)
        assert instance.used(key)["requests"] == 3
        assert len(instance.records(key)) == 3
        assert instance.keys.get(key.key.api_key_id).policy.daily_requests == 3

    def test_what_is_shown_of_the_secret_is_that_of_the_new_one(self, instance: Instance, key: CreatedKey) -> None:
        rotated = instance.keys.rotate(key.key.api_key_id, HOUR)
        assert rotated.key.last4 == rotated.secret[-4:]
        assert rotated.secret.startswith(rotated.key.prefix)
        assert instance.keys.get(key.key.api_key_id) == rotated.key
        assert [listed.last4 for listed in instance.keys.list()] == [rotated.secret[-4:]]

    def test_a_forged_secret_is_refused_during_a_grace(self, instance: Instance, key: CreatedKey) -> None:
        rotate(instance, key, HOUR)
        assert not works(instance, secret_with(key.key.api_key_id, "A" * 22))

    def test_an_old_secret_leaves_the_item_with_the_first_change_after_its_grace(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        rotate(instance, key, HOUR)
        assert {"s2", "x2"} <= instance.item(key).keys()
        clock.advance(hours=1)
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, name="other"))
        assert not {"s2", "x2"} & instance.item(key).keys()

    def test_the_item_grows_by_less_than_50_bytes_in_a_grace(self, instance: Instance, key: CreatedKey) -> None:
        before = item_size(instance.item(key))
        rotate(instance, key, HOUR)
        assert item_size(instance.item(key)) - before < 50

    @pytest.mark.parametrize("unknown", ["key_unknown", "", "K#x"])
    def test_an_unknown_key_is_neither_rotated_nor_made(self, instance: Instance, unknown: str) -> None:
        with pytest.raises(ApiKeyNotFoundError):
            rotate(instance, unknown)
        assert instance.table.get(f"K#{unknown}", "K") is None

    def test_a_revoked_key_is_not_rotated(self, instance: Instance, key: CreatedKey) -> None:
        instance.keys.revoke(key.key.api_key_id)
        before = instance.item(key)
        with pytest.raises(ApiKeyRevokedError):
            rotate(instance, key, HOUR)
        assert instance.item(key) == before


class TestLostAnswers:
    """The secret that is returned is the one that was stored; a rotation that fails has changed all or nothing."""

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR, Fault.TIMED_OUT])
    def test_the_secret_returned_is_the_one_stored(
        self, instance: Instance, faults: FaultyClient, fault: Fault
    ) -> None:
        key = instance.create_key()
        faults.fail(fault, fault, on="transact_write_items")
        secret = rotate(instance, key, HOUR)
        stored = instance.item(key)
        assert stored["s"] == hashlib.sha256(secret.encode()).digest()
        assert stored["s2"] == hashlib.sha256(key.secret.encode()).digest()
        faults.deliver()  # what timed out arrives now
        assert instance.item(key) == stored
        assert works(instance, secret)
        assert works(instance, key.secret)

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.TIMED_OUT])
    def test_a_late_copy_of_a_rotation_does_not_bring_back_its_secret(
        self, instance: Instance, another: Instance, faults: FaultyClient, fault: Fault
    ) -> None:
        key = instance.create_key()
        faults.fail(fault, fault, fault, on="transact_write_items")
        with pytest.raises(LedgerUnavailableError):
            rotate(instance, key)
        secret = rotate(another, key)
        faults.deliver()
        assert works(instance, secret)
        assert not works(instance, key.secret)

    def test_another_change_that_comes_between_is_kept(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key()
        name = key.key.api_key_id

        def interfere(call: str) -> None:
            if call == "transact_write_items":
                faults.recover()
                another.keys.change(name, lambda found: replace(found, name="between"))

        faults.choose = interfere
        secret = rotate(instance, key, HOUR)
        assert instance.keys.get(name).name == "between"
        assert works(another, secret)
        assert works(another, key.secret)

    @pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_process_that_dies_leaves_the_key_rotated_or_not(
        self, instance: Instance, another: Instance, faults: FaultyClient, fault: Fault, call: int
    ) -> None:
        key = instance.create_key()
        before, shown = instance.item(key), instance.keys.get(key.key.api_key_id).last4
        faults.fail(*[None] * (call - 1), fault)
        with pytest.raises(ProcessDied):
            rotate(instance, key, HOUR)
        faults.recover()
        rotated = call == 3 and fault is Fault.DIES_AFTER
        assert (instance.item(key) != before) is rotated
        assert (another.keys.get(key.key.api_key_id).last4 != shown) is rotated
        assert works(another, key.secret)

    def test_of_rotations_at_once_the_last_secret_works_and_no_more_than_one_before_it(
        self, instance: Instance, another: Instance
    ) -> None:
        key = instance.create_key()
        with ThreadPoolExecutor(4) as executor:
            secrets = list(executor.map(lambda each: rotate(each, key, HOUR), [instance, another] * 4))
        working = [secret for secret in secrets if works(instance, secret)]
        assert len(set(secrets)) == 8
        assert len(working) == 2
        assert not works(instance, key.secret)


class TestChanges:
    @pytest.fixture
    def key(self, instance: Instance, another: Instance) -> CreatedKey:
        key = instance.create_key()
        assert another.request(key)
        return key

    @pytest.mark.parametrize("fault", [None, Fault.LOST_ANSWER, Fault.LOST_REQUEST])
    def test_another_role_holds_for_the_next_request_on_every_instance(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient, fault: Fault | None
    ) -> None:
        faults.fail(fault, on="transact_write_items")
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, roles=frozenset({Role.WRITE})))
        with pytest.raises(MissingRoleError):
            another.admit(key)
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, roles=frozenset({Role.SEARCH})))
        assert another.request(key)

    def test_another_expiry_holds_for_the_next_request_on_every_instance(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        name = key.key.api_key_id
        changed = instance.keys.change(name, lambda found: replace(found, expires_at=clock() + HOUR))
        assert instance.keys.get(name) == changed
        clock.advance(hours=1)
        assert not works(another, key.secret)
        instance.keys.change(name, lambda found: replace(found, expires_at=None))
        assert works(another, key.secret)

    @pytest.mark.parametrize("name", ["other", "", None])
    def test_a_name_is_changed_and_taken_away(self, instance: Instance, key: CreatedKey, name: str | None) -> None:
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, name="first"))
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, name=name))
        assert instance.keys.get(key.key.api_key_id).name == name

    def test_a_change_of_nothing_writes_nothing(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        before = instance.item(key)
        with faults.counted() as calls:
            instance.keys.change(key.key.api_key_id, lambda found: found)
        assert calls == {"get_item": 2}
        assert instance.item(key) == before

    def test_a_revoked_key_is_not_changed(self, instance: Instance, key: CreatedKey) -> None:
        instance.keys.revoke(key.key.api_key_id)
        before = instance.item(key)
        with pytest.raises(ApiKeyRevokedError):
            instance.keys.change(key.key.api_key_id, lambda found: replace(found, expires_at=None, name="x"))
        instance.keys.revoke(key.key.api_key_id)
        assert instance.item(key) == before

    def test_changes_of_different_kinds_at_once_all_take_effect(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        name = key.key.api_key_id
        changes: list[Callable[[ApiKey], ApiKey]] = [
            lambda found: replace(found, name="n"),
            lambda found: replace(found, roles=found.roles | {Role.ADMIN}),
            lambda found: replace(found, expires_at=clock() + HOUR),
            lambda found: replace(found, roles=found.roles - {Role.WRITE}),
        ]
        with ThreadPoolExecutor(5) as executor:
            policy = executor.submit(instance.keys.change_policy, name, lambda p: replace(p, daily_requests=7))
            list(executor.map(lambda change: instance.keys.change(name, change), changes))
            policy.result()
        found = instance.keys.get(name)
        assert (found.name, found.roles, found.expires_at) == ("n", {Role.SEARCH, Role.ADMIN}, clock() + HOUR)
        assert found.policy.daily_requests == 7

    def test_changes_leave_the_counters_alone(self, instance: Instance, key: CreatedKey) -> None:
        before = instance.used(key)
        instance.keys.change(key.key.api_key_id, lambda found: replace(found, name="n", expires_at=None))
        assert instance.used(key) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda keys, name: keys.rotate(name, HOUR),
        lambda keys, name: keys.change(name, lambda found: replace(found, name="n")),
    ],
)
def test_no_key_of_a_deleted_project_comes_back_to_life(instance: Instance, clock: ManualClock, change: Any) -> None:
    """One that had expired kept nobody from deleting the project."""
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    key = instance.create_key(expires_at=clock() + HOUR)
    clock.advance(hours=2)
    instance.projects.delete("project-1", list)
    before = instance.item(key)
    with pytest.raises(ProjectBeingDeletedError):
        change(instance.keys, key.key.api_key_id)
    assert instance.item(key) == before
    instance.keys.revoke(key.key.api_key_id)
    assert instance.keys.get(key.key.api_key_id).revoked
