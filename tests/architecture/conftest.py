"""The template as these tests look at it."""

from __future__ import annotations

import pytest

from tests.fixtures.artifacts import FUNCTIONS
from tests.fixtures.templates import Node, load, translate


@pytest.fixture(scope="module")
def template() -> Node:
    return load("template.yaml")


@pytest.fixture(scope="module")
def translated() -> dict[str, Node]:
    return translate(load("template.yaml"))


@pytest.fixture(scope="module")
def functions(translated: dict[str, Node]) -> dict[str, Node]:
    """The functions' properties once SAM has merged Globals into them."""
    return {name: translated[f"{name.title()}Function"]["Properties"] for name in FUNCTIONS}
