"""Every operation of both clients, on a running stack."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.fixtures.clients import Live
from vecmeter_client import (
    DeletionProtectedError,
    InvalidInputError,
    InvalidRequestError,
    NamespaceNotFoundError,
    Progress,
    ProjectNotEmptyError,
    Vector,
    VectorExistsError,
    VectorNotFoundError,
    VersionConflictError,
    to_dict,
)


def test_health_and_readiness_are_told(live: Live, make_client: Any) -> None:
    client = make_client(live.url, "no-key-is-needed")
    assert (client.health().status, client.ready().status) == ("ok", "ok")
    assert client.ready().checks["ledger"] == "ok"


def test_a_collection_is_made_described_changed_listed_and_deleted(project: Any) -> None:
    made = project.create_collection(
        "papers", dimension=3, metric="l2", index={"m": 8}, filterable={"year": "number"}, target_recall=0.9
    )
    assert (made.name, made.dimension, made.metric, made.index.m, made.count) == ("papers", 3, "l2", 8, 0)
    assert (made.filterable[0].field, made.filterable[0].type) == ("year", "number")
    papers = project.collection("papers")
    assert papers.describe().target_recall == 0.9
    changed = papers.change(text_search="english", filterable=[{"field": "kind", "type": "string"}])
    assert (changed.text_search, changed.filterable[0].field) == ("english", "kind")
    assert papers.change(text_search=None, deletion_protection=True, tags={"team": "search"}).text_search is None
    assert papers.describe().tags == {"team": "search"}
    with pytest.raises(DeletionProtectedError):
        project.delete_collection("papers")
    assert papers.change(deletion_protection=False).deletion_protection is False
    assert [one.name for one in project.collections()] == ["papers"]
    assert project.delete_collection("papers").requests == 1
    assert list(project.collections()) == []


def test_an_embedder_makes_the_vectors_of_documents(project: Any) -> None:
    project.create_collection("notes", embedder="built-in", text_search="english")
    notes = project.collection("notes")
    documents = {"a": "The invoice is due in March.", "b": "The cat sleeps on the sofa."}
    written = notes.upsert(Vector(id, document=document) for id, document in documents.items())
    assert (written.inserted, written.updated) == (2, 0)
    assert written.usage.tokens > 0
    assert [match.id for match in notes.search(text="when must I pay?", top_k=1)] == ["a"]
    assert [match.id for match in notes.search(text="sofa", mode="text")] == ["b"]
    hybrid = notes.search(text="invoice", mode="hybrid", text_weight=0.5, fusion="weighted", include=["document"])
    assert (hybrid[0].document, hybrid[0].metadata) == (documents["a"], None)


@pytest.mark.parametrize(
    "vector",
    [
        [1.0, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3], dtype=np.float32),
        np.array([1, 2, 3], dtype=np.float64),
        np.array([1, 2, 3], dtype=np.float16),
        np.array([1, 2, 3], dtype=np.int64),
        np.array([1, 9, 2, 9, 3, 9], dtype=np.float32)[::2],
        np.array([1, 2, 3], dtype=">f4"),
    ],
    ids=["list", "tuple", "float32", "float64", "float16", "int64", "every-other", "big-endian"],
)
def test_vectors_come_as_any_sequence_of_numbers_and_arrive_as_they_are(notes: Any, vector: Any) -> None:
    notes.put(("a", vector))
    assert notes.get("a").vector == [1.0, 2.0, 3.0]
    assert notes.search(vector, top_k=1)[0].score == pytest.approx(1)


def test_vectors_are_written_one_by_one_read_changed_and_deleted(notes: Any) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    assert notes.add(Vector("a", [1, 2, 3], metadata={"kind": "invoice"}, expires_at=due)).operation == "insert"
    with pytest.raises(VectorExistsError):
        notes.add({"id": "a", "vector": [1, 2, 3]})
    assert notes.put({"id": "a", "vector": [3, 2, 1], "metadata": {"kind": "note"}}).version == 2
    with pytest.raises(VersionConflictError) as conflict:
        notes.put(Vector("a", [1, 2, 3], if_version=1))
    assert conflict.value.violations[0].path == "if_version"
    patched = notes.patch("a", set={"paid": True}, vector=[1, 1, 1], document="Paid.", expires_at=due, if_version=2)
    assert patched.version == 3
    stored = notes.get("a")
    assert (stored.vector, stored.document, stored.metadata) == ([1, 1, 1], "Paid.", {"kind": "note", "paid": True})
    assert stored.expires_at == due
    notes.patch("a", document=None, expires_at=None, unset=["paid"])
    stored = notes.get("a")
    assert (stored.document, stored.expires_at, stored.metadata) == (None, None, {"kind": "note"})
    with pytest.raises(VersionConflictError):
        notes.delete_one("a", if_version=1)
    notes.delete_one("a", if_version=4)
    with pytest.raises(VectorNotFoundError):
        notes.get("a")


@pytest.mark.parametrize("id", [".", "..", "a/b", "/a", "a/", "../a", "ä ?#%+&=", "x\ny", "a:b"])
def test_any_id_and_namespace_is_reached_in_a_path(notes: Any, id: str) -> None:
    notes.put((id, [1, 2, 3]), namespace=id)
    assert notes.get(id, namespace=id).id == id
    assert list(notes.list_ids(namespace=id)) == [id]
    assert notes.delete_namespace(id) == 1
    with pytest.raises(NamespaceNotFoundError):
        notes.delete_namespace(id)


def test_many_vectors_go_in_batches_and_come_back_in_pages(notes: Any) -> None:
    progress: list[Progress] = []
    vectors = [(f"{at:04}", [1, at, 0], {"at": at}) for at in range(2500)]
    written = notes.upsert(iter(vectors), on_progress=progress.append)
    assert (written.inserted, written.updated, written.usage.requests) == (2500, 0, 3)
    assert [(one.done, one.total, len(one.written)) for one in progress] == [
        (1000, None, 1000),
        (2000, None, 1000),
        (2500, None, 500),
    ]
    assert [one.id for step in progress for one in step.written] == [id for id, *_ in vectors]
    again = notes.upsert(vectors, on_progress=progress.append)
    assert (again.updated, progress[-1].total) == (2500, 2500)
    assert list(notes.list_ids(page_size=1000)) == [id for id, *_ in vectors]
    assert list(notes.list_ids(prefix="001", page_size=3)) == [f"{at:04}" for at in range(10, 20)]
    fetched = notes.fetch((id for id, *_ in vectors), namespace="")
    assert sorted(one.id for one in fetched) == [id for id, *_ in vectors]
    exported = list(notes.export(page_size=1000))
    assert [(one.id, one.metadata["at"]) for one in exported] == [(f"{at:04}", at) for at in range(2500)]
    assert notes.delete(ids=(id for id, *_ in vectors[:1500]), dry_run=True).matched == 1500
    assert notes.delete(ids=[id for id, *_ in vectors[:1500]]).deleted == 1500
    assert notes.delete(filter={"at": {"$lt": 2000}}).deleted == 500
    assert notes.delete(all=True).deleted == 500


def test_a_single_id_is_not_taken_for_the_ids_that_its_characters_are(notes: Any) -> None:
    notes.upsert([("a", [1.0, 0.0, 0.0]), ("b", [0.0, 1.0, 0.0])])
    with pytest.raises(InvalidInputError, match=r"^ids: is the text 'ab'; give a list$"):
        notes.delete(ids="ab")
    with pytest.raises(InvalidInputError, match=r"^ids: is the text 'ab'; give a list$"):
        notes.fetch("ab")
    with pytest.raises(InvalidInputError, match=r"^unset: is the text 'kind'; give a list$"):
        notes.patch("a", unset="kind")
    with pytest.raises(InvalidInputError, match=r"^unset: is the text 'kind'; give a list$"):
        notes.update({}, unset="kind")
    assert len(notes.fetch(["a", "b"])) == 2


def test_vectors_whose_answer_would_be_too_long_are_fetched_in_parts(project: Any) -> None:
    project.create_collection("wide", dimension=4000)
    wide = project.collection("wide")
    rows = np.random.default_rng(1).random((150, 4000), dtype=np.float32)
    wide.upsert((f"{at:03}", row) for at, row in enumerate(rows))
    fetched = wide.fetch([f"{at:03}" for at in range(150)])
    assert [one.id for one in fetched] == [f"{at:03}" for at in range(150)]
    assert np.array_equal(np.array([one.vector for one in fetched], dtype=np.float32), rows)


def test_searches_take_all_that_the_service_takes(notes: Any) -> None:
    notes.upsert([(f"{at}", [1, at, 0], {"group": at % 2}) for at in range(10)], namespace="n")
    found = notes.search([1, 0, 0], top_k=2, namespace="n", offset=1, include=["vector"], exact=True, ef_search=50)
    assert [(one.id, one.vector, one.metadata) for one in found] == [("1", [1, 1, 0], None), ("2", [1, 2, 0], None)]
    assert (found.count, len(found), found.namespace, found.cache) == (2, 2, "n", "miss")
    assert [notes.search([1, 0, 0], namespace="n").cache for _ in range(2)] == ["miss", "hit"]
    filtered = notes.search(id="0", namespace="n", filter={"group": 1}, min_score=0.3, include_debug=True)
    assert [one.id for one in filtered] == ["1", "3"]
    assert filtered.debug is not None
    assert filtered.debug.candidates == 5
    grouped = notes.search([1, 0, 0], namespace="n", group_by="group")
    assert [one.id for one in grouped] == ["0", "1"]
    batch = notes.search_batch(
        [{"vector": np.ones(3), "namespace": "n", "top_k": 1}, {"id": "7", "namespace": "n"}] * 60
    )
    assert len(batch) == 120
    assert [len(one) for one in batch[:2]] == [1, 10]
    assert sum(one.usage.requests for one in batch) == 2
    assert notes.recall(5, namespace="n").recall == 1
    assert notes.recall(queries=[[1, 2, 3]], top_k=3).sample == 1
    with pytest.raises(InvalidInputError, match=r"searches\.0\.limits: is no part of a search"):
        notes.search_batch([{"limits": 3}])


def test_what_a_filter_lets_through_is_changed_or_counted(notes: Any) -> None:
    notes.upsert([(f"{at}", [1, at, 0], {"at": at}) for at in range(10)])
    counted = notes.update({"at": {"$gte": 4}}, set={"late": True}, dry_run=True)
    assert (counted.matched, counted.updated) == (6, 0)
    assert notes.update({"at": {"$gte": 4}}, set={"late": True}, unset=["at"]).updated == 6
    assert notes.get("4").metadata == {"late": True}
    assert [(one.namespace, one.count) for one in notes.namespaces()] == [("", 10)]


def test_a_batch_that_fails_says_what_was_written_and_where_to_go_on(notes: Any) -> None:
    vectors = [(f"{at}", [1, at, 0] if at != 2100 else [1]) for at in range(2500)]
    with pytest.raises(InvalidRequestError) as failed:
        notes.upsert(vectors)
    error = failed.value
    assert [one.path for one in error.violations] == ["vectors.2100.vector"]
    assert "vectors.2100.vector" in str(error)
    assert error.committed is False
    assert error.partial is not None
    assert (error.partial.upserted.inserted, error.partial.next_index) == (2000, 2000)
    assert notes.describe().count == 2000
    vectors[2100] = ("2100", [1, 1, 1])
    assert notes.upsert(vectors[error.partial.next_index :]).inserted == 500


def test_an_item_that_cannot_be_sent_is_named_and_nothing_after_the_batches_before_it_is_written(notes: Any) -> None:
    vectors: list[Any] = [(f"{at}", [1, at, 0]) for at in range(2500)]
    vectors[1200] = Vector("x", [1, 2, 3], metadata={"deep": [{"when": datetime.now(UTC)}]})
    with pytest.raises(
        InvalidInputError, match=r"^vectors\.1200\.metadata\.deep\.0\.when: datetime is no JSON$"
    ) as failed:
        notes.upsert(vectors)
    assert failed.value.partial is not None
    assert failed.value.partial.next_index == 1000
    assert notes.describe().count == 1000


def test_own_usage_costs_and_quota_are_told(notes: Any, make_client: Any, live: Live) -> None:
    client = make_client(live.url, live.key(notes.project, quota={"daily_requests": 50}))
    for _ in range(3):
        client.project(notes.project).collection("notes").search([1, 2, 3])
    assert client.usage(hours=1).by_operation["search"].total_requests == 3
    assert client.usage(start=datetime.now(UTC) - timedelta(hours=2)).total_requests == 3
    assert client.costs(days=1).days[0].requests == 3
    quota = client.quota()
    assert (quota.limits["daily_requests"], quota.quotas["daily_requests"].remaining) == (50, 47)


def test_admins_manage_projects_keys_and_quotas(admin: Any, live: Live) -> None:
    name = live.project()
    assert admin.projects.update(name, name="Acme").name == "Acme"
    assert admin.projects.get(name).name == "Acme"
    assert [one.project_id for one in admin.projects.list(user_id=name, page_size=1)] == [name]
    created = admin.keys.create(user_id=name, project_id=name, roles=["search"], quota={"daily_requests": 7})
    assert created.key not in repr(created)
    assert created.key.endswith(created.last4)
    assert [one.api_key_id for one in admin.keys.list(project_id=name)] == [created.api_key_id]
    assert admin.keys.update(created.api_key_id, name="reader", roles=["search", "write"]).roles == ("search", "write")
    assert admin.keys.get(created.api_key_id).name == "reader"
    assert admin.keys.quota(created.api_key_id).limits["daily_requests"] == 7
    assert admin.keys.change_quota(created.api_key_id, {"daily_requests": 8}).limits["daily_requests"] == 8
    assert admin.keys.rotate(created.api_key_id, grace_seconds=60).previous_expires_at is not None
    put = admin.quotas.put("project", name, {"max_vectors": 10, "defaults": {"key": {"daily_requests": 3}}})
    assert (put.limits["max_vectors"], put.defaults["key"]["daily_requests"]) == (10, 3)
    assert admin.quotas.get("project", name).effective["max_vectors"] == 10
    admin.quotas.delete("project", name)
    assert "max_vectors" not in admin.quotas.get("project", name).limits
    with pytest.raises(ProjectNotEmptyError):
        admin.projects.delete(name)
    admin.keys.revoke(created.api_key_id)
    admin.keys.revoke(created.api_key_id)
    admin.projects.delete(name)
    assert created.api_key_id in {one.target.partition(":")[2] for one in admin.audit(user_id=name)}


def test_a_collection_has_limits_of_its_own(admin: Any, notes: Any) -> None:
    of = f"{notes.project}:notes"
    assert admin.quotas.put("collection", of, {"max_vectors": 5}).limits["max_vectors"] == 5
    assert admin.quotas.get("collection", of).limits["max_vectors"] == 5
    admin.quotas.delete("collection", of)
    assert admin.quotas.get("collection", of).limits == {}


def test_admins_see_usage_costs_alerts_prices_and_maintenance(admin: Any, notes: Any) -> None:
    notes.search([1, 2, 3])
    of = {"project_id": notes.project}
    assert admin.usage(1, **of).by_operation["search"].total_requests == 1
    records = list(admin.records(1, **of, page_size=1))
    assert [one.operation for one in records] == ["search", "collection"]
    assert len(records) == admin.usage(1, **of).total_requests
    assert list(admin.alerts(1, **of)) == []
    assert "".join(admin.export_usage(format="jsonl", **of)).count("\n") == len(records)
    assert admin.costs_daily(1, **of).days[0].requests == len(records)
    assert len(admin.costs_top_users(1, limit=1)) == 1
    current = admin.prices().current
    rates = {name: getattr(current, name) for name in ("search", "request", "vector_written", "token")}
    assert admin.set_prices(**rates, note="as before").search == current.search
    assert next(iter(admin.price_history())).note == "as before"
    assert admin.maintenance.stats().status == "ok"
    started = admin.maintenance.start("vacuum_analyze", **of, dry_run=True)
    assert started.status in ("ok", "started")
    assert next(iter(admin.maintenance.runs(task="vacuum_analyze"))).task == "vacuum_analyze"
    assert admin.metrics(top=1)["total"]["requests"] > 0


def test_a_result_is_the_json_it_came_as(notes: Any, live: Live) -> None:
    notes.put(Vector("a", [1, 2, 3], metadata={"n": None}, expires_at="2100-01-01T00:00:00Z"))
    path = f"/v1/projects/{notes.project}/collections/notes/vectors/a"
    sent = live.call("GET", path).json()
    del sent["usage"]
    assert to_dict(notes.get("a")) == sent
