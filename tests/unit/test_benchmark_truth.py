"""Recall figures are only as good as what counts as a hit."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.datasets import Dataset, Matrix, Truth


def _dataset(metric: str, vectors: list[list[float]], queries: list[list[float]]) -> Dataset:
    return Dataset("small", metric, _matrix(vectors), _matrix(queries))


def _matrix(rows: list[list[float]]) -> Matrix:
    return np.array(rows, dtype=np.float32)


LINE = _dataset("l2", [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], [[0.1, 0]])


def test_finding_the_nearest_in_any_order_is_a_recall_of_one() -> None:
    assert Truth(LINE, LINE.queries, 2).recall([[1, 0]]) == 1.0


def test_each_of_the_nearest_that_is_missing_or_replaced_costs_its_part() -> None:
    truth = Truth(LINE, LINE.queries, 2)
    assert truth.recall([[0, 4]]) == 0.5
    assert truth.recall([[0]]) == 0.5
    assert truth.recall([[]]) == 0.0


def test_a_match_told_twice_counts_once() -> None:
    assert Truth(LINE, LINE.queries, 2).recall([[0, 0]]) == 0.5


def test_of_vectors_that_are_equally_far_any_will_do() -> None:
    ring = _dataset("l2", [[1, 0], [0, 1], [-1, 0], [5, 5]], [[0, 0]])
    truth = Truth(ring, ring.queries, 2)
    assert truth.recall([[0, 1]]) == truth.recall([[2, 1]]) == 1.0
    assert truth.recall([[0, 3]]) == 0.5


def test_only_members_are_wanted_and_no_more_of_them_than_there_are() -> None:
    truth = Truth(LINE, LINE.queries, 3, np.array([3, 4]))
    assert truth.wanted == 2
    assert truth.recall([[3, 4]]) == 1.0
    # A vector that is nearer than all members, and none of them, must not make up for one.
    assert truth.recall([[0, 1]]) == 0.0


def test_cosine_looks_at_the_direction_and_scores_near_zero_are_told_apart() -> None:
    angles = np.linspace(1.2, 1.9, 50)
    around = _dataset("cosine", np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist(), [[1, 0]])
    assert Truth(around, around.queries, 10).recall([list(range(10))]) == 1.0
    assert Truth(around, around.queries, 10).recall([list(range(1, 11))]) == pytest.approx(0.9)
