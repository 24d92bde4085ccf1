"""What an index demands of a collection, and a collection of the numbers of a vector."""

from __future__ import annotations

import math
from array import array

from vecmeter.errors import Violation
from vecmeter.vectors.model import Collection, IndexDefinition, IndexType, Metric, Storage

# pgvector sums squares in float32, which ends at 3.4e38 and is exact down to about 1e-38.
_MAX_LENGTH = 1e18
_MIN_LENGTH = 1e-18
# Half precision ends here; under cosine vectors are scaled to length 1 before they get there.
_MAX_HALF = 65_504.0


def check_index(dimension: int, index: IndexDefinition) -> Violation | None:
    """What pgvector would refuse when it builds the index, long after the collection was made."""
    limit = index.storage.max_indexed_dimension
    if index.type is IndexType.NONE:
        return None
    if dimension > limit:
        message = f"hnsw with storage {index.storage.value} takes at most {limit} dimensions, not {dimension}; use none"
        return Violation("index.type", message)
    if index.ef_construction < 2 * index.m:
        return Violation("index.ef_construction", f"is {index.ef_construction}; must be at least twice m ({index.m})")
    return None


def check_numbers(collection: Collection, numbers: array[float], path: str) -> Violation | None:
    """What is wrong with a vector for this collection, if anything. NaN and infinity are refused when it is parsed."""
    if len(numbers) != collection.dimension:
        return Violation(path, f"has {len(numbers)} dimensions; the collection has {collection.dimension}")
    length = math.hypot(*numbers)
    if length > _MAX_LENGTH:
        return Violation(path, f"has the length {length:.3g}; at most {_MAX_LENGTH:g} can be compared")
    if collection.metric is Metric.COSINE and length < _MIN_LENGTH:
        return Violation(path, "is a zero vector, which has no direction to compare by cosine")
    if _is_halved_as_it_is(collection) and max(map(abs, numbers)) > _MAX_HALF:
        return Violation(path, f"holds a number beyond {_MAX_HALF:,.0f}, where the index's half precision ends")
    return None


def _is_halved_as_it_is(collection: Collection) -> bool:
    index = collection.index
    return index.type is IndexType.HNSW and index.storage is Storage.HALF and collection.metric is not Metric.COSINE
