"""Any sequence of writes leaves what the same writes leave of a dictionary: contents, versions, words, account."""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.vectors import Store
from vecmeter.errors import NotFoundError, VectorExistsError, VersionConflictError
from vecmeter.vectors import stock
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import KEPT, Collection, IndexDefinition, IndexType, Metric, Patch, Vector
from vecmeter.vectors.tables import table_names

LATER = datetime(2100, 1, 1, tzinfo=UTC)
PASSED = datetime(2000, 1, 1, tzinfo=UTC)
IDS = ("a", "é")

ids = st.sampled_from(IDS)
metadata = st.fixed_dictionaries({}, optional={"k": st.integers(0, 1), "n": st.integers(0, 1)})
documents = st.sampled_from([None, "", "a cat sat", "cats sat, a cat sat"])
moments = st.sampled_from([None, None, None, LATER, LATER, PASSED])
numbers = st.sampled_from([array("f", [1, 2, 3]), array("f", [3, 2, 1])])
# Seldom a condition, and often one that holds.
versions = st.sampled_from([None, None, None, 0, 1, 2])
vectors = st.builds(
    Vector,
    id=ids,
    numbers=numbers,
    document=documents,
    metadata=metadata,
    expires_at=moments,
    if_version=versions,
)
patches = st.builds(
    Patch,
    set=metadata,
    unset=st.sampled_from([[], ["k"], ["n"], ["k", "n"]]),
    numbers=st.none() | numbers,
    document=st.just(KEPT) | documents,
    expires_at=st.just(KEPT) | moments,
    if_version=st.sampled_from([None, None, None, 1, 2]),
)
plain_patches = st.builds(Patch, set=metadata, unset=st.sampled_from([[], ["k"], ["n"], ["k", "n"]]))
filters = st.fixed_dictionaries({"k": st.integers(0, 1)})
steps = st.one_of(
    st.tuples(st.just("upsert"), st.lists(vectors, min_size=1, max_size=4)),
    st.tuples(st.just("add"), vectors),
    st.tuples(st.just("patch"), ids, patches),
    st.tuples(st.just("patch"), ids, patches),
    st.tuples(st.just("update"), filters, plain_patches),
    st.tuples(st.just("delete"), st.lists(ids, max_size=3)),
    st.tuples(st.just("delete_one"), ids, st.none() | st.integers(1, 3)),
    st.tuples(st.just("delete_matching"), filters),
    st.tuples(st.just("expire"), ids),
    st.tuples(st.just("sweep")),
)


@dataclass
class Stored:
    version: int
    numbers: list[float]
    document: str | None
    metadata: dict[str, Any]
    expires_at: datetime | None


@dataclass
class Oracle:
    """The same writes, on a dictionary. What has expired is simply not there."""

    held: dict[str, Stored] = field(default_factory=dict)

    def drop_expired(self) -> None:
        self.held = {id: one for id, one in self.held.items() if one.expires_at != PASSED}

    def version(self, id: str) -> int:
        return self.held[id].version if id in self.held else 0

    def write(self, vector: Vector) -> int:
        version = self.version(vector.id) + 1
        fields = (list(vector.numbers), vector.document, dict(vector.metadata or {}), vector.expires_at)
        self.held[vector.id] = Stored(version, *fields)
        return version

    def upsert(self, batch: list[Vector]) -> Any:
        last = {vector.id: vector for vector in batch}
        if any(v.if_version not in (None, self.version(v.id)) for v in last.values()):
            return VersionConflictError
        return [(vector.id, self.write(vector)) for vector in last.values()]

    def add(self, vector: Vector) -> Any:
        return VectorExistsError if vector.id in self.held else (vector.id, self.write(vector))

    def patch(self, id: str, patch: Patch) -> Any:
        if id not in self.held:
            return NotFoundError
        one = self.held[id]
        if patch.if_version not in (None, one.version):
            return VersionConflictError
        one.version += 1
        one.metadata = {k: v for k, v in one.metadata.items() if k not in patch.unset} | dict(patch.set)
        one.numbers = one.numbers if patch.numbers is None else list(patch.numbers)
        one.document = one.document if patch.document is KEPT else patch.document
        one.expires_at = one.expires_at if patch.expires_at is KEPT else patch.expires_at
        return one.version

    def matching(self, filter: dict[str, int]) -> list[str]:
        return [id for id, one in self.held.items() if one.metadata.get("k") == filter["k"]]

    def update(self, filter: dict[str, int], patch: Patch) -> int:
        return len([self.patch(id, patch) for id in self.matching(filter)])

    def delete(self, ids: list[str]) -> int:
        gone = set(ids) & self.held.keys()
        self.held = {id: one for id, one in self.held.items() if id not in gone}
        return len(gone)

    def delete_one(self, id: str, if_version: int | None) -> Any:
        if id not in self.held:
            return NotFoundError
        if if_version not in (None, self.version(id)):
            return VersionConflictError
        self.delete([id])
        return None

    def delete_matching(self, filter: dict[str, int]) -> int:
        return self.delete(self.matching(filter))

    def expire(self, id: str) -> None:
        self.held.pop(id, None)

    def sweep(self) -> None:
        """Nobody sees it."""


