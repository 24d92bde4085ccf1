"""What a type checker knows of both clients; checked by test_typing.py, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import numpy as np

from vecmeter_client import (
    AsyncClient,
    AsyncCollection,
    Client,
    Collection,
    CollectionInfo,
    CreatedKey,
    Deleted,
    KeyInfo,
    Match,
    NamespaceInfo,
    Put,
    Recall,
    SearchResult,
    StoredVector,
    Upserted,
    Usage,
    UsageRecord,
    UsageReport,
    Vector,
)


def blocking(client: Client) -> None:
    project = client.project("acme")
    assert_type(project.create_collection("notes", dimension=3, metric="l2"), CollectionInfo)
    assert_type(project.collections(page_size=10), Iterator[CollectionInfo])
    assert_type(project.delete_collection("notes"), Usage)
    notes = project.collection("notes")
    assert_type(notes, Collection)
    found = notes.search([0.1, 0.2], top_k=3, filter={"kind": "invoice"}, include=["vector"])
    assert_type(found, SearchResult)
    assert_type(found[0], Match)
    assert_type([match.id for match in found], list[str])
    assert_type(notes.search(np.zeros(3)), SearchResult)
    assert_type(notes.search_batch([{"text": "x", "top_k": 3}]), list[SearchResult])
    assert_type(notes.upsert([Vector("a", [1, 2]), {"id": "b"}, ("c", np.zeros(3))]), Upserted)
    assert_type(notes.add(("a", [1.0])), Put)
    assert_type(notes.get("a"), StoredVector)
    assert_type(notes.fetch(["a"]), list[StoredVector])
    assert_type(notes.export(), Iterator[StoredVector])
    assert_type(notes.list_ids(prefix="a"), Iterator[str])
    assert_type(notes.delete(ids=["a"]), Deleted)
    assert_type(notes.namespaces(), Iterator[NamespaceInfo])
    assert_type(notes.delete_namespace("n"), int)
    assert_type(notes.recall(50), Recall)
    assert_type(client.usage(hours=1), UsageReport)
    assert_type(client.admin.keys.create(user_id="alice", quota={"daily_requests": 1}), CreatedKey)
    assert_type(client.admin.keys.list(), Iterator[KeyInfo])
    assert_type(client.admin.keys.revoke("key_1"), None)
    assert_type(client.admin.records(hours=1), Iterator[UsageRecord])
    assert_type(client.admin.metrics(), dict[str, Any])


async def awaiting(client: AsyncClient) -> None:
    notes = client.project("acme").collection("notes")
    assert_type(notes, AsyncCollection)
    assert_type(await notes.search([0.1, 0.2], top_k=3), SearchResult)
    assert_type(await notes.upsert([("a", [1.0])]), Upserted)
    assert_type(notes.export(), AsyncIterator[StoredVector])
    assert_type([one.id async for one in notes.export()], list[str])
    assert_type(await client.admin.keys.create(user_id="alice"), CreatedKey)
    assert_type(client.admin.keys.list(), AsyncIterator[KeyInfo])
    async with client as same:
        assert_type(same, AsyncClient)


def wrong(client: Client) -> None:
    """Each of these is an error, or the comment would be one."""
    notes = client.project("acme").collection("notes")
    notes.search(vectro=[0.1])  # type: ignore[call-arg]
    notes.search([0.1], mode="fuzzy")  # type: ignore[arg-type]
    notes.search([0.1], top_k="3")  # type: ignore[arg-type]
    notes.search_batch([{"limits": 3}])  # type: ignore[typeddict-unknown-key]
    notes.upsert("a")  # type: ignore[arg-type]
    client.project("acme").create_collection("notes", metric="manhattan")  # type: ignore[arg-type]
    client.admin.quotas.put("project", "acme", {"daily_reqests": 1})  # type: ignore[typeddict-unknown-key]
    notes.search([0.1]).matches[0].score = 1.0  # type: ignore[misc]
