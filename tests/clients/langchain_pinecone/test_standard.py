"""LangChain's standard tests of vector stores, on LangChain's Pinecone store, on Vecmeter."""

from __future__ import annotations

import inspect

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_pinecone import PineconeVectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store: PineconeVectorStore) -> VectorStore:
        return store


def test_tests_are_left_out_for_what_the_store_itself_does_not_implement(without_get_by_ids: frozenset[str]) -> None:
    assert PineconeVectorStore.get_by_ids is VectorStore.get_by_ids
    tests = inspect.getmembers(VectorStoreIntegrationTests, inspect.isfunction)
    wanting = {name for name, test in tests if "self.has_get_by_ids" in inspect.getsource(test)}
    assert wanting == without_get_by_ids


def test_tests_are_left_out_for_what_the_store_itself_does_to_its_documents(store: PineconeVectorStore) -> None:
    """But for that, ``test_add_documents`` holds: what was added is found, with its id."""
    documents = [Document(page_content="foo", metadata={"id": 1}), Document(page_content="bar", metadata={"id": 2})]
    ids = store.add_documents(documents)
    assert [document.metadata for document in documents] == [{"id": 1, "text": "foo"}, {"id": 2, "text": "bar"}]
    assert store.similarity_search("bar", k=2) == [
        Document(page_content="bar", metadata={"id": 2}, id=ids[1]),
        Document(page_content="foo", metadata={"id": 1}, id=ids[0]),
    ]
