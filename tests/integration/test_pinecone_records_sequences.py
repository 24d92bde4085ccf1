"""Any sequence of writes over Pinecone's wire leaves what the same writes leave of a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.api import Api
from tests.fixtures.pinecone import Wire

IDS = ("a", "b", "c#1", "c#2")
NAMESPACES = ("", "__default__", "n")

ids = st.sampled_from(IDS)
namespaces = st.sampled_from(NAMESPACES)
values = st.sampled_from([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
metadata = st.fixed_dictionaries(
    {}, optional={"k": st.sampled_from(["x", "y", ["x", "y"], 1, None]), "n": st.integers(0, 2)}
)
filters = st.sampled_from([{"k": "x"}, {"k": {"$in": ["y", "z"]}}, {"n": {"$gte": 1}}, {"k": {"$exists": True}}])
records = st.fixed_dictionaries({"id": ids, "values": values}, optional={"metadata": st.none() | metadata})
updates = st.fixed_dictionaries({"id": ids, "setMetadata": metadata}, optional={"values": values})
steps = st.one_of(
    st.tuples(st.just("upsert"), namespaces, st.lists(records, min_size=1, max_size=4)),
    st.tuples(st.just("upsert"), namespaces, st.lists(records, min_size=1, max_size=4)),
    st.tuples(st.just("update"), namespaces, updates),
    st.tuples(
        st.just("update_matching"),
        namespaces,
        st.fixed_dictionaries({"filter": filters, "setMetadata": metadata, "dryRun": st.booleans()}),
    ),
    st.tuples(st.just("delete"), namespaces, st.lists(ids, min_size=1, max_size=3)),
    st.tuples(st.just("delete_matching"), namespaces, filters),
    st.tuples(st.just("delete_all"), namespaces, st.none()),
)
Record = dict[str, Any]


@dataclass
class Oracle:
    """The same writes, on dictionaries: namespace, id, record."""

    held: dict[str, dict[str, Record]] = field(default_factory=lambda: {"": {}, "n": {}})

    def of(self, namespace: str) -> dict[str, Record]:
        return self.held["" if namespace == "__default__" else namespace]

    def matching(self, namespace: str, filter: dict[str, Any]) -> list[str]:
        return sorted(id for id, record in self.of(namespace).items() if passes(record.get("metadata", {}), filter))

    def upsert(self, namespace: str, given: list[Record]) -> None:
        for one in given:
            self.of(namespace)[one["id"]] = shown(one["id"], one["values"], without_null(one.get("metadata") or {}))

    def update(self, namespace: str, change: Record) -> None:
        if before := self.of(namespace).get(change["id"]):
            merged = before.get("metadata", {}) | without_null(change["setMetadata"])
            after = shown(change["id"], change.get("values") or before["values"], merged)
            self.of(namespace)[change["id"]] = after


def shown(id: str, values: list[float], metadata: dict[str, Any]) -> Record:
    return {"id": id, "values": values} | ({"metadata": metadata} if metadata else {})


def without_null(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}


def passes(metadata: dict[str, Any], filter: dict[str, Any]) -> bool:
    [(name, wanted)] = filter.items()
    held = metadata.get(name)
    elements = held if isinstance(held, list) else [held]
    match wanted:
        case {"$in": several}:
            return any(one in several for one in elements)
        case {"$gte": least}:
            return isinstance(held, int) and held >= least
        case {"$exists": _}:
            return name in metadata
        case _:
            return wanted in elements


def do(wire: Wire, oracle: Oracle, kind: str, namespace: str, what: Any) -> None:
    """One write over the wire and on the dictionaries; what it answers is what they say."""
    place = {"namespace": namespace}
    match kind:
        case "upsert":
            assert wire.upsert(*what, namespace=namespace)["upsertedCount"] == len(what)
            oracle.upsert(namespace, what)
        case "update":
            wire.ok("POST", "/vectors/update", what | place)
            oracle.update(namespace, what)
        case "update_matching":
            matched = oracle.matching(namespace, what["filter"])
            assert wire.ok("POST", "/vectors/update", what | place)["matchedRecords"] == len(matched)
            for id in [] if what["dryRun"] else matched:
                oracle.update(namespace, {"id": id, "setMetadata": what["setMetadata"]})
        case "delete" | "delete_matching" | "delete_all":
            selector: dict[str, Any] = {"delete": {"ids": what}, "delete_matching": {"filter": what}}.get(
                kind, {"deleteAll": True}
            )
            gone = {"delete": what, "delete_all": IDS}.get(kind) or oracle.matching(namespace, what)
            wire.ok("POST", "/vectors/delete", selector | place)
            for id in gone:
                oracle.of(namespace).pop(id, None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=8), filters)
def test_any_sequence_of_writes_leaves_what_it_leaves_of_a_dictionary(
    shared_api: Api, sequence: list[tuple[str, str, Any]], filter: dict[str, Any]
) -> None:
    wire, oracle = Wire(shared_api.tenant()), Oracle()
    wire.tenant.collection("c")
    for kind, namespace, what in sequence:
        do(wire, oracle, kind, namespace, what)
    for namespace in NAMESPACES:
        held = oracle.of(namespace)
        assert wire.fetch(*IDS, namespace=namespace) == held
        assert wire.ids(namespace=namespace, limit=1 if len(held) > 1 else 100) == sorted(held)
        assert wire.ids(namespace=namespace, prefix="c#") == sorted(id for id in held if id.startswith("c#"))
        found = wire.ok("POST", "/vectors/fetch_by_metadata", {"filter": filter, "namespace": namespace})
        assert list(found["vectors"]) == oracle.matching(namespace, filter)
    counts = {name: len(held) for name, held in oracle.held.items() if held}
    stats = wire.ok("GET", "/describe_index_stats")
    assert {name: one["vectorCount"] for name, one in stats["namespaces"].items()} == counts
    assert stats["totalVectorCount"] == sum(counts.values())
    names = {one["name"]: one["record_count"] for one in wire.ok("GET", "/namespaces")["namespaces"]}
    assert names == {name or "__default__": count for name, count in counts.items()}
