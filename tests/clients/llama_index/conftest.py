"""Stores over collections of their own, in the project of this run."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from vecmeter_client.llama_index import VecmeterVectorStore

_numbers = itertools.count(1)

Make = Callable[..., VecmeterVectorStore]
Call = Callable[..., Awaitable[Any]]


def node(id: str, vector: tuple[float, ...] | None, document: str = "one", **metadata: Any) -> TextNode:
    return TextNode(
        id_=id,
        text=f"text {id}",
        embedding=None if vector is None else list(vector),
        metadata=metadata,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)},
    )


@pytest.fixture(params=["blocking", "awaited"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a store by its name, or the one that is awaited."""

    async def call(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "blocking":
            return getattr(store, method)(*arguments, **options)
        name = "async_add" if method == "add" else f"a{method}"
        found = getattr(store, name)(*arguments, **options)
        assert inspect.isawaitable(found)
        return await found

    return call


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """A store over a new collection unless one is named."""
    stores = []

    def make(name: str | None = None, **options: Any) -> VecmeterVectorStore:
        wanted = {"create_collection": True} | options
        stores.append(VecmeterVectorStore(name or f"llama-{next(_numbers)}", **wanted))
        return stores[-1]

    yield make
    for store in stores:
        store.close()
