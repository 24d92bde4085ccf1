"""LangChain's own Pinecone store, over the SDK 7.3 that it wants, against a running stack.

The store finds the key and the host where the SDK does: in ``PINECONE_API_KEY`` and ``PINECONE_CONTROLLER_HOST``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_pinecone import PineconeVectorStore
from pinecone import Pinecone, ServerlessSpec

os.environ["PINECONE_API_KEY"] = os.environ["VECMETER_API_KEY"]
os.environ["PINECONE_CONTROLLER_HOST"] = os.environ["VECMETER_URL"]

SIZE = 6
INDEX = "documents"


class Fake(DeterministicFakeEmbedding):
    """Python's own floats: the SDK 7.3 refuses numpy's."""

    def embed_query(self, text: str) -> list[float]:
        return [float(number) for number in super().embed_query(text)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


# Of LangChain's standard suite, what the store does not pass whatever it stands on: it does not implement
# ``get_by_ids``, and it writes the text into the metadata of the documents it is given. That these are the reasons
# is held by test_standard.py.
WITHOUT_GET_BY_IDS = frozenset(
    f"{test}{kind}"
    for kind in ("", "_async")
    for test in (
        "test_get_by_ids",
        "test_get_by_ids_missing",
        "test_add_documents_documents",
        "test_add_documents_with_existing_ids",
    )
)
CHANGES_WHAT_IT_IS_GIVEN = frozenset({"test_add_documents", "test_add_documents_async"})

_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.name in WITHOUT_GET_BY_IDS | CHANGES_WHAT_IT_IS_GIVEN]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def without_get_by_ids() -> frozenset[str]:
    """The tests of the standard suite that are left out for the want of ``get_by_ids``."""
    return WITHOUT_GET_BY_IDS


@pytest.fixture(scope="session")
def pc() -> Pinecone:
    return Pinecone()


@pytest.fixture(scope="session")
def index_name(pc: Pinecone) -> Iterator[str]:
    """An index that the session shares: six dimensions, cosine."""
    pc.create_index(INDEX, dimension=SIZE, spec=ServerlessSpec(cloud="aws", region="us-east-1"))
    yield INDEX
    pc.delete_index(INDEX)


@pytest.fixture(scope="session")
def embedding() -> DeterministicFakeEmbedding:
    """The same text is the same vector; different texts have nothing to do with each other."""
    return Fake(size=SIZE)


@pytest.fixture
def namespace() -> str:
    return f"namespace-{next(_numbers)}"


@pytest.fixture
def store(index_name: str, embedding: DeterministicFakeEmbedding, namespace: str) -> PineconeVectorStore:
    """An empty store, made by nothing but the index's name."""
    return PineconeVectorStore(index_name=index_name, embedding=embedding, namespace=namespace)
