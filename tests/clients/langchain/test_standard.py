"""LangChain's own tests of vector stores."""

from __future__ import annotations

import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from conftest import Make


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, make: Make) -> VectorStore:
        return make(self.get_embeddings())
