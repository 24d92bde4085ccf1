"""Projects: renamed, deleted when nothing is left in them and not before, never half, and their ids never another's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import Instance, ManualClock
from vecmeter.errors import (
    LedgerUnavailableError,
    ProjectBeingDeletedError,
    ProjectExistsError,
    ProjectNotEmptyError,
    ProjectNotFoundError,
)
from vecmeter.ledger.model import Project


@pytest.fixture
def project(instance: Instance) -> Project:
    return instance.projects.create(project_id="project-1", user_id="user-1", name="First")


def nothing() -> list[str]:
    return []


def keys_left(instance: Instance) -> Callable[[], list[str]]:
    """What a deletion finds in the project: its keys that are not revoked."""
    return lambda: [key.api_key_id for key in instance.keys.list(project_id="project-1") if not key.revoked]


def exists(instance: Instance) -> bool:
    """Whether the project is there, in the directory and by itself: the two always agree."""
    listed = [project.project_id for project in instance.projects.list()]
    directory = [item["sk"] for item in instance.table.query("DIRECTORY#PROJECT", between=(" ", "\x7f"))]
    try:
        found = [instance.projects.get("project-1").project_id]
    except ProjectNotFoundError:
        found = []
    assert listed == found
    assert directory == [f"user-1#{name}" for name in found]
    return bool(found)


class TestNames:
    @pytest.mark.parametrize("name", ["Second", "", None])
    def test_a_project_is_renamed_and_its_name_taken_away(
        self, instance: Instance, another: Instance, project: Project, name: str | None
    ) -> None:
        renamed = instance.projects.rename("project-1", name)
        assert another.projects.get("project-1") == renamed
        assert (renamed.name, renamed.user_id, renamed.created_at) == (name, project.user_id, project.created_at)
        assert instance.projects.rename("project-1", "Third").name == "Third"

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR])
    def test_a_change_whose_answer_was_lost_holds(
        self, instance: Instance, project: Project, faults: FaultyClient, fault: Fault
    ) -> None:
        faults.fail(fault, on="transact_write_items")
        instance.projects.rename("project-1", "Second")
        assert instance.projects.get("project-1").name == "Second"
        assert len(list(instance.audit.of_target("project:project-1"))) == 2

    def test_an_unknown_project_is_neither_renamed_nor_made(self, instance: Instance) -> None:
        with pytest.raises(ProjectNotFoundError):
            instance.projects.rename("project-1", "x")
        assert not exists(instance)

    def test_a_project_that_vanishes_meanwhile_is_not_renamed(
        self, instance: Instance, another: Instance, project: Project, faults: FaultyClient
    ) -> None:
        faults.between(2, lambda: [faults.recover(), another.projects.delete("project-1", nothing)])
        with pytest.raises(ProjectNotFoundError):
            instance.projects.rename("project-1", "x")
        assert not exists(instance)


class TestDeletion:
    def test_an_empty_project_is_gone_for_every_instance(
        self, instance: Instance, another: Instance, project: Project
    ) -> None:
        key = instance.create_key(project=None)
        assert another.request(key, project_id="project-1")
        instance.projects.delete("project-1", nothing)
        assert not exists(another)
        with pytest.raises(ProjectNotFoundError):
            another.admit(key, project_id="project-1")

    def test_a_project_in_use_stays_as_it_was_and_it_is_said_by_what(
        self, instance: Instance, project: Project
    ) -> None:
        before = instance.table.get("P#project-1", "P")
        with pytest.raises(ProjectNotEmptyError, match="key_1, key_2") as refused:
            instance.projects.delete("project-1", lambda: [f"key_{number}" for number in range(1, 13)])
        assert "key_10 and 2 more" in refused.value.detail
        assert instance.table.get("P#project-1", "P") == before
        assert exists(instance)
        assert instance.create_key()

    def test_another_of_its_user_alone_may_use_its_id_again(self, instance: Instance, project: Project) -> None:
        instance.projects.delete("project-1", nothing)
        with pytest.raises(ProjectExistsError):
            instance.projects.create(project_id="project-1", user_id="user-2", name=None)
        assert not exists(instance)
        again = instance.projects.create(project_id="project-1", user_id="user-1", name=None)
        assert instance.projects.get("project-1") == again
        assert again.name is None
        assert exists(instance)
        assert instance.create_key()

    def test_a_deleted_project_is_deleted_once(self, instance: Instance, project: Project) -> None:
        instance.projects.delete("project-1", nothing)
        with pytest.raises(ProjectNotFoundError):
            instance.projects.delete("project-1", nothing)

    def test_no_key_is_made_in_a_deleted_project(self, instance: Instance, project: Project) -> None:
        instance.projects.delete("project-1", nothing)
        with pytest.raises(ProjectBeingDeletedError):
            instance.create_key()
        assert not list(instance.keys.list())

    def test_it_works_as_ever_while_it_is_looked_through_except_that_nothing_is_made_in_it(
        self, instance: Instance, another: Instance, project: Project
    ) -> None:
        wide = instance.create_key(project=None)

        def look() -> list[str]:
            assert another.request(wide, project_id="project-1")
            assert exists(another)
            assert not another.projects.is_open("project-1")
            with pytest.raises(ProjectBeingDeletedError):
                another.create_key()
            with pytest.raises(ProjectBeingDeletedError):
                another.projects.delete("project-1", nothing)
            return ["something"]

        with pytest.raises(ProjectNotEmptyError):
            instance.projects.delete("project-1", look)
        assert another.projects.is_open("project-1")
        assert another.create_key()

    def test_what_fails_while_looking_leaves_the_project_open(self, instance: Instance, project: Project) -> None:
        with pytest.raises(ZeroDivisionError):
            instance.projects.delete("project-1", lambda: [str(1 / 0)])
        assert instance.create_key()

    def test_who_looked_for_too_long_deletes_nothing(
        self, instance: Instance, project: Project, clock: ManualClock
    ) -> None:
        """The project may have opened meanwhile."""

        def look() -> list[str]:
            clock.advance(seconds=31)
            return []

        with pytest.raises(LedgerUnavailableError):
            instance.projects.delete("project-1", look)
        assert exists(instance)
        assert instance.create_key()

    @pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_process_may_die_between_any_two_steps_and_the_project_is_there_or_gone(
        self, instance: Instance, project: Project, faults: FaultyClient, clock: ManualClock, fault: Fault, call: int
    ) -> None:
        """The read, the closing, the deletion."""
        faults.fail(*[None] * (call - 1), fault)
        with pytest.raises(ProcessDied):
            instance.projects.delete("project-1", nothing)
        faults.recover()
        gone = call == 3 and fault is Fault.DIES_AFTER
        assert exists(instance) is not gone
        clock.advance(seconds=60.001)  # closed no longer
        if gone:
            with pytest.raises(ProjectBeingDeletedError):
                instance.create_key()
        else:
            assert instance.create_key()
            instance.projects.delete("project-1", nothing)
            assert not exists(instance)

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR, Fault.TIMED_OUT])
    @pytest.mark.parametrize("call", [2, 3])
    def test_a_deletion_whose_answers_were_lost_is_done_once(
        self, instance: Instance, project: Project, faults: FaultyClient, fault: Fault, call: int
    ) -> None:
        faults.fail(*[None] * (call - 1), fault)
        instance.projects.delete("project-1", nothing)
        assert not exists(instance)
        faults.deliver()
        assert not exists(instance)
        assert [record.action for record in instance.audit.of_user("user-1")].count("project.delete") == 1

    def test_a_deletion_that_arrives_when_it_was_given_up_deletes_nothing(
        self, instance: Instance, project: Project, faults: FaultyClient
    ) -> None:
        faults.fail(*[Fault.TIMED_OUT] * 3, on="transact_write_items")
        with pytest.raises(LedgerUnavailableError):
            instance.projects.delete("project-1", nothing)
        faults.recover()
        instance.create_key()
        faults.deliver()
        assert exists(instance)

    def test_of_many_deletions_at_once_one_deletes(self, instance: Instance, project: Project) -> None:
        def delete(_: int) -> bool:
            with suppress(ProjectNotFoundError, ProjectBeingDeletedError):
                instance.projects.delete("project-1", nothing)
                return True
            return False

        with ThreadPoolExecutor(8) as executor:
            assert sum(executor.map(delete, range(8))) == 1
        assert not exists(instance)


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_key_made_at_any_moment_of_a_deletion_keeps_the_project_or_is_refused(
    instance: Instance, another: Instance, project: Project, faults: FaultyClient, moment: int
) -> None:
    """Never is there a living key in a project that is gone."""
    made: list[Any] = []

    def make() -> None:
        faults.recover()
        with suppress(ProjectBeingDeletedError):
            made.append(another.keys.create(user_id="user-1", project_id="project-1", roles=("search",)))

    faults.between(moment, make)
    with suppress(ProjectNotEmptyError):
        instance.projects.delete("project-1", keys_left(instance))
    faults.recover()
    assert exists(instance) is bool(made)
    assert len(keys_left(instance)()) == len(made)


def test_keys_made_and_projects_deleted_by_many_threads_never_miss_each_other(
    instance: Instance, clock: ManualClock
) -> None:
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)

    def make(_: int) -> int:
        with suppress(ProjectBeingDeletedError):
            instance.keys.create(user_id="user-1", project_id="project-1", roles=("search",))
            return 1
        return 0

    def delete(_: int) -> None:
        with suppress(ProjectNotEmptyError, ProjectBeingDeletedError, ProjectNotFoundError):
            instance.projects.delete("project-1", keys_left(instance))

    with ThreadPoolExecutor(8) as executor:
        deleting = [executor.submit(delete, number) for number in range(4)]
        made = sum(executor.map(make, range(12)))
        for each in deleting:
            each.result()
    clock.advance(seconds=61)
    assert len(keys_left(instance)()) == made
    assert exists(instance) is bool(made)


def test_a_project_closed_by_who_died_opens_after_a_minute(
    instance: Instance, project: Project, faults: FaultyClient, clock: ManualClock
) -> None:
    faults.fail(None, Fault.DIES_AFTER)
    with pytest.raises(ProcessDied):
        instance.projects.delete("project-1", nothing)
    faults.recover()
    clock.now += timedelta(seconds=60)
    with pytest.raises(ProjectBeingDeletedError):
        instance.create_key()
    clock.now += timedelta(milliseconds=1)
    assert instance.create_key()
