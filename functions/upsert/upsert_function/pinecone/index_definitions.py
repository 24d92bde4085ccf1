"""Indexes in terms of collections: what one is to be, and what is told of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upsert_function.collection_schemas import CollectionBody, EmbedderBody, FilterableBody
from upsert_function.creation import NewCollection
from upsert_function.pinecone.index_schemas import (
    VALUES,
    ConfigureBody,
    DenseBody,
    FieldBody,
    SchemaIndexBody,
    SpecIndexBody,
)
from vecmeter.errors import Violation
from vecmeter.http.checks import invalid, raise_if_any
from vecmeter.http.pinecone.hosts import Hosts
from vecmeter.http.pinecone.values import METRIC_NAMES
from vecmeter.settings import Settings
from vecmeter.vectors.checks import check_filterable, check_tags
from vecmeter.vectors.model import Collection, FieldType, FilterableField

_METRICS = {theirs: ours.value for ours, theirs in METRIC_NAMES.items()}
# What has no type here is filtered by as well: the index of all metadata has it.
_TYPES: Mapping[str, FieldType] = {
    "string": FieldType.STRING,
    "float": FieldType.NUMBER,
    "integer": FieldType.NUMBER,
    "number": FieldType.NUMBER,
    "boolean": FieldType.BOOLEAN,
}
_THEIR_TYPES = {FieldType.NUMBER: "float", FieldType.BOOLEAN: "boolean"}


def of_spec(body: SpecIndexBody, settings: Settings) -> NewCollection:
    """The collection that is asked for. Raises InvalidRequestError."""
    if body.vector_type == "sparse":
        raise invalid("vector_type", "is sparse; there are only dense vectors")
    if body.dimension is None:
        raise invalid("dimension", "must be given: vectors are dense")
    kind, spec = body.spec.one()
    dense = DenseBody(type="dense_vector", dimension=body.dimension, metric=body.metric)
    metadata = spec.metadata.fields if spec.metadata else {}
    path = f"spec.{kind}.schema.fields"
    requested = {"deployment": spec.deployment()}
    return _collection(body, body.name, dense, metadata=metadata, path=path, requested=requested, settings=settings)


def of_schema(body: SchemaIndexBody, settings: Settings) -> NewCollection:
    """The same; an index without a name gets one. Raises InvalidRequestError, RequestValidationError."""
    dense, metadata = body.of_fields.parts()
    name = body.name or f"index-{secrets.token_hex(4)}"
    requested = {"deployment": body.deployment.model_dump()} if body.deployment else {}
    return _collection(
        body, name, dense, metadata=metadata, path="schema.fields", requested=requested, settings=settings
    )


def _collection(
    body: SpecIndexBody | SchemaIndexBody,
    name: str,
    dense: DenseBody,
    *,
    metadata: Mapping[str, FieldBody],
    path: str,
    requested: dict[str, Any],
    settings: Settings,
) -> NewCollection:
    types = {name: kind for name, one in metadata.items() if (kind := _TYPES.get(one.type or ""))}
    fields = [FilterableField(name, kind) for name, kind in types.items()]
    raise_if_any([_at(fault, path, fields) for fault in check_filterable(fields)])
    made = CollectionBody.model_construct(
        name=name,
        dimension=dense.dimension,
        metric=_METRICS[dense.metric],
        embedder=EmbedderBody(provider="none"),
        filterable=[FilterableBody.model_construct(field=name, type=kind.value) for name, kind in types.items()],
        deletion_protection=body.deletion_protection == "enabled",
        tags={name: value for name, value in (body.tags or {}).items() if value},
    ).resolve(settings)
    if untyped := [name for name in metadata if name not in types]:
        requested["fields"] = untyped
    return replace(made, options=replace(made.options, requested=requested))


def _at(fault: Violation, path: str, fields: list[FilterableField]) -> Violation:
    """A fault of the fields by the path that they have in the request."""
    parts = fault.path.split(".")
    return Violation(f"{path}.{fields[int(parts[1])].field:.100}" if len(parts) > 1 else path, fault.message)


def configured(before: Collection, body: ConfigureBody) -> Collection:
    """The collection after the change. Raises InvalidRequestError."""
    merged = {**before.tags, **(body.tags or {})}
    tags = {name: value for name, value in merged.items() if value}
    raise_if_any(check_tags(tags))
    protected = before.deletion_protection
    if body.deletion_protection is not None:
        protected = body.deletion_protection == "enabled"
    return replace(before, tags=tags, deletion_protection=protected)


def described(collection: Collection, hosts: Hosts, *, by_schema: bool) -> dict[str, Any]:
    """What is told of an index, in the shape of the client's version."""
    common: dict[str, Any] = {
        "name": collection.name,
        "host": hosts.of(collection.name),
        "status": {"ready": True, "state": "Ready"},
        "deletion_protection": "enabled" if collection.deletion_protection else "disabled",
    }
    if collection.tags:
        common["tags"] = dict(collection.tags)
    deployment = _deployment(collection, hosts)
    return common | (_by_schema(collection, deployment) if by_schema else _by_spec(collection, deployment))


def _by_schema(collection: Collection, deployment: dict[str, str]) -> dict[str, Any]:
    vectors = {"type": "dense_vector", "dimension": collection.dimension, "metric": METRIC_NAMES[collection.metric]}
    fields = {name: _field(kind) for name, kind in _fields(collection).items()}
    return {"schema": {"fields": {VALUES: vectors, **fields}}, "deployment": deployment, "read_capacity": _capacity()}


def _by_spec(collection: Collection, deployment: dict[str, str]) -> dict[str, Any]:
    kind = "serverless" if deployment["deployment_type"] == "managed" else "byoc"
    spec: dict[str, Any] = {name: value for name, value in deployment.items() if name != "deployment_type"}
    spec["read_capacity"] = _capacity()
    if fields := _fields(collection):
        spec["schema"] = {"fields": {name: {"filterable": True} for name in fields}}
    return {
        "dimension": collection.dimension,
        "metric": METRIC_NAMES[collection.metric],
        "vector_type": "dense",
        "spec": {kind: spec},
        "created_at": collection.created_at.isoformat(),
    }


def _deployment(collection: Collection, hosts: Hosts) -> dict[str, str]:
    here = {"deployment_type": "managed", "cloud": "aws", "region": hosts.region}
    return dict((collection.requested or {}).get("deployment") or here)


def _fields(collection: Collection) -> dict[str, FieldType | None]:
    """Metadata that was declared, with its type where it has one."""
    untyped = (collection.requested or {}).get("fields", ())
    return {**dict.fromkeys(untyped), **{one.field: one.type for one in collection.filterable}}


def _field(kind: FieldType | None) -> dict[str, Any]:
    filterable = {"filterable": True}
    return {"type": _THEIR_TYPES.get(kind, "string"), **filterable} if kind else filterable


def _capacity() -> dict[str, Any]:
    return {"mode": "OnDemand", "status": {"state": "Ready"}}
