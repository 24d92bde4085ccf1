"""Vectors and metrics as Pinecone has them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from vecmeter.errors import Violation
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection, Metric

METRIC_NAMES: Mapping[Metric, str] = {
    Metric.COSINE: "cosine",
    Metric.L2: "euclidean",
    Metric.INNER_PRODUCT: "dotproduct",
}


def _not_there(value: Any) -> None:
    if value is not None:
        raise ValueError("sparse vectors are not supported here; only dense ones are")


NoSparse = Annotated[None, BeforeValidator(_not_there)]
"""A sparse vector, which is refused; null is none."""


def value_violation(collection: Collection, numbers: array[float], path: str) -> Violation | None:
    """What is wrong with a vector for an index, if anything; a wrong dimension in words that their clients know."""
    if len(numbers) != collection.dimension:
        known = f"Vector dimension {len(numbers)} does not match the dimension of the index {collection.dimension}"
        return Violation(path, known)
    return check_numbers(collection, numbers, path)
