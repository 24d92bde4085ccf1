"""Keys and projects: created once, listed in order, changed without losing a change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient
from tests.fixtures.ledger import Instance, ManualClock, secret_with
from vecmeter.errors import (
    ApiKeyNotFoundError,
    AuthenticationError,
    LedgerUnavailableError,
    ProjectExistsError,
    ProjectNotFoundError,
)
from vecmeter.ledger.key_items import listing_position
from vecmeter.ledger.keys import Keys, generate_secret, parse_secret
from vecmeter.ledger.model import Policy, Role
from vecmeter.ledger.projects import project_position


def drawing(instance: Instance, draw: Callable[[], tuple[str, str]]) -> Keys:
    """Keys whose secrets are these."""
    return Keys(instance.table, instance.clock, "live", instance.projects, instance.audit, generate=lambda _: draw())


class TestKeys:
    def test_a_created_key_is_found_as_it_was_described(self, instance: Instance, clock: ManualClock) -> None:
        created = instance.keys.create(
            user_id="user-1",
            project_id="project-1",
            roles=(Role.WRITE, Role.SEARCH, Role.SEARCH),
            name="ingest",
            expires_at=clock() + timedelta(days=1),
            policy=Policy(daily_requests=5, notes="n"),
        )
        assert instance.keys.get(created.key.api_key_id) == created.key
        assert created.key.roles == {Role.SEARCH, Role.WRITE}
        assert created.key.policy == Policy(daily_requests=5, notes="n")
        assert created.key.expires_at == clock() + timedelta(days=1)
        assert created.key.created_at == clock()
        assert created.secret.startswith(created.key.prefix)
        assert created.secret.endswith(created.key.last4)

    def test_the_secret_is_nowhere_in_the_table(
        self, instance: Instance, faults: FaultyClient, dynamodb_client: Any
    ) -> None:
        secret = instance.create_key().secret
        instance.request(secret)
        hidden = secret[len("vm_live_") + 11 : -4]
        stored = dynamodb_client.scan(TableName=instance.table.name)
        assert stored["Count"] >= 6
        assert hidden not in repr(stored)
        assert not any(hidden in repr(request) for _, request in faults.requests)

    def test_no_more_of_the_secret_is_shown_than_its_prefix_and_last_four(self, instance: Instance) -> None:
        created = instance.create_key()
        shown = repr(created.key)
        assert created.key.prefix == created.secret[: len("vm_live_") + 4]
        assert created.secret[len("vm_live_") + 11 : -4] not in shown

    def test_a_key_authenticates_with_its_secret_alone(self, instance: Instance) -> None:
        created = instance.create_key()
        assert instance.keys.authenticate(parse_secret(created.secret)).api_key_id == created.key.api_key_id
        for wrong in (secret_with(created.key.api_key_id, "A" * 22), generate_secret("live")[1]):
            with pytest.raises(AuthenticationError):
                instance.keys.authenticate(parse_secret(wrong))

    def test_ids_that_collide_are_drawn_again_and_the_first_key_stays(self, instance: Instance) -> None:
        first = instance.create_key()
        colliding = (first.key.api_key_id, secret_with(first.key.api_key_id, "B" * 22))
        drawn = iter([colliding, colliding, generate_secret("live")])
        keys = Keys(
            instance.table, instance.clock, "live", instance.projects, instance.audit, generate=lambda _: next(drawn)
        )
        second = keys.create(user_id="user-2", project_id=None, roles=(Role.ADMIN,))
        assert second.key.api_key_id != first.key.api_key_id
        assert instance.request(first)
        assert [key.user_id for key in instance.keys.list()] == ["user-1", "user-2"]

    def test_ids_that_always_collide_are_a_fault_that_ends(self, instance: Instance) -> None:
        first = instance.create_key()
        colliding = (first.key.api_key_id, secret_with(first.key.api_key_id, "B" * 22))
        keys = Keys(
            instance.table, instance.clock, "live", instance.projects, instance.audit, generate=lambda _: colliding
        )
        with pytest.raises(LedgerUnavailableError):
            keys.create(user_id="user-2", project_id=None, roles=(Role.ADMIN,))
        assert [key.user_id for key in instance.keys.list()] == ["user-1"]

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.THROTTLED])
    def test_a_key_whose_creation_was_repeated_exists_once(
        self, instance: Instance, faults: FaultyClient, fault: Fault
    ) -> None:
        faults.fail(fault, fault)
        created = instance.create_key()
        assert [key.api_key_id for key in instance.keys.list()] == [created.key.api_key_id]
        assert instance.request(created)

    @pytest.mark.parametrize("api_key_id", ["key_unknown", "", "x" * 3000, "K#x"])
    def test_an_unknown_key_is_not_found(self, instance: Instance, api_key_id: str) -> None:
        with pytest.raises(ApiKeyNotFoundError):
            instance.keys.get(api_key_id)

    def test_an_unknown_key_is_neither_revoked_nor_changed_nor_made(self, instance: Instance) -> None:
        with pytest.raises(ApiKeyNotFoundError):
            instance.keys.revoke("key_unknown")
        with pytest.raises(ApiKeyNotFoundError):
            instance.keys.change_policy("key_unknown", lambda policy: policy)
        assert instance.table.get("K#key_unknown", "K") is None

    def test_revoking_again_changes_nothing_more(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key()
        faults.fail(Fault.LOST_ANSWER)
        instance.keys.revoke(key.key.api_key_id)
        instance.keys.revoke(key.key.api_key_id)
        assert instance.keys.get(key.key.api_key_id).revoked


class TestPolicies:
    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR])
    def test_a_change_whose_answer_was_lost_holds(self, instance: Instance, faults: FaultyClient, fault: Fault) -> None:
        key = instance.create_key(daily_requests=1, notes="kept")
        faults.fail(fault, on="transact_write_items")
        changed = instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_requests=7))
        assert changed.policy == Policy(daily_requests=7, notes="kept")
        assert instance.keys.get(key.key.api_key_id).policy == changed.policy

    def test_changes_at_once_all_take_effect(self, instance: Instance) -> None:
        key = instance.create_key()
        names = ["daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens", "alert_threshold_pct"]

        def change(name: str) -> None:
            changed: dict[str, Any] = {name: 42}
            instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, **changed))

        with ThreadPoolExecutor(5) as executor:
            list(executor.map(change, names))
        policy = instance.keys.get(key.key.api_key_id).policy
        assert [getattr(policy, name) for name in names] == [42] * 5

    def test_a_change_that_never_finds_a_still_moment_ends(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key()

        def disturb(name: str) -> None:
            if name == "transact_write_items":
                faults.recover()
                another.keys.change_policy(key.key.api_key_id, lambda policy: policy)
                faults.choose = disturb

        faults.choose = disturb
        with pytest.raises(LedgerUnavailableError):
            instance.keys.change_policy(key.key.api_key_id, lambda policy: policy)

    def test_a_change_leaves_the_counters_alone(self, instance: Instance) -> None:
        key = instance.create_key()
        instance.request(key, tokens=9)
        before = instance.used(key)
        instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_requests=7))
        assert instance.used(key) == before


class TestProjects:
    def test_a_project_is_found_as_it_was_created(self, instance: Instance, clock: ManualClock) -> None:
        created = instance.projects.create(project_id="p-1", user_id="u-1", name="First")
        assert instance.projects.get("p-1") == created
        assert (created.user_id, created.name, created.created_at) == ("u-1", "First", clock())

    def test_a_project_id_is_taken_once_whoever_asks(self, instance: Instance) -> None:
        instance.projects.create(project_id="p-1", user_id="u-1", name=None)
        with pytest.raises(ProjectExistsError):
            instance.projects.create(project_id="p-1", user_id="u-2", name=None)
        assert [project.user_id for project in instance.projects.list()] == ["u-1"]

    def test_of_many_who_create_one_project_at_once_one_does(self, instance: Instance) -> None:
        def create(number: int) -> bool:
            try:
                instance.projects.create(project_id="p-1", user_id=f"u-{number}", name=None)
            except ProjectExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as executor:
            created = list(executor.map(create, range(8)))
        assert created.count(True) == 1
        assert [project.user_id for project in instance.projects.list()] == [f"u-{created.index(True)}"]

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR])
    def test_a_creation_whose_answer_was_lost_does_not_find_itself_in_the_way(
        self, instance: Instance, faults: FaultyClient, fault: Fault
    ) -> None:
        faults.fail(fault, fault)
        assert instance.projects.create(project_id="p-1", user_id="u-1", name=None).project_id == "p-1"
        assert instance.projects.get("p-1").user_id == "u-1"

    @pytest.mark.parametrize("project_id", ["missing", "", "x" * 3000])
    def test_an_unknown_project_is_not_found(self, instance: Instance, project_id: str) -> None:
        with pytest.raises(ProjectNotFoundError):
            instance.projects.get(project_id)


class TestLists:
    """Users and projects whose names begin alike, and with every character a name may have."""

    USERS = ("a", "a-", "a.b", "aa", "A", "z_9")

    @pytest.fixture(autouse=True)
    def _filled(self, instance: Instance) -> None:
        for user in self.USERS:
            for project in ("p", "p-1", "p.1", "pp"):
                instance.projects.create(project_id=f"{user}.{project}", user_id=user, name=None)
                instance.create_key(user=user, project=f"{user}.{project}")
            instance.create_key(user=user, project=None)

    def test_every_key_is_listed_once_in_order(self, instance: Instance) -> None:
        keys = list(instance.keys.list())
        positions = [listing_position(key) for key in keys]
        assert len(keys) == 5 * len(self.USERS)
        assert positions == sorted(set(positions))
        assert all(instance.keys.get(key.api_key_id) == key for key in keys)

    @pytest.mark.parametrize("user", [*USERS, "b", "a#"])
    def test_the_keys_of_a_user_are_those_and_no_others(self, instance: Instance, user: str) -> None:
        keys = list(instance.keys.list(user_id=user))
        assert len(keys) == (5 if user in self.USERS else 0)
        assert {key.user_id for key in keys} <= {user}
        projects = list(instance.projects.list(user_id=user))
        assert [p.project_id for p in projects] == [f"{user}.{p}" for p in ("p", "p-1", "p.1", "pp")][: len(keys)]

    @pytest.mark.parametrize("user", [None, "a"])
    def test_the_keys_of_a_project_are_those_and_no_others(self, instance: Instance, user: str | None) -> None:
        [key] = instance.keys.list(user_id=user, project_id="a.p")
        assert (key.user_id, key.project_id) == ("a", "a.p")
        assert not list(instance.keys.list(user_id="aa", project_id="a.p"))

    @pytest.mark.parametrize("filters", [{}, {"user_id": "a"}, {"user_id": "a", "project_id": "a.p"}])
    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_pages_put_together_are_the_list(self, instance: Instance, filters: dict[str, str], size: int) -> None:
        whole, pages, after = list(instance.keys.list(**filters)), [], ""
        while page := list(islice(instance.keys.list(**filters, after=after), size)):
            pages += page
            after = listing_position(page[-1])
        assert pages == whole

    def test_pages_of_projects_put_together_are_the_list(self, instance: Instance) -> None:
        whole, pages, after = list(instance.projects.list()), [], ""
        while page := list(islice(instance.projects.list(after=after), 5)):
            pages += page
            after = project_position(page[-1])
        assert pages == whole
        assert len(whole) == 4 * len(self.USERS)

    @pytest.mark.parametrize("after", ["zz#", "a$", "\U0001f600", "x" * 3000, "a#a.p#key_zzzzzzzzzzz#more"])
    def test_a_position_of_another_list_shows_nothing_of_it(self, instance: Instance, after: str) -> None:
        assert {key.user_id for key in instance.keys.list(user_id="a", after=after)} <= {"a"}
        assert {project.user_id for project in instance.projects.list(user_id="a", after=after)} <= {"a"}

    def test_a_page_reads_no_more_keys_than_it_shows(self, instance: Instance, faults: FaultyClient) -> None:
        with faults.counted() as calls:
            assert len(list(islice(instance.keys.list(), 3))) == 3
        assert calls == {"query": 1, "get_item": 3}
