"""What the caches say they take is what they take, at least; and no flood makes it more than their bound."""

from __future__ import annotations

import gc
import tracemalloc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.fixtures.embedders import FakeEmbedder
from vecmeter.embedding.query_cache import QueryEmbeddings
from vecmeter.vectors.connection import Database
from vecmeter.vectors.model import (
    Collection,
    IndexDefinition,
    Match,
    Metric,
    Plan,
    Query,
    SearchResult,
    Stamp,
)
from vecmeter.vectors.result_cache import ResultCache, key_of

BOUND = 2**18
# What a cache takes though it is empty.
ITS_OWN = 2**14
COLLECTION = Collection(
    collection_id=1,
    project_id="p",
    name="c",
    dimension=3,
    metric=Metric.COSINE,
    index=IndexDefinition(),
    embedder=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    vector_oid=1,
)


@contextmanager
def allocated() -> Iterator[list[int]]:
    """Bytes that what is made in the block holds at its end."""
    held: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield held
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def result(number: int, matches: int, characters: int) -> SearchResult:
    return SearchResult(
        matches=[
            Match(
                id=f"{number}-{at}",
                namespace="",
                score=0.5,
                distance=0.5,
                metadata={"k": at},
                document="é" * characters,
            )
            for at in range(matches)
        ],
        plan=Plan.EXACT,
        candidates=None,
        stamp=Stamp(2**40 + number, datetime.now(UTC)),
    )


@pytest.mark.parametrize(("matches", "characters"), [(0, 0), (1, 10), (10, 100), (40, 20)])
def test_answers_take_no_more_than_they_say_and_a_flood_no_more_than_the_bound(matches: int, characters: int) -> None:
    cache = ResultCache(cast(Database, None), BOUND, 3600.0)

    def keep(number: int) -> None:
        key = key_of(COLLECTION, Query(numbers=array("f", [number]), stamped=True))
        cache.keep(COLLECTION, key, result(number, matches, characters))

    keep(-1)
    with allocated() as held:
        for number in range(600):
            keep(number)
    assert 0 < cache.size <= BOUND
    assert held[0] <= cache.size + ITS_OWN
    assert cache.take_evictions() > 0


@pytest.mark.parametrize("dimension", [8, 128])
def test_vectors_of_texts_take_no_more_than_they_say_and_a_flood_no_more_than_the_bound(dimension: int) -> None:
    cache = QueryEmbeddings(BOUND, None)
    embedder: Any = FakeEmbedder(dimension)
    cache.embed("fake", "m", dimension, ["first"], lambda: embedder)
    with allocated() as held:
        for number in range(600):
            cache.embed("fake", "m", dimension, [f"text {number}"], lambda: embedder)
    assert 0 < cache.size <= BOUND
    assert held[0] <= cache.size + ITS_OWN
