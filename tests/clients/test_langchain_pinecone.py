"""LangChain's Pinecone store, its standard tests included, and the SDK 7.3 below it, against the local stack."""

from __future__ import annotations

from tests.fixtures.clients import Live, run_tests


def test_langchains_pinecone_store_works_unchanged(live: Live) -> None:
    assert run_tests(live, "langchain-pinecone", "langchain_pinecone") >= 33
