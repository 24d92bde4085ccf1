"""What an index demands of a collection, a collection of the numbers of a vector, and PostgreSQL of any JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from vecmeter.errors import Violation
from vecmeter.vectors.model import Collection, FilterableField, IndexDefinition, IndexType, Metric, Storage

# Of a float32's bytes the highest holds the sign and the upper seven bits of the exponent, which show its magnitude:
# below 2**-59, at least that and below 2**15, or more (infinity and NaN as well).
_SMALL, _ORDINARY, _LARGE = b"\0", b"\1", b"\2"
_KINDS = bytes((_SMALL if upper < 34 else _ORDINARY if upper < 71 else _LARGE)[0] for upper in range(128)) * 2
_HIGHEST = slice(3 if sys.byteorder == "little" else 0, None, 4)
# pgvector sums squares in float32, which ends at 3.4e38 and is exact down to about 1e-38.
_MAX_LENGTH = 1e18
_MIN_LENGTH = 1e-18
# Half precision ends here; under cosine vectors are scaled to length 1 before they get there.
_MAX_HALF = 65_504.0
# Every write opens the index of each; an index's name is a hash, so a field's is bounded for its own sake.
MAX_FILTERABLE = 16
MAX_FIELD_BYTES = 255
MAX_TAGS = 20
MAX_TAG_KEY = 80
MAX_TAG_VALUE = 120


def check_index(dimension: int, index: IndexDefinition) -> Violation | None:
    """What pgvector would refuse when it builds the index, long after the collection was made."""
    limit = index.storage.max_indexed_dimension
    if index.type is IndexType.NONE:
        return None
    if dimension > limit:
        message = (
            f"hnsw with storage {index.storage.value} takes at most {limit} dimensions, not {dimension}; "
            "float takes 2000, half 4000, binary 16000, and none compares them all"
        )
        return Violation("index.type", message)
    if index.ef_construction < 2 * index.m:
        return Violation("index.ef_construction", f"is {index.ef_construction}; must be at least twice m ({index.m})")
    return None


def are_ordinary(numbers: array[float]) -> bool:
    """Whether no number is large and not all are small, so that none of the limits here can be passed.

    True for most vectors there are, and found in a thirtieth of the time it takes to add up their squares.
    """
    kinds = numbers.tobytes()[_HIGHEST].translate(_KINDS)
    return _LARGE not in kinds and _ORDINARY in kinds


def check_numbers(collection: Collection, numbers: array[float], path: str) -> Violation | None:
    """What is wrong with a vector for this collection, if anything. NaN and infinity are refused when it is parsed."""
    if len(numbers) != collection.dimension:
        return Violation(path, f"has {len(numbers)} dimensions; the collection has {collection.dimension}")
    if are_ordinary(numbers):
        return None
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


def check_filterable(fields: Sequence[FilterableField]) -> list[Violation]:
    """What is wrong with the fields a collection declares filterable."""
    if len(fields) > MAX_FILTERABLE:
        return [Violation("filterable", f"has {len(fields)} fields; at most {MAX_FILTERABLE} are allowed")]
    names = [one.field for one in fields]
    faults = [_fault_of_field(name, names[:index]) for index, name in enumerate(names)]
    return [Violation(f"filterable.{index}.field", fault) for index, fault in enumerate(faults) if fault]


def check_tags(tags: Mapping[str, str], path: str = "tags") -> list[Violation]:
    """What is wrong with the tags of a collection."""
    if len(tags) > MAX_TAGS:
        return [Violation(path, f"has {len(tags)} tags; at most {MAX_TAGS} are allowed")]
    return [Violation(f"{path}.{key}", fault) for key, value in tags.items() if (fault := _fault_of_tag(key, value))]


def _fault_of_tag(key: str, value: str) -> str | None:
    if not 1 <= len(key) <= MAX_TAG_KEY:
        return f"has a name of {len(key)} characters; 1 to {MAX_TAG_KEY} are allowed"
    if re.fullmatch("[A-Za-z0-9_-]+", key) is None:
        return "has a name with other characters than letters, digits, '_' and '-'"
    if not 1 <= len(value) <= MAX_TAG_VALUE:
        return f"has {len(value)} characters; 1 to {MAX_TAG_VALUE} are allowed"
    return None if re.fullmatch("[ -~]+", value) else "has a character that is not printable ASCII"


def _fault_of_field(name: str, before: Sequence[str]) -> str | None:
    if fault := unstorable(name):
        return fault
    if not name:
        return "must not be empty"
    if name.startswith("$"):
        return "must not begin with $, which filters take for an operator"
    if len(name.encode()) > MAX_FIELD_BYTES:
        return f"is {len(name.encode())} bytes long; at most {MAX_FIELD_BYTES} are allowed"
    return "is declared twice" if name in before else None


def unstorable(value: Any) -> str | None:
    """Why a value is none that PostgreSQL can keep as JSON, or None."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return "has a character U+0000, which PostgreSQL cannot keep" if has_nul(value) else None
    except UnicodeEncodeError:
        return "has a lone surrogate, which is not Unicode text"
    except (ValueError, RecursionError):
        return "is not a JSON value (NaN, infinity), or is nested too deep"


def has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(has_nul(key) or has_nul(part) for key, part in value.items())
    return isinstance(value, list) and any(map(has_nul, value))
