"""Indexes by the official client: what ``create``, ``describe``, ``list``, ``configure`` and ``delete`` promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pinecone
import pytest
from pinecone import ApiError, ByocSpec, ConflictError, ForbiddenError, NotFoundError, PodSpec, ServiceError
from stack import MAJOR, PROJECT, SPEC, URL

DICT_SPEC = {"serverless": {"cloud": "gcp", "region": "europe-west4"}}
AWS, GCP = ("aws", "us-east-1"), ("gcp", "europe-west4")

# How an index of four dimensions may be asked for, its metric, and where it then says it is.
WAYS: list[tuple[dict[str, Any], str, tuple[str, str]]] = [
    ({"dimension": 4, "spec": SPEC}, "cosine", AWS),
    ({"dimension": 4, "spec": SPEC, "metric": "euclidean"}, "euclidean", AWS),
    ({"dimension": 4, "spec": DICT_SPEC, "metric": "dotproduct", "vector_type": "dense"}, "dotproduct", GCP),
]
if MAJOR >= 10:
    SCHEMA = {"fields": {"_values": {"type": "dense_vector", "dimension": 4, "metric": "euclidean"}}}
    BUILT = pinecone.SchemaBuilder().add_dense_vector_field("_values", dimension=4, metric="cosine").build()
    DEPLOYMENT = {"deployment_type": "managed", "cloud": "gcp", "region": "europe-west4"}
    WAYS += [  # the last one names no place
        ({"schema": SCHEMA, "deployment": DEPLOYMENT}, "euclidean", GCP),
        ({"schema": BUILT}, "cosine", AWS),
    ]


@pytest.mark.parametrize(("asked", "metric", "place"), WAYS)
def test_an_index_is_ready_when_create_returns_and_is_as_asked(
    pc: Any, new_name: str, asked: dict[str, Any], metric: str, place: tuple[str, str]
) -> None:
    made = pc.indexes.create(name=new_name, tags={"team": "search"}, **asked)
    for model in (made, pc.describe_index(new_name), *(one for one in pc.list_indexes() if one.name == new_name)):
        assert (model.name, model.dimension, model.metric, model.vector_type) == (new_name, 4, metric, "dense")
        assert (model.status.ready, model.status.state) == (True, "Ready")
        assert (model.spec.serverless.cloud, model.spec.serverless.region) == place
        assert (model.tags, model.deletion_protection) == ({"team": "search"}, "disabled")
        assert model.host == f"{URL}/indexes/{new_name}"
    pc.delete_index(new_name)


def test_an_index_opened_by_name_and_by_host_is_the_same(pc: Any, new_name: str) -> None:
    host = pc.create_index(name=new_name, dimension=2, spec=SPEC).host
    with_name, with_host = pc.index(new_name), pc.index(host=host)
    assert with_name.upsert(vectors=[("a", [1.0, 2.0])]).upserted_count == 1
    assert with_host.fetch(ids=["a"]).vectors["a"].values == [1.0, 2.0]
    pc.delete_index(new_name)


def test_an_index_is_there_from_create_to_delete(pc: Any, new_name: str) -> None:
    assert not pc.has_index(new_name)
    pc.create_index(name=new_name, dimension=2, spec=SPEC)
    assert pc.has_index(new_name)
    assert new_name in pc.list_indexes().names()
    pc.delete_index(new_name)
    assert not pc.has_index(new_name)
    assert new_name not in pc.list_indexes().names()
    with pytest.raises(NotFoundError, match=new_name):
        pc.describe_index(new_name)


def test_an_index_made_again_has_nothing_of_the_one_before(pc: Any, new_name: str) -> None:
    pc.create_index(name=new_name, dimension=2, spec=SPEC)
    pc.index(new_name).upsert(vectors=[("a", [1.0, 2.0])])
    pc.delete_index(new_name)
    pc.create_index(name=new_name, dimension=3, spec=SPEC)
    again = pc.index(new_name)
    assert again.describe_index_stats().total_vector_count == 0
    assert again.query(vector=[1, 2, 3], top_k=1).matches == []
    pc.delete_index(new_name)


def test_an_index_says_that_it_is_where_it_was_asked_to_be(pc: Any, new_name: str) -> None:
    spec = ByocSpec(environment="own-1", read_capacity={"mode": "OnDemand"})
    pc.create_index(name=new_name, dimension=2, spec=spec)
    found = pc.describe_index(new_name).spec
    assert (found.serverless, found.byoc.environment, found.byoc.read_capacity["mode"]) == (None, "own-1", "OnDemand")
    pc.delete_index(new_name)


def test_tags_are_merged_and_an_empty_value_removes_one(pc: Any, new_name: str) -> None:
    pc.create_index(name=new_name, dimension=2, spec=SPEC, tags={"a": "1", "b": "2"})
    pc.configure_index(new_name, tags={"b": "3", "c": "4"})
    assert pc.describe_index(new_name).tags == {"a": "1", "b": "3", "c": "4"}
    pc.configure_index(new_name, tags={"a": ""})
    assert pc.describe_index(new_name).tags == {"b": "3", "c": "4"}
    pc.delete_index(new_name)


def test_a_protected_index_is_not_deleted_until_it_is_unprotected(pc: Any, new_name: str) -> None:
    pc.create_index(name=new_name, dimension=2, spec=SPEC, deletion_protection="enabled")
    assert pc.describe_index(new_name).deletion_protection == "enabled"
    with pytest.raises(ForbiddenError, match="protect"):
        pc.delete_index(new_name)
    assert pc.has_index(new_name)
    pc.configure_index(new_name, deletion_protection="disabled")
    assert pc.describe_index(new_name).deletion_protection == "disabled"
    pc.delete_index(new_name)
    assert not pc.has_index(new_name)


def test_a_name_that_is_taken_is_a_conflict(pc: Any, new_name: str) -> None:
    pc.create_index(name=new_name, dimension=2, spec=SPEC)
    with pytest.raises(ConflictError) as caught:
        pc.create_index(name=new_name, dimension=2, spec=SPEC)
    assert caught.value.error_code == "ALREADY_EXISTS"
    assert pc.describe_index(new_name).dimension == 2
    pc.delete_index(new_name)


def test_a_collection_is_an_index_and_an_index_a_collection(pc: Any, new_name: str, native: Callable[..., Any]) -> None:
    collections = f"/v1/projects/{PROJECT}/collections"
    native("POST", collections, {"name": new_name, "dimension": 2, "metric": "inner_product"})
    model = pc.describe_index(new_name)
    assert (model.dimension, model.metric, model.status.ready) == (2, "dotproduct", True)
    pc.index(new_name).upsert(vectors=[("a", [1.0, 2.0], {"kind": "written by the SDK"})], namespace="n")
    fetched = native("POST", f"{collections}/{new_name}/vectors/fetch", {"ids": ["a"], "namespace": "n"})
    assert [(found["vector"], found["metadata"]) for found in fetched["vectors"]] == [
        ([1.0, 2.0], {"kind": "written by the SDK"})
    ]
    pc.delete_index(new_name)
    assert new_name not in [found["name"] for found in native("GET", collections)["collections"]]


UNSUPPORTED: list[tuple[str, Callable[[Any, str], Any]]] = [
    ("pod", lambda pc, name: pc.create_index(name=name, dimension=2, spec=PodSpec(environment="us-east1-gcp"))),
    ("sparse", lambda pc, name: pc.create_index(name=name, spec=SPEC, vector_type="sparse", metric="dotproduct")),
    (
        "embed",
        lambda pc, name: pc.create_index_for_model(
            name=name, cloud="aws", region="us-east-1", embed={"model": "m", "field_map": {"text": "text"}}
        ),
    ),
]


@pytest.mark.parametrize(("word", "create"), UNSUPPORTED, ids=[word for word, _ in UNSUPPORTED])
def test_an_index_of_a_kind_that_is_not_there_is_refused_and_not_made(
    pc: Any, new_name: str, word: str, create: Callable[[Any, str], Any]
) -> None:
    with pytest.raises(ApiError, match=f"(?i){word}") as caught:
        create(pc, new_name)
    assert caught.value.status_code in (400, 501)
    assert not pc.has_index(new_name)


def test_replicas_are_refused_and_nothing_is_changed(pc: Any, new_name: str) -> None:
    pc.create_index(name=new_name, dimension=2, spec=SPEC, tags={"a": "1"})
    with pytest.raises(ApiError, match=r"(?i)pod|replicas") as caught:
        pc.configure_index(new_name, replicas=2, tags={"a": "2"})
    assert caught.value.status_code == 400
    assert pc.describe_index(new_name).tags == {"a": "1"}
    pc.delete_index(new_name)


ABSENT: list[tuple[str, Callable[[Any], Any]]] = [
    ("collections", lambda pc: pc.list_collections()),
    ("backups", lambda pc: pc.list_backups()),
    ("inference", lambda pc: pc.inference.embed(model="m", inputs=["text"], parameters={})),
]
if MAJOR >= 10:
    ABSENT.append(("backups", lambda pc: pc.indexes.create_backup("any")))


@pytest.mark.parametrize(("word", "call"), ABSENT)
def test_what_else_is_not_there_says_so(pc: Any, word: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ServiceError, match=word) as caught:
        call(pc)
    assert (caught.value.status_code, caught.value.error_code) == (501, "UNIMPLEMENTED")
