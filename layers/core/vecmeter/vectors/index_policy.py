"""Which HNSW indexes a collection ought to have, decided from counts. Nothing here touches the database.

* None below a threshold of vectors: comparing them all is as fast, and exact.
* Above it one of the whole collection.
* Beside it one for each namespace that is too large to be compared vector by vector, so that a search of it need not
  wade through everybody else's vectors: of the largest ones, up to a ceiling. A namespace that is nearly the whole
  collection is served as well by the collection's own.

Nothing flaps: what was built at a threshold stays down to half of it, and a namespace has to be twice as large to take
another's place under the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from vecmeter.vectors.model import Collection, Hnsw, IndexType, Metric, Storage

# Of the whole collection's vectors, from which on a namespace gets no index of its own, and loses the one it has.
_NEARLY_ALL = 0.8
_NEARLY_ALL_TO_DROP = 0.9
# A set that has grown so much since its index was built is built anew: most of the graph was laid out for another.
_GROWTH = 2
# Bytes of an HNSW graph under construction, per vector, beside the vector itself; and per link (pgvector 0.8.6: 8 MB
# held so many vectors of 64 and 384 dimensions in each storage, with m 16 and 32, as this says, within 1 %).
_BYTES_PER_VECTOR = 203
_BYTES_PER_LINK = 32
_SPARE = 1.05
_LEAST_MEMORY = 16 * 2**20
_NOTHING_HOLDS_IT = "what was asked for was refused, and nothing else holds so many dimensions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Vectors from which a ``collection`` gets an index, and a ``namespace`` one of its own; ``most_namespaces`` do."""

    collection: int
    namespace: int
    most_namespaces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An index that was built and dropped again: binary, and found less than the collection's target recall; or (None)
    in half precision, which did not hold a number there is.
    """

    namespace: str | None
    storage: Storage
    m: int
    ef_construction: int
    vectors: int
    recall: float | None


class Action(StrEnum):
    BUILD = "build"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: build an index of a namespace (None: of all vectors) in the place of ``old`` ones, or retire
    these: searches take them no more, and they are dropped later. ``vectors``: how many are in question.
    """

    action: Action
    namespace: str | None
    reason: str
    vectors: int
    storage: Storage
    old: tuple[int, ...] = ()


def decide(
    collection: Collection, counts: Mapping[str, int], refused: Sequence[Refused], thresholds: Thresholds
) -> list[Step]:
    """What turns the indexes there are (``collection.hnsw``) into those there ought to be; nothing where they are.

    Args:
        counts: vectors of each namespace.
    """
    sizes = _sizes(counts)
    chosen = {namespace: storage_for(collection, namespace, size, refused) for namespace, size in sizes.items()}
    possible = {namespace: storage for namespace, storage in chosen.items() if storage is not None}
    wanted = _wanted(collection, sizes, possible.keys(), thresholds)
    steps = []
    for namespace, reason in wanted.items():
        steps += _keep_up(collection, namespace, sizes[namespace], possible[namespace], reason)
    for namespace in {one.namespace for one in collection.hnsw} - wanted.keys():
        is_possible = namespace in possible or namespace not in sizes
        reason = _why_not(collection, namespace, sizes, thresholds) if is_possible else _NOTHING_HOLDS_IT
        steps += _retire(collection, namespace, sizes.get(namespace, 0), reason)
    return steps


def why_none(collection: Collection, counts: Mapping[str, int], thresholds: Thresholds) -> str:
    """Why a collection without an index has none."""
    return _why_not(collection, None, _sizes(counts), thresholds)


def storage_for(collection: Collection, namespace: str | None, size: int, refused: Sequence[Refused]) -> Storage | None:
    """What an index shall hold: what is asked for, unless that was found wanting."""
    index = collection.index
    if not any(
        one.namespace == namespace and one.storage is index.storage and _is_wanting(collection, one, size)
        for one in refused
    ):
        return index.storage
    # As where nobody asks for a storage: half precision ends where lengths and products may not.
    other = Storage.HALF if collection.metric is Metric.COSINE else Storage.FLOAT
    return other if collection.dimension <= other.max_indexed_dimension else None


def _is_wanting(collection: Collection, one: Refused, size: int) -> bool:
    """Whether what was found of an index would be found again."""
    if _has_grown(size, one.vectors):
        return False
    if one.recall is None:
        return True
    index = collection.index
    made_alike = (one.m, one.ef_construction) == (index.m, index.ef_construction)
    return made_alike and one.recall < collection.target_recall


