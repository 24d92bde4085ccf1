"""Of the matches of a search, relevant ones that differ: maximal marginal relevance (Carbonell and Goldstein, 1998).

Frameworks have a function for it, in numpy and for a query whose vector they know. Of a text that the service has
embedded only the distances are known here, which tell as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from vecmeter_client._models import Match
from vecmeter_client.errors import InvalidInputError

Numbers = Sequence[float]


def candidates_for(k: int, fetch_k: int, weight: float) -> int:
    """How many matches to choose ``k`` from. Raises InvalidInputError for none, or a weight outside 0 to 1."""
    if k < 1:
        raise InvalidInputError(f"the number of matches wanted is {k}; it must be at least 1")
    if not 0.0 <= weight <= 1.0:
        raise InvalidInputError(f"the weight of relevance is {weight}; it must lie between 0 and 1")
    return max(k, fetch_k)


def of_vectors(mode: str) -> str:
    """The mode of a search. Raises InvalidInputError for the one that compares no vectors."""
    if mode == "text":
        raise InvalidInputError("mode: text compares no vectors, so there is none to differ; use vector or hybrid")
    return mode


def differing(
    matches: Sequence[Match], query: Numbers | None, metric: str | None, k: int, weight: float
) -> list[Match]:
    """Up to ``k`` of the matches, which have their vectors, the most relevant first.

    Each next one has the greatest ``weight * relevance - (1 - weight) * likeness``: cosine similarity to the query, and
    the greatest to those chosen before. Without ``query`` it follows from the distances under ``metric``.
    """
    vectors = [match.vector or [] for match in matches]
    if query is not None:
        relevance = [_cosine(query, vector) for vector in vectors]
    else:
        relevance = [_cosine_by_distance(match, metric) for match in matches]
    return [matches[at] for at in _diversify(vectors, relevance, k, weight)]


def _diversify(vectors: Sequence[Numbers], relevance: Sequence[float], count: int, weight: float) -> list[int]:
    units = [_unit(vector) for vector in vectors]
    left = list(range(len(units)))
    likeness = [-math.inf] * len(units)
    chosen: list[int] = []

    def worth(at: int) -> float:
        return weight * relevance[at] - (1.0 - weight) * likeness[at] if chosen else relevance[at]

    while left and len(chosen) < count:
        best = max(left, key=worth)
        left.remove(best)
        chosen.append(best)
        for at in left:
            likeness[at] = max(likeness[at], _product(units[at], units[best]))
    return chosen


def _cosine_by_distance(match: Match, metric: str | None) -> float:
    """To a query of unit length, which is what embedders make."""
    if match.distance is None or not match.vector:
        return 0.0
    if metric == "cosine":
        return 1.0 - match.distance
    length = _length(match.vector)
    by_distance = (1.0 + length * length - match.distance * match.distance) / 2.0
    product = -match.distance if metric == "inner_product" else by_distance
    return product / length if length else 0.0


def _cosine(one: Numbers, other: Numbers) -> float:
    lengths = _length(one) * _length(other)
    return _product(one, other) / lengths if lengths else 0.0


def _product(one: Numbers, other: Numbers) -> float:
    return float(sum(map(mul, one, other)))


def _length(vector: Numbers) -> float:
    return math.sqrt(_product(vector, vector))


def _unit(vector: Numbers) -> Numbers:
    length = _length(vector)
    return [number / length for number in vector] if length else vector
