"""The LlamaIndex store against a running stack, in an environment that has LlamaIndex: the tests in ``llama_index``."""

from __future__ import annotations

from tests.fixtures.clients import Live, run_tests


def test_the_llama_index_store_keeps_what_its_page_says(live: Live) -> None:
    assert run_tests(live, "clients", "llama_index") > 50