def memory_to_build(collection: Collection, storage: Storage, vectors: int) -> int:
    """Bytes that hold the whole graph while it is built; with less, building takes many times as long."""
    held = {Storage.FLOAT: 4.0, Storage.HALF: 2.0, Storage.BINARY: 0.125}[storage] * collection.dimension
    each = held + _BYTES_PER_VECTOR + _BYTES_PER_LINK * collection.index.m
    return max(_LEAST_MEMORY, int(vectors * each * _SPARE))


def _sizes(counts: Mapping[str, int]) -> dict[str | None, int]:
    """With the whole collection beside its namespaces."""
    sizes: dict[str | None, int] = {None: sum(counts.values())}
    return sizes | dict(counts.items())


def _wanted(
    collection: Collection,
    sizes: Mapping[str | None, int],
    possible: Set[str | None],
    thresholds: Thresholds,
) -> dict[str | None, str]:
    """The ``possible`` ones (None: the whole collection) that ought to have an index, and why."""
    present = {one.namespace for one in collection.hnsw}
    # What was built at a threshold stays down to half of it.
    least = thresholds.collection / 2 if present else thresholds.collection
    if collection.index.type is IndexType.NONE or sizes[None] < least:
        return {}

    def rank(namespace: str) -> tuple[int, str]:
        return (-sizes[namespace] * (2 if namespace in present else 1), namespace)

    def deserves_its_own(namespace: str) -> bool:
        size, is_there = sizes[namespace], namespace in present
        least = thresholds.namespace / 2 if is_there else thresholds.namespace
        return least <= size <= sizes[None] * (_NEARLY_ALL_TO_DROP if is_there else _NEARLY_ALL)

    large = sorted((name for name in possible if name is not None and deserves_its_own(name)), key=rank)
    found: dict[str | None, str] = {}
    if None in possible:
        found[None] = f"{thresholds.collection} vectors or more"
    for namespace in large[: thresholds.most_namespaces]:
        found[namespace] = f"{thresholds.namespace} vectors or more in the namespace"
    return found


def _keep_up(collection: Collection, namespace: str | None, size: int, storage: Storage, reason: str) -> list[Step]:
    """Build the index where there is none, or none as it ought to be; and leave one of several."""
    newest = collection.hnsw_of(namespace)
    older = [one.index_id for one in collection.hnsw if one.namespace == namespace and one is not newest]
    if newest is not None:
        changed = _why_anew(collection, newest, size, storage)
        if changed is None:
            return _retire(collection, namespace, size, "there is a newer one", older)
        reason = changed
        older.append(newest.index_id)
    build = Step(
        action=Action.BUILD, namespace=namespace, reason=reason, vectors=size, storage=storage, old=tuple(older)
    )
    return [build]


def _why_anew(collection: Collection, there: Hnsw, size: int, storage: Storage) -> str | None:
    index = collection.index
    if there.storage is not storage:
        return f"{storage.value} in place of {there.storage.value}"
    if (there.m, there.ef_construction) != (index.m, index.ef_construction):
        return "m or ef_construction was changed"
    if there.vectors is not None and _has_grown(size, there.vectors):
        return f"{size} vectors, {there.vectors} when it was built"
    return None


def _retire(
    collection: Collection, namespace: str | None, size: int, reason: str, old: Sequence[int] | None = None
) -> list[Step]:
    there = {one.index_id: one for one in collection.hnsw if one.namespace == namespace}
    numbers = tuple(there if old is None else old)
    return [
        Step(
            action=Action.RETIRE,
            namespace=namespace,
            reason=reason,
            vectors=size,
            storage=there[number].storage,
            old=(number,),
        )
        for number in numbers
    ]


def _why_not(
    collection: Collection, namespace: str | None, sizes: Mapping[str | None, int], thresholds: Thresholds
) -> str:
    if collection.index.type is IndexType.NONE:
        return "none is wanted"
    if sizes[None] < thresholds.collection:
        return f"fewer than {thresholds.collection} vectors"
    size = sizes.get(namespace, 0)
    if size < thresholds.namespace:
        return f"fewer than {thresholds.namespace} vectors in the namespace"
    if size > sizes[None] * _NEARLY_ALL:
        return "the namespace is nearly the whole collection"
    return f"{thresholds.most_namespaces} larger namespaces have one"


def _has_grown(size: int, before: int) -> bool:
    return size > before and size >= _GROWTH * before
