"""Stores over collections of their own, in the project of this run."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from vecmeter_client import Client
from vecmeter_client.langchain import VecmeterVectorStore

PROJECT = os.environ["VECMETER_PROJECT"]
_numbers = itertools.count(1)

Make = Callable[..., VecmeterVectorStore]
Call = Callable[..., Awaitable[Any]]


class Known(Embeddings):
    """Vectors chosen by the test; ``batches`` are the numbers of texts it was given together."""

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self.vectors = vectors
        self.batches: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(len(texts))
        return [list(self.vectors[text]) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return list(self.vectors.get(text, next(iter(self.vectors.values()))))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


@pytest.fixture(params=["blocking", "awaited"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a store by its name: ``search`` itself, or ``asearch``."""

    async def call(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "blocking":
            return getattr(store, method)(*arguments, **options)
        found = getattr(store, f"a{method}")(*arguments, **options)
        assert inspect.isawaitable(found)
        return await found

    return call


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture
def name() -> str:
    """Of a collection that is not there yet."""
    return f"langchain-{next(_numbers)}"


@pytest.fixture
def make(name: str) -> Iterator[Make]:
    """A store over the test's collection, which it makes if it is missing."""
    stores = []

    def make(embedding: Embeddings | None = None, **options: Any) -> VecmeterVectorStore:
        stores.append(VecmeterVectorStore(name, embedding, **({"create_collection": True} | options)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Make) -> VecmeterVectorStore:
    """By vectors that have nothing to do with what the texts mean, 6 numbers each."""
    return make(DeterministicFakeEmbedding(size=6))


@pytest.fixture
def limited_key() -> Callable[..., str]:
    """The secret of a new key of the project, under these limits."""

    def limited_key(**quota: int) -> str:
        answer = httpx.post(
            f"{os.environ['VECMETER_URL']}/v1/admin/keys",
            json={"user_id": PROJECT, "project_id": PROJECT, "roles": ["search", "write"], "quota": quota},
            headers={"Api-Key": os.environ["VECMETER_ADMIN_KEY"]},
        )
        answer.raise_for_status()
        return str(answer.json()["key"])

    return limited_key
