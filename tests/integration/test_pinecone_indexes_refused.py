"""What Pinecone's control plane takes and this one does not, and what is out of bounds: 400, and nothing happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, problem
from tests.fixtures.pinecone_indexes import NEW, OLD, SERVERLESS, Wire, dense, wanted


@pytest.fixture
def wire(tenant: Tenant) -> Wire:
    return Wire(tenant)


REFUSED: list[tuple[str, Mapping[str, Any], str]] = [
    (OLD, {"name": "Docs"}, "name"),
    (OLD, {"name": "-docs"}, "name"),
    (OLD, {"name": "docs-"}, "name"),
    (OLD, {"name": "a.b"}, "name"),
    (OLD, {"name": "a" * 46}, "name"),
    (OLD, {"name": ""}, "name"),
    (NEW, {"name": "docs_1"}, "name"),
    (OLD, {"dimension": 0}, "dimension"),
    (OLD, {"dimension": 16_001}, "dimension"),
    (OLD, {"dimension": None}, "dimension"),
    (OLD, {"dimension": "3"}, "dimension"),
    (OLD, {"dimension": 3.5}, "dimension"),
    (OLD, {"metric": "l2"}, "metric"),
    (OLD, {"vector_type": "sparse"}, "vector_type"),
    (OLD, {"vector_type": "thin"}, "vector_type"),
    (OLD, {"spec": {}}, "spec"),
    (OLD, {"spec": {"serverless": None}}, "spec"),
    (OLD, {"spec": SERVERLESS | {"byoc": {"environment": "e"}}}, "spec"),
    (OLD, {"spec": {"pod": {"environment": "us-east1-gcp", "pod_type": "p1.x1"}}}, "spec.pod"),
    (OLD, {"spec": {"serverless": {"cloud": "moon", "region": "sea"}}}, "spec.serverless.cloud"),
    (OLD, {"spec": {"serverless": {"cloud": "aws"}}}, "spec.serverless.region"),
    (OLD, {"spec": {"serverless": {"cloud": "aws", "region": "a b"}}}, "spec.serverless.region"),
    (OLD, {"spec": {"byoc": {"environment": ""}}}, "spec.byoc.environment"),
    (OLD, {"source_collection": "films"}, "source_collection"),
    (OLD, {"deletion_protection": True}, "deletion_protection"),
    (OLD, {"tags": {"a b": "c"}}, "tags.a b"),
    (OLD, {"tags": {"a": "x" * 121}}, "tags.a"),
    (OLD, {"tags": {"a" * 81: "x"}}, "tags." + "a" * 81),
    (OLD, {"tags": {"a": "é"}}, "tags.a"),
    (OLD, {"tags": {"a": 1}}, "tags.a"),
    (OLD, {"tags": {f"t{at}": "x" for at in range(21)}}, "tags"),
    (OLD, {"embed": {}}, "embed"),
    (NEW, {"schema": {}}, "schema.fields"),
    (NEW, {"schema": {"fields": {}}}, "schema.fields"),
    (NEW, {"schema": {"fields": {"embedding": dense()}}}, "schema.fields.embedding"),
    (NEW, {"schema": {"fields": {"_values": dense(), "more": dense()}}}, "schema.fields.more"),
    (NEW, {"schema": {"fields": {"_sparse_values": {"type": "sparse_vector"}}}}, "schema.fields._sparse_values"),
    (NEW, {"schema": {"fields": {"_values": {"type": "sparse_vector"}}}}, "schema.fields._values.type"),
    (NEW, {"schema": {"fields": {"_values": dense(20_000)}}}, "dimension"),
    (NEW, {"schema": {"fields": {"_values": 1}}}, "schema.fields._values"),
    (
        NEW,
        {"schema": {"fields": {"_values": dense(), "body": {"type": "string", "full_text_search": {}}}}},
        "schema.fields.body.full_text_search",
    ),
    (NEW, {"schema": {"fields": {"_values": dense(), "g": {"filterable": False}}}}, "schema.fields.g.filterable"),
    (NEW, {"deployment": {"deployment_type": "pod", "environment": "e", "pod_type": "p1.x1"}}, "deployment"),
    (NEW, {"deployment": {"deployment_type": "managed"}}, "deployment.managed.cloud"),
    (NEW, {"read_capacity": {"mode": "Dedicated"}}, "read_capacity.mode"),
    (NEW, {"cmek_id": "key"}, "cmek_id"),
    (NEW, {"source_backup_id": "b"}, "source_backup_id"),
    (NEW, {"dimension": 3}, "dimension"),
    (NEW, {"spec": SERVERLESS}, "spec"),
]


@pytest.mark.parametrize(("version", "changes", "path"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_not_there_or_out_of_bounds_is_400_with_its_path(
    shared_wire: Wire, version: str, changes: Mapping[str, Any], path: str
) -> None:
    tenant = shared_wire.tenant
    before = tenant.state()
    answer = shared_wire.call("POST", "/indexes", wanted("docs", version) | dict(changes), version)
    found = problem(answer, 422)
    assert path in [one["path"] for one in found["errors"]], found
    assert answer.json()["error"]["code"] == "INVALID_ARGUMENT"
    assert tenant.state() == before


@pytest.fixture(scope="module")
def shared_wire(shared_api: Api) -> Wire:
    """One for tests that change nothing."""
    return Wire(shared_api.tenant())


@pytest.mark.parametrize("kind", ["serverless", "byoc"])
def test_declared_metadata_is_refused_by_its_own_path(shared_wire: Wire, kind: str) -> None:
    place = SERVERLESS["serverless"] if kind == "serverless" else {"environment": "e"}
    path = f"spec.{kind}.schema.fields"

    def refused(fields: dict[str, Any]) -> list[str]:
        spec = {kind: place | {"schema": {"fields": fields}}}
        answer = shared_wire.call("POST", "/indexes", wanted("docs") | {"spec": spec})
        return [one["path"] for one in problem(answer, 422)["errors"]]

    typed = {"filterable": True, "type": "string"}
    assert refused({"$genre": typed}) == [f"{path}.$genre"]
    assert refused({f"f{at}": typed for at in range(17)}) == [path]
    assert refused({f"f{at}": {"filterable": True} for at in range(51)}) == [path]
    assert refused({"f": {"filterable": False}}) == [f"{path}.f.filterable"]
    assert refused({"f": {"filterable": True, "type": "date"}}) == [f"{path}.f.type"]


CONFIGURED: list[tuple[Mapping[str, Any], str]] = [
    ({"deletion_protection": "on"}, "deletion_protection"),
    ({"spec": {"pod": {"replicas": 2}}}, "spec.pod"),
    ({"deployment": {"replicas": 2}}, "deployment"),
    ({"schema": {"fields": {}}}, "schema"),
    ({"embed": {"model": "m"}}, "embed"),
    ({"read_capacity": {"mode": "Dedicated", "dedicated": {"node_type": "t1"}}}, "read_capacity.mode"),
    ({"spec": {"serverless": {"read_capacity": {"mode": "Dedicated"}}}}, "spec.serverless.read_capacity.mode"),
    ({"tags": {"a/b": "c"}}, "tags.a/b"),
    ({"dimension": 4}, "dimension"),
]


@pytest.mark.parametrize(("changes", "path"), CONFIGURED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_configured_is_refused_and_nothing_changes(
    wire: Wire, changes: Mapping[str, Any], path: str
) -> None:
    before = wire.made("docs", tags={"a": "b"})
    answer = wire.call("PATCH", "/indexes/docs", {"tags": {"new": "x"}, "deletion_protection": "enabled", **changes})
    assert path in [one["path"] for one in problem(answer, 422)["errors"]]
    assert wire.describe("docs") == before
    assert wire.configure("docs", read_capacity={"mode": "OnDemand"}) == before
