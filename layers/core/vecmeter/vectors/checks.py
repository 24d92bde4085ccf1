"""What a collection demands of the numbers of a vector."""

from __future__ import annotations

import math
from array import array

from vecmeter.errors import Violation
from vecmeter.vectors.model import Collection, Metric

# pgvector sums squares in float32, which ends at 3.4e38 and is exact down to about 1e-38.
_MAX_LENGTH = 1e18
_MIN_LENGTH = 1e-18


def check_numbers(collection: Collection, numbers: array[float], path: str) -> Violation | None:
    """What is wrong with a vector for this collection, if anything. NaN and infinity are refused when it is parsed."""
    if len(numbers) != collection.dimension:
        return Violation(path, f"has {len(numbers)} dimensions; the collection has {collection.dimension}")
    length = math.hypot(*numbers)
    if length > _MAX_LENGTH:
        return Violation(path, f"has the length {length:.3g}; at most {_MAX_LENGTH:g} can be compared")
    if collection.metric is Metric.COSINE and length < _MIN_LENGTH:
        return Violation(path, "is a zero vector, which has no direction to compare by cosine")
    return None
