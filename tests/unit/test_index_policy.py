"""Which indexes a collection gets is decided from counts, once: what was decided and done asks for nothing more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from vecmeter.vectors.index_policy import (
    Action,
    Refused,
    Step,
    Thresholds,
    decide,
    memory_to_build,
    storage_for,
    why_none,
)
from vecmeter.vectors.model import Collection, Hnsw, IndexDefinition, IndexType, Metric, Storage

THRESHOLDS = Thresholds(collection=1000, namespace=200, most_namespaces=3)


def collection(*hnsw: Hnsw, metric: Metric = Metric.COSINE, dimension: int = 8, **index: object) -> Collection:
    return Collection(
        collection_id=1,
        project_id="p",
        name="c",
        dimension=dimension,
        metric=metric,
        index=IndexDefinition(**index),  # type: ignore[arg-type]
        embedder=None,
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        vector_oid=1,
        hnsw=hnsw,
    )


def built(number: int, namespace: str | None = None, vectors: int | None = None, **made: object) -> Hnsw:
    made = {"storage": Storage.HALF, "m": 16, "ef_construction": 128, **made}
    return Hnsw(index_id=number, namespace=namespace, vectors=vectors, **made)  # type: ignore[arg-type]


def apply(steps: list[Step], to: Collection) -> Collection:
    """What maintenance makes of them."""
    there = {one.index_id: one for one in to.hnsw}
    numbers = count(max(there, default=0) + 1)
    for step in steps:
        for old in step.old:
            del there[old]
        if step.action is Action.BUILD:
            made = built(
                next(numbers),
                step.namespace,
                step.vectors,
                storage=step.storage,
                m=to.index.m,
                ef_construction=to.index.ef_construction,
            )
            there[made.index_id] = made
    return replace(to, hnsw=tuple(there.values()))


def namespaces(of: Collection) -> list[str | None]:
    return sorted((one.namespace for one in of.hnsw), key=str)


COUNTS = st.dictionaries(st.text("abcdefgh", max_size=2), st.integers(0, 2000), max_size=12)
STORAGES = st.sampled_from(Storage)
NAMES = st.none() | st.text("abcdefgh", max_size=2)
HNSW = st.lists(
    st.builds(
        Hnsw,
        index_id=st.integers(1, 1000),
        namespace=NAMES,
        storage=STORAGES,
        m=st.sampled_from([8, 16]),
        ef_construction=st.just(128),
        vectors=st.none() | st.integers(0, 4000),
    ),
    max_size=8,
    unique_by=lambda one: one.index_id,
)
REFUSED = st.lists(
    st.builds(
        Refused,
        namespace=NAMES,
        m=st.just(16),
        ef_construction=st.just(128),
        vectors=st.integers(0, 4000),
        recall=st.floats(0, 1),
    ),
    max_size=4,
)
LIMITS = st.builds(
    Thresholds, collection=st.integers(0, 3000), namespace=st.integers(1, 600), most_namespaces=st.integers(0, 4)
)
DEFINITIONS = st.builds(
    lambda hnsw, storage, type, metric, dimension: collection(
        *hnsw, storage=storage, type=type, metric=metric, dimension=dimension
    ),
    HNSW,
    STORAGES,
    st.sampled_from(IndexType),
    st.sampled_from(Metric),
    st.sampled_from([8, 3000, 10_000]),
)


@given(DEFINITIONS, COUNTS, REFUSED, LIMITS)
@settings(max_examples=200, deadline=None)
def test_what_was_decided_and_done_asks_for_nothing_more(
    before: Collection, counts: dict[str, int], refused: list[Refused], limits: Thresholds
) -> None:
    after = apply(decide(before, counts, refused, limits), before)
    assert decide(after, counts, refused, limits) == []
    of_namespaces = [one for one in after.hnsw if one.namespace is not None]
    assert len(of_namespaces) <= limits.most_namespaces
    assert len(namespaces(after)) == len(set(namespaces(after))), "one for each"
    if of_namespaces and after.hnsw_of(None) is None:
        assert storage_for(after, None, sum(counts.values()), refused) is None
    if after.index.type is IndexType.NONE:
        assert after.hnsw == ()


@given(DEFINITIONS, COUNTS, LIMITS, st.integers(-20, 20))
@settings(max_examples=100, deadline=None)
def test_small_changes_of_counts_build_nothing_anew_and_drop_nothing(
    before: Collection, counts: dict[str, int], limits: Thresholds, percent: int
) -> None:
    before = replace(before, hnsw=())
    hundreds = {name: size * 100 for name, size in counts.items()}
    after = apply(decide(before, hundreds, [], limits), before)
    changed = {name: size * (100 + percent) for name, size in counts.items()}
    for step in decide(after, changed, [], limits):
        assert step.action is Action.BUILD, step
        assert step.old == (), "what was built stays"


@given(DEFINITIONS, COUNTS, LIMITS)
@settings(max_examples=100, deadline=None)
def test_nothing_is_retired_before_its_successor_is_built(
    before: Collection, counts: dict[str, int], limits: Thresholds
) -> None:
    after = apply(decide(before, counts, [], limits), before)
    for namespace in {one.namespace for one in before.hnsw} & {one.namespace for one in after.hnsw}:
        for step in decide(before, counts, [], limits):
            newest = before.hnsw_of(namespace)
            if step.namespace == namespace and step.action is Action.RETIRE:
                assert newest is not None
                assert newest.index_id not in step.old


def test_a_collection_gets_its_index_at_the_threshold_and_keeps_it_down_to_half() -> None:
    assert decide(collection(), {"": 999}, [], THRESHOLDS) == []
    assert why_none(collection(), {"": 999}, THRESHOLDS) == "fewer than 1000 vectors"
    [step] = decide(collection(), {"": 1000}, [], THRESHOLDS)
    assert (step.action, step.namespace, step.vectors, step.storage) == (Action.BUILD, None, 1000, Storage.HALF)
    indexed = collection(built(1, vectors=1000))
    assert decide(indexed, {"": 500}, [], THRESHOLDS) == []
    [step] = decide(indexed, {"": 499}, [], THRESHOLDS)
    assert (step.action, step.old, step.reason) == (Action.RETIRE, (1,), "fewer than 1000 vectors")


def test_large_namespaces_get_indexes_of_their_own_the_largest_first_up_to_the_ceiling() -> None:
    counts = {"a": 300, "b": 900, "c": 400, "d": 199, "e": 500}
    indexed = apply(decide(collection(), counts, [], THRESHOLDS), collection())
    assert namespaces(indexed) == [None, "b", "c", "e"]


def test_a_namespace_keeps_its_index_down_to_half_the_threshold() -> None:
    indexed = collection(built(1, vectors=None), built(2, "a", 200))
    assert decide(indexed, {"a": 100, "": 1000}, [], THRESHOLDS) == []
    [step] = decide(indexed, {"a": 99, "": 1000}, [], THRESHOLDS)
    assert (step.action, step.namespace, step.old) == (Action.RETIRE, "a", (2,))


def test_a_namespace_under_the_ceiling_gives_way_only_to_one_twice_its_size() -> None:
    indexed = collection(built(1, vectors=1), *[built(n, name, 300) for n, name in ((2, "a"), (3, "b"), (4, "c"))])
    indexed = replace(indexed, hnsw=tuple(replace(one, vectors=None) for one in indexed.hnsw))
    counts = {"a": 300, "b": 300, "c": 300, "d": 599}
    assert decide(indexed, counts, [], THRESHOLDS) == []
    steps = decide(indexed, {**counts, "d": 601}, [], THRESHOLDS)
    assert sorted((step.action, step.namespace) for step in steps) == [(Action.BUILD, "d"), (Action.RETIRE, "c")]


def test_a_namespace_that_is_nearly_the_whole_collection_is_served_by_its_index() -> None:
    [step] = decide(collection(), {"most": 1800, "few": 200}, [], THRESHOLDS)[:1]
    assert step.namespace is None
    assert namespaces(apply(decide(collection(), {"most": 1700, "few": 300}, [], THRESHOLDS), collection())) == [
        None,
        "few",
    ]


def test_it_is_built_anew_when_its_making_was_changed_or_the_set_has_doubled() -> None:
    for there, counts, reason in (
        (built(1, vectors=1000, m=8), 1000, "m or ef_construction was changed"),
        (built(1, vectors=1000, storage=Storage.FLOAT), 1000, "half in place of float"),
        (built(1, vectors=1000), 2000, "2000 vectors, 1000 when it was built"),
    ):
        [step] = decide(collection(there), {"": counts}, [], THRESHOLDS)
        assert (step.action, step.reason, step.old) == (Action.BUILD, reason, (1,))
    assert decide(collection(built(1, vectors=1000)), {"": 1999}, [], THRESHOLDS) == []


def test_what_was_refused_in_binary_is_built_in_another_storage_until_something_changes() -> None:
    wanted = collection(storage=Storage.BINARY)
    refused = Refused(namespace=None, storage=Storage.BINARY, m=16, ef_construction=128, vectors=1000, recall=0.6)
    assert storage_for(wanted, None, 1000, []) is Storage.BINARY
    assert storage_for(wanted, None, 1999, [refused]) is Storage.HALF
    assert storage_for(wanted, "a", 1000, [refused]) is Storage.BINARY, "that was another index"
    assert storage_for(wanted, None, 2000, [refused]) is Storage.BINARY, "another set"
    assert storage_for(replace(wanted, target_recall=0.6), None, 1000, [refused]) is Storage.BINARY
    assert storage_for(replace(wanted, metric=Metric.L2), None, 1000, [refused]) is Storage.FLOAT
    assert storage_for(replace(wanted, dimension=5000), None, 1000, [refused]) is None
    assert storage_for(collection(storage=Storage.HALF), None, 1000, [refused]) is Storage.HALF, "that was binary"


def test_what_half_precision_did_not_hold_is_built_in_float_until_the_set_has_doubled() -> None:
    wanted = collection(storage=Storage.HALF, metric=Metric.L2)
    refused = Refused(namespace=None, storage=Storage.HALF, m=16, ef_construction=128, vectors=1000, recall=None)
    assert storage_for(wanted, None, 1999, [refused]) is Storage.FLOAT
    assert storage_for(replace(wanted, target_recall=0.1), None, 1000, [refused]) is Storage.FLOAT
    assert storage_for(wanted, None, 2000, [refused]) is Storage.HALF
    assert storage_for(replace(wanted, dimension=2001), None, 1000, [refused]) is None


def test_memory_to_build_holds_what_was_measured() -> None:
    """pgvector 0.8.6 held so many vectors in 8 MB before it said that the graph no longer fits."""
    for dimension, m, storage, held in (
        (64, 16, Storage.FLOAT, 8642),
        (64, 32, Storage.BINARY, 6801),
        (384, 16, Storage.HALF, 5658),
        (384, 32, Storage.FLOAT, 3036),
    ):
        needed = memory_to_build(collection(dimension=dimension, m=m), storage, held * 100)
        assert 800 * 2**20 <= needed <= 1.06 * 800 * 2**20
