"""The rules texts pass before any provider sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.embedding.model import estimate_tokens, refuse_unembeddable, unembeddable, with_paths
from vecmeter.errors import InvalidRequestError, Violation


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語", 1)])
def test_estimate(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_every_text_at_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        refuse_unembeddable(["fine", "", "x" * 11, "\udcff", "x" * 10], max_characters=10)
    assert [(violation.path, violation.message) for violation in refused.value.violations] == [
        ("1", "is blank: there is nothing to embed"),
        ("2", "has 11 characters; this embedder takes at most 10"),
        ("3", "contains a lone surrogate, which is not Unicode text"),
    ]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: not text.isspace())))
def test_text_passes(texts: list[str]) -> None:
    refuse_unembeddable(texts)


def test_positions_become_the_paths_of_the_request() -> None:
    error = unembeddable(Violation("0", "is blank"), Violation("2", "is long"), Violation("embedder.model", "is gone"))
    renamed = with_paths(error, ["vectors.4.document", "vectors.5.document", "vectors.9.document"])
    assert renamed.detail == "vectors.4.document: is blank. It is the first of 3 faults."
    assert renamed.violations == (
        Violation("vectors.4.document", "is blank"),
        Violation("vectors.9.document", "is long"),
        Violation("embedder.model", "is gone"),
    )
