"""The official Pinecone SDK, both majors, synchronous and asynchronous, against the local stack."""

from __future__ import annotations

import pytest

from tests.fixtures.clients import ROOT, Live, run_tests

FOLDER = ROOT / "tests" / "clients" / "pinecone"


@pytest.mark.parametrize("environment", ["clients", "pinecone-9"])
def test_the_official_sdk_works_unchanged(live: Live, environment: str) -> None:
    """``clients`` has version 10 of it."""
    assert run_tests(live, environment, FOLDER.name, "-o", f"pythonpath={FOLDER}") >= 250
