"""What an index and a collection demand is checked before PostgreSQL is asked, and named in words."""

from __future__ import annotations

import math
from array import array
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vecmeter.vectors.checks import are_ordinary, check_index, check_numbers
from vecmeter.vectors.model import Collection, IndexDefinition, IndexType, Metric, Storage


def collection(metric: Metric = Metric.COSINE, **index: object) -> Collection:
    return Collection(
        collection_id=1,
        project_id="p",
        name="c",
        dimension=2,
        metric=metric,
        index=IndexDefinition(**index),  # type: ignore[arg-type]
        embedder=None,
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        vector_oid=1,
    )


@pytest.mark.parametrize(
    ("metric", "values", "message"),
    [
        (Metric.COSINE, [1.0, 2.0], None),
        (Metric.COSINE, [1.0], "1 dimensions; the collection has 2"),
        (Metric.COSINE, [1.0, 2.0, 3.0], "3 dimensions; the collection has 2"),
        (Metric.COSINE, [0.0, 0.0], "zero vector"),
        (Metric.COSINE, [0.0, -0.0], "zero vector"),
        (Metric.COSINE, [1e-19, 0.0], "zero vector"),
        (Metric.COSINE, [1e-17, 0.0], None),
        (Metric.L2, [0.0, 0.0], None),
        (Metric.INNER_PRODUCT, [0.0, 0.0], None),
        (Metric.COSINE, [1e17, 1e17], None),
        (Metric.L2, [1e18, 1e18], "has the length 1.41e+18"),
        (Metric.INNER_PRODUCT, [3e38, 3e38], "has the length"),
    ],
)
def test_numbers_are_held_against_the_collection(metric: Metric, values: list[float], message: str | None) -> None:
    violation = check_numbers(collection(metric, storage=Storage.FLOAT), array("f", values), "vectors.3.vector")
    assert (violation is None) is (message is None)
    if violation is not None and message is not None:
        assert violation.path == "vectors.3.vector"
        assert message in violation.message


@given(st.lists(st.floats(width=32), min_size=1, max_size=4))
@example([float("nan"), 1.0])
@example([float("-inf"), 1.0])
@example([2.0**-59, 0.0])
@example([2.0**-60, 0.0])
@example([32_767.998, -32_768.0])
def test_what_the_highest_bytes_clear_of_suspicion_is_within_every_limit(values: list[float]) -> None:
    numbers = array("f", values)
    if are_ordinary(numbers):
        assert math.isfinite(sum(numbers))
        assert max(map(abs, numbers)) < 65_504
        assert math.hypot(*numbers) >= 1e-18


def test_embeddings_are_cleared_by_their_highest_bytes() -> None:
    for values in ([0.1, -0.02], [1.0, 0.0], [0.0, -1e-9], [255.0, 1e4]):
        assert are_ordinary(array("f", values)), values
    for values in ([0.0, 0.0], [1e5, 0.0], [float("nan"), 1.0]):
        assert not are_ordinary(array("f", values)), values


@pytest.mark.parametrize("value", [65_505.0, -65_505.0, 1e10])
def test_numbers_beyond_half_precision_are_refused_where_the_index_holds_them_as_they_are(value: float) -> None:
    numbers = array("f", [value, 0.0])
    for metric in (Metric.L2, Metric.INNER_PRODUCT):
        violation = check_numbers(collection(metric, storage=Storage.HALF), numbers, "vector")
        assert violation is not None
        assert "65,504" in violation.message
        assert check_numbers(collection(metric, storage=Storage.FLOAT), numbers, "vector") is None
        assert check_numbers(collection(metric, type=IndexType.NONE), numbers, "vector") is None
    assert check_numbers(collection(Metric.COSINE, storage=Storage.HALF), numbers, "vector") is None
    assert check_numbers(collection(Metric.L2), array("f", [65_504.0, -65_504.0]), "vector") is None


@pytest.mark.parametrize(
    ("dimension", "index", "path"),
    [
        (2000, IndexDefinition(storage=Storage.FLOAT), None),
        (2001, IndexDefinition(storage=Storage.FLOAT), "index.type"),
        (4000, IndexDefinition(storage=Storage.HALF), None),
        (4001, IndexDefinition(storage=Storage.HALF), "index.type"),
        (16_000, IndexDefinition(type=IndexType.NONE), None),
        (8, IndexDefinition(m=64, ef_construction=128), None),
        (8, IndexDefinition(m=64, ef_construction=127), "index.ef_construction"),
        (8, IndexDefinition(m=64, ef_construction=4, type=IndexType.NONE), None),
    ],
)
def test_an_index_that_pgvector_would_not_build_is_refused_beforehand(
    dimension: int, index: IndexDefinition, path: str | None
) -> None:
    violation = check_index(dimension, index)
    assert (violation.path if violation else None) == path