@dataclass
class Subject:
    """The writes themselves, in a namespace."""

    store: Store
    collection: Collection
    namespace: str

    def upsert(self, batch: list[Vector]) -> Any:
        here = [replace(vector, namespace=self.namespace) for vector in batch]
        return [(w.id, w.version) for w in self.store.records.upsert(self.collection, here)]

    def add(self, vector: Vector) -> Any:
        written = self.store.records.add(self.collection, replace(vector, namespace=self.namespace, if_version=None))
        return written.id, written.version

    def patch(self, id: str, patch: Patch) -> int:
        return self.store.records.patch(self.collection, self.namespace, id, patch)

    def update(self, filter: dict[str, int], patch: Patch) -> int:
        return self.store.records.update_matching(self.collection, self.namespace, filter, patch)

    def delete(self, ids: list[str]) -> int:
        return self.store.records.delete_ids(self.collection, self.namespace, ids, dry_run=False)

    def delete_one(self, id: str, if_version: int | None) -> None:
        self.store.records.delete_one(self.collection, self.namespace, id, if_version=if_version)

    def delete_matching(self, filter: dict[str, int]) -> int:
        return self.store.records.delete_matching(self.collection, self.namespace, filter, dry_run=False)

    def expire(self, id: str) -> None:
        """As if time had gone by."""
        records, vectors = table_names(self.collection.collection_id)
        moved = self.store.rows(
            f"UPDATE vecmeter.{records} SET expires_at = %s WHERE namespace = %s AND id = %s RETURNING record_id",
            [PASSED, self.namespace, id],
        )
        rows = [row[0] for row in moved]
        self.store.rows(f"UPDATE vecmeter.{vectors} SET expires_at = %s WHERE record_id = ANY(%s)", [PASSED, rows])

    def sweep(self) -> None:
        self.store.maintenance.purge_expired([self.collection])


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (VersionConflictError, VectorExistsError) as error:
        return type(error)
    except NotFoundError:
        return NotFoundError


def assert_same(store: Store, collection: Collection, namespace: str, oracle: Oracle) -> None:
    found = store.records.fetch(collection, namespace, IDS)
    assert {
        one.id: Stored(one.version, one.numbers, one.document, one.metadata, one.expires_at) for one in found
    } == oracle.held
    listed = store.records.list_ids(collection, namespace, prefix="", after="", limit=10)
    assert listed == sorted(oracle.held)
    for value in (0, 1):
        counted = store.records.count_matching(collection, namespace, {"k": value})
        assert counted == len(oracle.matching({"k": value}))


def assert_rows_agree(store: Store, collection: Collection) -> None:
    """All tables hold the same records, the words are those of the documents, and the account is what the rows say."""
    number = collection.collection_id
    wrong = store.rows(f"""
        SELECT r.id, t.terms, t.length FROM vecmeter.records_{number} r
        FULL JOIN vecmeter.vectors_{number} v USING (record_id) FULL JOIN vecmeter.texts_{number} t USING (record_id)
        WHERE r.namespace IS DISTINCT FROM v.namespace OR r.namespace IS DISTINCT FROM t.namespace
           OR r.expires_at IS DISTINCT FROM v.expires_at
           OR t.terms IS DISTINCT FROM to_tsvector('english', coalesce(r.document, ''))
           OR t.length IS DISTINCT FROM CASE r.document
                WHEN 'a cat sat' THEN 2 WHEN 'cats sat, a cat sat' THEN 4 ELSE 0 END
    """)
    assert wrong == []
    used = store.database.run(lambda connection: stock.read_used(connection, collection))
    size = "octet_length(id) + coalesce(octet_length(document), 0) + octet_length(metadata::text) + 12"
    assert store.rows(f"SELECT count(*), coalesce(sum({size}), 0)::bigint FROM vecmeter.records_{number}") == [
        (used.own_vectors, used.own_bytes)
    ]


@given(st.lists(steps, min_size=3, max_size=12))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_sequence_of_writes_leaves_what_it_leaves_of_a_dictionary(store: Store, sequence: list[Any]) -> None:
    collection = texts_collection(store)
    namespace, oracle = uuid.uuid4().hex, Oracle()
    subject = Subject(store, collection, namespace)
    start = ("upsert", [Vector(id=id, numbers=array("f", [1, 1, 1]), metadata={"k": 1, "n": 1}) for id in IDS])
    for name, *values in [start, *sequence]:
        ours = outcome(lambda n=name, v=values: getattr(subject, n)(*v))
        assert ours == getattr(oracle, name)(*values), name
        oracle.drop_expired()
        assert_same(store, collection, namespace, oracle)
    assert_rows_agree(store, collection)


def texts_collection(store: Store) -> Collection:
    for collection in store.collections.list_all():
        return collection
    return store.collections.create(
        "acme",
        "things",
        dimension=3,
        metric=Metric.COSINE,
        index=IndexDefinition(type=IndexType.NONE),
        embedder=None,
        options=Options(text_search="english"),
    )
