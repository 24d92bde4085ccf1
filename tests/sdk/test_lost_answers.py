"""Writes over a line that loses requests and answers, and limits that say no: on a running stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.clients import Live
from tests.sdk.conftest import ClientMaker
from tests.sdk.lossy_line import Fault, LossyLine, lossy_line
from vecmeter_client import (
    AuthenticationError,
    Client,
    CollectionNotFoundError,
    ConnectionLostError,
    CostExceedsLimitError,
    LimitExceededError,
    MissingRoleError,
    ProjectNotFoundError,
    Vector,
    VectorNotFoundError,
)

WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "create_collection": lambda project, notes: project.create_collection("more", dimension=3).name,
    "change": lambda project, notes: notes.change(target_recall=0.9).target_recall,
    "upsert": lambda project, notes: notes.upsert([("b", [1, 2, 3]), ("a", [1, 2, 3])]).inserted,
    "add": lambda project, notes: notes.add(("b", [1, 2, 3])).version,
    "put": lambda project, notes: notes.put(("a", [1, 2, 3])).version,
    "patch": lambda project, notes: notes.patch("a", set={"n": 2}).version,
    "update": lambda project, notes: notes.update({"n": 1}, set={"n": 2}).updated,
    "delete": lambda project, notes: notes.delete(ids=["a"]).deleted,
    "delete_one": lambda project, notes: notes.delete_one("a").vectors,
    "delete_namespace": lambda project, notes: notes.delete_namespace(""),
    "delete_collection": lambda project, notes: project.delete_collection("notes").requests,
}
RESULTS = {
    "create_collection": "more", "change": 0.9, "upsert": 1, "add": 1, "put": 2, "patch": 2, "update": 1, "delete": 1,
    "delete_one": 1, "delete_namespace": 1, "delete_collection": 1,
}  # fmt: skip


@pytest.fixture
def line(live: Live) -> Iterator[LossyLine]:
    with lossy_line(live.url) as line:
        yield line


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("name", WRITES)
def test_a_write_on_a_line_that_breaks_is_done_once_billed_once_and_answered_as_the_first(
    live: Live, line: LossyLine, make_client: ClientMaker, name: str, fault: Fault
) -> None:
    project_id = live.project()
    client = make_client(line.url, live.key(project_id), waits=False)
    project = client.project(project_id)
    project.create_collection("notes", dimension=3)
    notes = project.collection("notes")
    notes.put(Vector("a", [3, 2, 1], metadata={"n": 1}))
    line.faults = [fault]
    assert WRITES[name](project, notes) == RESULTS[name]
    assert line.faults == []
    assert len(make_client.waits) == 1
    with Client(live.url, live.admin_key) as admin:
        [*records] = admin.admin.records(project_id=project_id)
    last = [record for record in records[:-2] if record.operation != "admin"]
    assert [record.requests for record in last] == ([0, 1] if fault is Fault.LOST_ANSWER else [1])


def test_a_key_is_not_made_twice_and_the_error_says_that_nobody_knows(
    live: Live, line: LossyLine, make_client: ClientMaker
) -> None:
    name = live.project()
    admin = make_client(line.url, live.admin_key, waits=False).admin
    line.faults = [Fault.LOST_ANSWER]
    with pytest.raises(ConnectionLostError) as failed:
        admin.keys.create(user_id=name, project_id=name)
    assert (failed.value.committed, failed.value.attempts) == (None, 1)
    assert len(list(admin.keys.list(project_id=name))) == 1


def test_an_upsert_in_batches_goes_on_over_a_line_that_breaks_again_and_again(
    live: Live, line: LossyLine, make_client: ClientMaker
) -> None:
    project_id = live.project()
    client = make_client(line.url, live.key(project_id), waits=False)
    client.project(project_id).create_collection("notes", dimension=3)
    notes = client.project(project_id).collection("notes")
    line.faults = [Fault.LOST_ANSWER, Fault.LOST_REQUEST, None] * 3
    written = notes.upsert(((f"{at}", [1, at, 0]) for at in range(90)), batch_size=30)
    assert (written.inserted, written.updated) == (90, 0)
    assert notes.describe().count == 90
    assert client.usage().total_vectors == 90


def test_batches_sent_again_by_another_run_with_the_same_key_are_neither_written_nor_billed_again(
    live: Live, make_client: ClientMaker, notes: Any
) -> None:
    vectors = [(f"{at}", [1, at, 0]) for at in range(20)]
    first = notes.upsert(vectors, batch_size=10, idempotency_key="import-7")
    again = notes.upsert(vectors, batch_size=10, idempotency_key="import-7")
    assert (first.inserted, again.inserted, again.updated) == (20, 20, 0)
    assert notes.get("0").version == 1


def test_a_limit_that_says_no_is_an_error_that_tells_which_and_when_to_come_back(
    live: Live, make_client: ClientMaker, notes: Any
) -> None:
    key = live.key(notes.project, quota={"requests_per_minute": 3})
    limited = make_client(live.url, key, total_timeout=1.0).project(notes.project).collection("notes")
    for _ in range(3):
        limited.search([1, 2, 3])
    with pytest.raises(LimitExceededError) as failed:
        limited.search([1, 2, 3])
    error = failed.value
    [policy] = error.violated_policies
    assert (policy.name, policy.scope, policy.limit, policy.used) == ("requests_per_minute", "key", 3, 3)
    assert policy.resets_at is not None
    assert error.retry_after is not None
    assert 1 < error.retry_after <= 66  # a minute and the bucket it began in
    assert (error.status, error.code, error.attempts, error.committed) == (429, "limit_exceeded", 1, False)
    assert error.request_id is not None
    assert error.problem["violated_policies"][0]["limit"] == 3


def test_a_full_project_is_an_error_that_says_how_far_the_upsert_came(
    live: Live, make_client: ClientMaker, notes: Any
) -> None:
    live.call("PUT", f"/v1/admin/quotas/project/{notes.project}", {"max_vectors": 25})
    client = make_client(live.url, live.key(notes.project), max_retries=0)
    limited = client.project(notes.project).collection("notes")
    with pytest.raises(LimitExceededError) as failed:
        limited.upsert([(f"{at}", [1, at, 0]) for at in range(30)], batch_size=10)
    assert failed.value.partial is not None
    assert (failed.value.partial.next_index, failed.value.violated_policies[0].remaining) == (20, 5)
    with pytest.raises(CostExceedsLimitError):
        limited.upsert([(f"{at}", [1, at, 0]) for at in range(30)])


def test_what_a_key_may_not_reach_is_an_error_of_its_own_kind(live: Live, make_client: ClientMaker, notes: Any) -> None:
    project = notes.project
    with pytest.raises(AuthenticationError):
        make_client(live.url, "vm_local_nobody").usage()
    with pytest.raises(MissingRoleError):
        make_client(live.url, live.key(project)).admin.usage()
    with pytest.raises(MissingRoleError):
        make_client(live.url, live.key(project, ["search"])).project(project).collection("notes").put(("a", [1, 2, 3]))
    client = make_client(live.url, live.key(project))
    with pytest.raises(CollectionNotFoundError):
        client.project(project).collection("nothing").search([1, 2, 3])
    with pytest.raises(ProjectNotFoundError):
        client.project("nobodys").collection("notes").search([1, 2, 3])
    with pytest.raises(VectorNotFoundError):
        notes.get("nothing")


def test_threads_share_a_client(live: Live) -> None:
    project_id = live.project()
    with Client(live.url, live.key(project_id), total_timeout=120, max_retries=9) as client:
        client.project(project_id).create_collection("notes", dimension=3)
        notes = client.project(project_id).collection("notes")

        def work(number: int) -> str:
            notes.put((f"{number}", [1, number, 0]))
            return notes.search(id=f"{number}", top_k=1)[0].id

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(work, range(80))) == [f"{number}" for number in range(80)]
        assert sorted(notes.list_ids(), key=int) == [f"{number}" for number in range(80)]
        assert client.usage().total_requests == 80 * 2 + 2
