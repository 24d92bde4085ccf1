"""docs/features.md names a test for each feature; those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROOF = re.compile(r"`(tests/[\w/]+\.py)::(?:Test\w+::)?(test_\w+)`")
_TEXTS = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
_PROOFS = sorted({proof for text in _TEXTS for proof in _PROOF.findall(text.read_text())})


def test_features_name_their_proof() -> None:
    table = [line for line in (ROOT / "docs/features.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in table if re.match(r"\| ([A-F]\d|contract)", line)]
    assert rows
    assert all(_PROOF.search(row) for row in rows)
    assert sum(row.count("`tests/") for row in table) == sum(len(_PROOF.findall(row)) for row in table)


@pytest.mark.parametrize(("file", "name"), _PROOFS)
def test_a_test_named_in_the_docs_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
