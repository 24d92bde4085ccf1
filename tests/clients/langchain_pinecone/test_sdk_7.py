"""The SDK 7.3 itself (its API version is 2025-04), synchronous and asynchronous."""

from __future__ import annotations

import pytest
from pinecone import Pinecone, PineconeAsyncio, ServerlessSpec
from pinecone.exceptions import ForbiddenException, NotFoundException, PineconeApiException

SPEC = ServerlessSpec(cloud="aws", region="us-east-1")
VECTORS = [("a", [1.0, 0.0], {"n": 1}), ("b", [0.0, 1.0], {"n": 2}), ("c", [1.0, 1.0], {"n": 3})]


def test_an_index_from_create_to_delete(pc: Pinecone) -> None:
    made = pc.create_index(
        "seven", dimension=2, metric="euclidean", spec=SPEC, tags={"a": "1"}, deletion_protection="enabled"
    )
    for model in (made, pc.describe_index("seven")):
        assert (model.name, model.dimension, model.metric, model.vector_type) == ("seven", 2, "euclidean", "dense")
        assert (model.status.ready, model.deletion_protection) == (True, "enabled")
        assert (model.spec.serverless.cloud, model.spec.serverless.region) == ("aws", "us-east-1")
        assert model.tags.to_dict() == {"a": "1"}
    assert pc.has_index("seven")
    assert "seven" in pc.list_indexes().names()
    with pytest.raises(PineconeApiException) as caught:
        pc.create_index("seven", dimension=2, spec=SPEC)
    assert caught.value.status == 409
    with pytest.raises(ForbiddenException):
        pc.delete_index("seven")
    pc.configure_index("seven", deletion_protection="disabled", tags={"b": "2"})
    assert pc.describe_index("seven").tags.to_dict() == {"a": "1", "b": "2"}
    pc.delete_index("seven")
    assert not pc.has_index("seven")
    with pytest.raises(NotFoundException):
        pc.describe_index("seven")


def test_records_from_upsert_to_delete(pc: Pinecone) -> None:
    pc.create_index("seven-records", dimension=2, spec=SPEC)
    index = pc.Index("seven-records")
    assert index.upsert(vectors=VECTORS, namespace="n").upserted_count == 3
    assert index.upsert(vectors=VECTORS, namespace="m", batch_size=2, show_progress=False).upserted_count == 3
    found = index.query(vector=[1, 0.1], top_k=2, namespace="n", include_metadata=True, filter={"n": {"$ne": 1}})
    assert [(match.id, match.metadata) for match in found.matches] == [("c", {"n": 3}), ("b", {"n": 2})]
    assert index.fetch(ids=["a"], namespace="n").vectors["a"].values == [1, 0]
    assert sorted(id_ for page in index.list(namespace="n") for id_ in page) == ["a", "b", "c"]
    index.update(id="a", set_metadata={"m": 9}, namespace="n")
    assert index.fetch(ids=["a"], namespace="n").vectors["a"].metadata == {"n": 1, "m": 9}
    stats = index.describe_index_stats()
    assert {name: one.vector_count for name, one in stats.namespaces.items()} == {"n": 3, "m": 3}
    index.delete(ids=["a"], namespace="n")
    index.delete(delete_all=True, namespace="m")
    assert index.describe_index_stats().total_vector_count == 2
    pc.delete_index("seven-records")


async def test_the_asynchronous_client_does_the_same() -> None:
    async with PineconeAsyncio() as pc:
        made = await pc.create_index("seven-async", dimension=2, spec=SPEC)
        async with pc.IndexAsyncio(host=made.host) as index:
            assert (await index.upsert(vectors=VECTORS)).upserted_count == 3
            found = await index.query(vector=[1, 0.1], top_k=1, include_values=True)
            assert [(match.id, match.values) for match in found.matches] == [("a", [1, 0])]
            assert (await index.describe_index_stats()).total_vector_count == 3
        await pc.delete_index("seven-async")
        assert not await pc.has_index("seven-async")
