"""The list of mechanisms that can be switched off is up to date with the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.switch_off import MECHANISMS, Mechanism

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_a_mechanism_that_can_be_switched_off_is_there(mechanism: Mechanism) -> None:
    assert (ROOT / mechanism.file).read_text().count(mechanism.text) == 1
    assert all((ROOT / test).exists() for test in mechanism.tests)
