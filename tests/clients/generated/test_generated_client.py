"""What somebody does with a client made from the document: every call through its own functions and types."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import os
import struct
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from generated_client import AuthenticatedClient, Client
from generated_client.api.collections import (
    change_collection,
    create_collection,
    delete_collection,
    get_collection,
    list_collections,
)
from generated_client.api.costs import daily_costs
from generated_client.api.health import health, ready
from generated_client.api.maintenance import maintenance_runs, run_maintenance
from generated_client.api.metrics import metrics
from generated_client.api.namespaces import delete_namespace, list_namespaces
from generated_client.api.own_usage import own_costs, own_quota, own_usage
from generated_client.api.projects_and_keys import create_key, create_project, list_keys, revoke_key, rotate_key
from generated_client.api.quotas import get_policy, put_policy
from generated_client.api.search import measure_recall, search, search_batch
from generated_client.api.usage import usage_detailed, usage_records
from generated_client.api.vectors import (
    add_vector,
    delete_vectors,
    fetch_vectors,
    get_vector,
    list_vectors,
    patch_vector,
    put_vector,
    update_vectors,
    upsert_vectors,
)
from generated_client.models import (
    BatchBody,
    ChangeBody,
    ChangeIndexBody,
    CollectionBody,
    CollectionOut,
    DeleteBody,
    FetchBody,
    KeyBody,
    KeyBodyRolesItem,
    PatchBody,
    PatchBodySetType0,
    PolicyBody,
    Problem,
    ProjectBody,
    PutBody,
    RecallBody,
    Scope,
    SearchBatchBody,
    SearchBody,
    SearchBodyFilterType0,
    SearchBodyIncludeItem,
    SearchBodyMode,
    TaskBody,
    UpdateBody,
    UpdateBodyFilter,
    UpdateBodySetType0,
    VectorBody,
    VectorBodyMetadataType0,
)

URL = os.environ["VECMETER_URL"]
PROJECT = os.environ["VECMETER_PROJECT"]
NUMBERS = itertools.count(1)


@pytest.fixture
def client() -> Iterator[AuthenticatedClient]:
    with AuthenticatedClient(URL, os.environ["VECMETER_API_KEY"], raise_on_unexpected_status=True) as opened:
        yield opened


@pytest.fixture
def admin() -> Iterator[AuthenticatedClient]:
    with AuthenticatedClient(URL, os.environ["VECMETER_ADMIN_KEY"], raise_on_unexpected_status=True) as opened:
        yield opened


@pytest.fixture
def collection(client: AuthenticatedClient) -> str:
    """A collection with the vectors a, b and c, whose numbers point in different directions."""
    name = f"c{next(NUMBERS)}"
    body = CollectionBody(name=name, dimension=3, text_search="english")
    assert create_collection.sync_detailed(PROJECT, client=client, body=body).status_code == HTTPStatus.CREATED
    packed = base64.b64encode(struct.pack("<3f", 0, 1, 0)).decode()
    vectors = [
        VectorBody(id="a", vector=[1.0, 0.0, 0.0], metadata=metadata(kind="invoice", amount=10), document="first"),
        VectorBody(id="b", vector=packed, metadata=metadata(kind="note")),
        VectorBody(id="c", vector=[0.9, 0.1, 0.0], metadata=metadata(kind="invoice", amount=200), document="second"),
    ]
    written = upsert_vectors.sync(PROJECT, name, client=client, body=BatchBody(vectors=vectors))
    assert (written.inserted, written.updated, written.usage.vectors) == (3, 0, 3)
    return name


def metadata(**fields: object) -> VectorBodyMetadataType0:
    return VectorBodyMetadataType0.from_dict(fields)


def test_numbers_come_back_as_they_were_given_as_a_list_or_in_base64(
    client: AuthenticatedClient, collection: str
) -> None:
    fetched = fetch_vectors.sync(PROJECT, collection, client=client, body=FetchBody(ids=["a", "b", "none"]))
    assert {one.id: one.vector for one in fetched.vectors} == {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0]}
    assert get_vector.sync(PROJECT, collection, "a", client=client).metadata.additional_properties["amount"] == 10


def test_a_search_with_a_filter_finds_the_nearest_of_those_it_lets_through(
    client: AuthenticatedClient, collection: str
) -> None:
    body = SearchBody(
        vector=[1.0, 0.0, 0.0],
        top_k=1,
        filter_=SearchBodyFilterType0.from_dict({"kind": "invoice", "amount": {"$gte": 100}}),
        include=[SearchBodyIncludeItem.METADATA],
    )
    found = search.sync(PROJECT, collection, client=client, body=body)
    assert [match.id for match in found.matches] == ["c"]
    assert found.matches[0].metadata["kind"] == "invoice"
    assert found.usage.requests == 1


def test_a_search_takes_what_the_client_fills_in_by_itself_in_every_mode(
    client: AuthenticatedClient, collection: str
) -> None:
    for body in (
        SearchBody(vector=[1.0, 0.0, 0.0]),
        SearchBody(id="a"),
        SearchBody(text="first", mode=SearchBodyMode.TEXT),
        SearchBody(text="first", vector=[1.0, 0.0, 0.0], mode=SearchBodyMode.HYBRID),
    ):
        assert search.sync(PROJECT, collection, client=client, body=body).matches[0].id == "a"
    both = SearchBatchBody(searches=[SearchBody(id="a"), SearchBody(id="b")])
    results = search_batch.sync(PROJECT, collection, client=client, body=both).results
    assert [found.matches[0].id for found in results] == ["a", "b"]
    assert measure_recall.sync(PROJECT, collection, client=client, body=RecallBody(sample=3)).recall == 1


def test_a_change_leaves_what_it_does_not_name(client: AuthenticatedClient) -> None:
    name = f"c{next(NUMBERS)}"
    body = CollectionBody.from_dict(
        {"name": name, "dimension": 3, "target_recall": 0.8, "index": {"m": 32, "ef_construction": 64}}
    )
    create_collection.sync(PROJECT, client=client, body=body)
    change_collection.sync(PROJECT, name, client=client, body=ChangeBody(index=ChangeIndexBody(ef_search=200)))
    changed = get_collection.sync(PROJECT, name, client=client)
    assert isinstance(changed, CollectionOut)
    assert (changed.target_recall, changed.index.m, changed.index.ef_construction) == (0.8, 32, 64)
    assert changed.index.ef_search == 200


def test_vectors_are_added_put_patched_listed_and_deleted(client: AuthenticatedClient, collection: str) -> None:
    added = add_vector.sync(PROJECT, collection, client=client, body=VectorBody(id="d/é", vector=[0.0, 0.0, 1.0]))
    assert (added.vector_id, added.version) == ("d/é", 1)
    put_vector.sync(PROJECT, collection, "d/é", client=client, body=PutBody(vector=[0.0, 1.0, 1.0]))
    change = PatchBody(set_=PatchBodySetType0.from_dict({"paid": True}), if_version=2)
    assert patch_vector.sync(PROJECT, collection, "d/é", client=client, body=change).version == 3
    many = UpdateBody(
        filter_=UpdateBodyFilter.from_dict({"kind": "invoice"}), set_=UpdateBodySetType0.from_dict({"paid": False})
    )
    assert update_vectors.sync(PROJECT, collection, client=client, body=many).updated == 2
    first = list_vectors.sync(PROJECT, collection, client=client, limit=3)
    rest = list_vectors.sync(PROJECT, collection, client=client, limit=3, page_token=first.next_page_token)
    assert [one.id for one in (*first.vectors, *rest.vectors)] == ["a", "b", "c", "d/é"]
    gone = delete_vectors.sync(PROJECT, collection, client=client, body=DeleteBody(ids=["a", "b"]))
    assert (gone.matched, gone.deleted) == (2, 2)
    assert [
        (one.namespace, one.count) for one in list_namespaces.sync(PROJECT, collection, client=client).namespaces
    ] == [("", 2)]
    assert delete_namespace.sync(PROJECT, collection, "", client=client).deleted == 2


def test_a_write_repeated_with_its_key_is_done_once(client: AuthenticatedClient, collection: str) -> None:
    body = BatchBody(vectors=[VectorBody(id="once", vector=[1.0, 1.0, 0.0])])
    answers = [
        upsert_vectors.sync_detailed(PROJECT, collection, client=client, body=body, idempotency_key="once-1")
        for _ in range(2)
    ]
    assert [answer.parsed.inserted for answer in answers] == [1, 1]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert get_vector.sync(PROJECT, collection, "once", client=client).version == 1


def test_the_own_usage_costs_and_limits_are_told(client: AuthenticatedClient, collection: str) -> None:
    usage = own_usage.sync(client=client)
    assert usage.total_requests >= 2
    assert usage.by_operation["upsert"].total_vectors >= 3
    assert isinstance(usage.start, dt.datetime)
    assert own_quota.sync(client=client).quotas["daily_requests"].used >= 2
    costs = own_costs.sync(client=client, days=1)
    assert costs.today_usd > 0
    assert costs.days[0].date <= dt.datetime.now(dt.UTC).date()


def test_an_admin_makes_projects_keys_and_limits_and_sees_what_was_used(admin: AuthenticatedClient) -> None:
    project = f"made-{next(NUMBERS)}"
    create_project.sync(client=admin, body=ProjectBody(project_id=project, user_id=project))
    wanted = KeyBody(
        user_id=project,
        project_id=project,
        roles=[KeyBodyRolesItem.SEARCH, KeyBodyRolesItem.WRITE],
        quota=PolicyBody(daily_requests=10),
    )
    created = create_key.sync(client=admin, body=wanted)
    with AuthenticatedClient(URL, created.key, prefix="", auth_header_name="Api-Key") as tenant:
        assert list_collections.sync(project, client=tenant).collections == []
    put_policy.sync(Scope.PROJECT, project, client=admin, body=PolicyBody(daily_requests=5, daily_cost_usd=0.5))
    policy = get_policy.sync(Scope.PROJECT, project, client=admin)
    assert (policy.daily_requests, policy.quotas["daily_requests"].remaining) == (5, 4)
    assert policy.quotas["daily_cost_usd"].limit == 0.5
    assert usage_detailed.sync(client=admin, project_id=project).total_requests == 1
    [record] = usage_records.sync(client=admin, project_id=project).records
    assert record.endpoint == "GET /v1/projects/{project}/collections"
    assert daily_costs.sync(client=admin, days=1, project_id=project).total_usd > 0
    assert rotate_key.sync(created.api_key_id, client=admin).key != created.key
    assert revoke_key.sync(created.api_key_id, client=admin).status == "ok"
    assert [key.status for key in list_keys.sync(client=admin, project_id=project).keys] == ["revoked"]


def test_a_system_admin_runs_maintenance_and_sees_the_whole_service(admin: AuthenticatedClient) -> None:
    ran = run_maintenance.sync("get_index_stats", client=admin, body=TaskBody(dry_run=True))
    assert (ran.task, ran.status) == ("get_index_stats", "ok")
    assert maintenance_runs.sync(client=admin, task="get_index_stats").runs[0].status == "ok"
    assert metrics.sync(client=admin).total.requests >= 1


def test_a_refused_body_is_a_problem_with_every_path(client: AuthenticatedClient, collection: str) -> None:
    body = BatchBody(vectors=[VectorBody(id="x", vector=[1.0]), VectorBody(id="y", vector=[1.0, 2.0])])
    answer = upsert_vectors.sync_detailed(PROJECT, collection, client=client, body=body)
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert isinstance(answer.parsed, Problem)
    assert [error.path for error in answer.parsed.errors] == ["vectors.0.vector", "vectors.1.vector"]
    assert answer.parsed.request_id == answer.headers["X-Request-Id"]


def test_what_is_missing_or_exists_already_is_a_problem_with_a_code(
    client: AuthenticatedClient, collection: str
) -> None:
    assert get_collection.sync(PROJECT, "none", client=client).code == "collection_not_found"
    assert get_vector.sync(PROJECT, collection, "none", client=client).code == "vector_not_found"
    again = CollectionBody(name=collection, dimension=3)
    assert create_collection.sync(PROJECT, client=client, body=again).code == "collection_exists"
    assert delete_collection.sync(PROJECT, collection, client=client).status == "ok"


def test_a_wrong_key_and_a_missing_role_are_problems(client: AuthenticatedClient) -> None:
    wrong = AuthenticatedClient(URL, "vm_wrong", raise_on_unexpected_status=True)
    assert own_usage.sync(client=wrong).code == "unauthorized"
    assert metrics.sync(client=client).code == "missing_role"


@pytest.mark.parametrize(("limit", "value"), [("daily_requests", 1), ("daily_cost_usd", 1e-06)])
def test_a_limit_that_is_reached_is_a_problem_that_says_which_and_until_when(
    admin: AuthenticatedClient, limit: str, value: float
) -> None:
    quota = PolicyBody.from_dict({limit: value})
    key = create_key.sync(
        client=admin,
        body=KeyBody(user_id=PROJECT, project_id=PROJECT, roles=[KeyBodyRolesItem.SEARCH], quota=quota),
    )
    with AuthenticatedClient(URL, key.key, raise_on_unexpected_status=True) as limited:
        list_collections.sync(PROJECT, client=limited)
        refused = list_collections.sync_detailed(PROJECT, client=limited)
    assert refused.status_code == HTTPStatus.TOO_MANY_REQUESTS
    [policy] = refused.parsed.violated_policies
    assert (policy.name, policy.scope, policy.limit, policy.remaining) == (limit, "key", value, 0)
    assert policy.resets_at > dt.datetime.now(dt.UTC)
    assert int(refused.headers["Retry-After"]) > 0


def test_a_limit_without_a_window_is_a_problem_that_never_resets(
    client: AuthenticatedClient, admin: AuthenticatedClient
) -> None:
    project = f"full-{next(NUMBERS)}"
    create_project.sync(client=admin, body=ProjectBody(project_id=project, user_id=project))
    put_policy.sync(Scope.PROJECT, project, client=admin, body=PolicyBody(max_collections=0))
    refused = create_collection.sync(project, client=admin, body=CollectionBody(name="c", dimension=3))
    assert refused.code == "limit_exceeded"
    assert refused.violated_policies[0].resets_at is None


def test_health_needs_no_key() -> None:
    with Client(URL, raise_on_unexpected_status=True) as open_to_all:
        assert health.sync(client=open_to_all).status == "ok"
        assert ready.sync(client=open_to_all).checks["postgresql"] == "ok"


async def test_the_asynchronous_functions_work_as_well(collection: str) -> None:
    async with AuthenticatedClient(URL, os.environ["VECMETER_API_KEY"]) as client:
        found = await search.asyncio(PROJECT, collection, client=client, body=SearchBody(id="a"))
        assert found.matches[0].id == "a"
