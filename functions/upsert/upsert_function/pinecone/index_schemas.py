"""Bodies of the routes on indexes, in the two shapes that Pinecone's API has had."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vecmeter.http.checks import invalid
from vecmeter.http.fields import Body, Text

B = TypeVar("B", bound=BaseModel)

MAX_NAME = 45
MAX_FIELDS = 50
# The field of an index's dense vectors, where it is one of vectors and not of documents.
VALUES = "_values"
_OF_DOCUMENTS = ("dense_vector", "sparse_vector", "semantic_text")
_SEARCHED = {
    "full_text_search": "collections of the native API have text_search",
    "embed": "collections of the native API have an embedder",
    "sparse_embed": "there are no sparse vectors",
    "store_text": "vectors of the native API have a document",
}
_DENSE_ONLY = "there are only dense vectors: no sparse ones, no documents, no semantic text"


def _name(name: str) -> str:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"has {len(name)} characters; 1 to {MAX_NAME} are allowed")
    if re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) is None:
        raise ValueError(
            f"is {name!r}; it must contain only lowercase alphanumeric characters or hyphens, and must not begin or "
            "end with a hyphen"
        )
    return name


def _on_demand(mode: str) -> str:
    if mode != "OnDemand":
        raise ValueError(f"is {mode!r:.40}; there is only OnDemand")
    return mode


def _absent(reason: str) -> BeforeValidator:
    """For a field that is known, and refused where it says anything."""

    def check(value: Any) -> None:
        if value is not None:
            raise ValueError(reason)

    return BeforeValidator(check)


IndexName = Annotated[str, AfterValidator(_name)]
MetricName = Literal["cosine", "euclidean", "dotproduct"]
Tags = dict[str, str]
Protection = Literal["enabled", "disabled"]
Region = Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")]
Environment = Annotated[Text, Field(min_length=1, max_length=128)]
Pods = Annotated[None, _absent("is not supported: there are no pods, only serverless and byoc")]
Source = Annotated[None, _absent("is not supported: an index cannot be made from a collection or a backup")]
Dedicated = Annotated[None, _absent("is not supported: no read capacity is dedicated to an index")]
Encryption = Annotated[None, _absent("is not supported: every index is encrypted by the database's key")]
Embedding = Annotated[None, _absent("is not supported: texts are not embedded on this wire")]
FixedSchema = Annotated[None, _absent("cannot be changed: make another index")]
FixedDeployment = Annotated[None, _absent("cannot be changed: there are no pods to scale")]


class Part(Body):
    model_config = ConfigDict(populate_by_name=False)


class CapacityBody(Part):
    mode: Annotated[str, AfterValidator(_on_demand)]
    dedicated: Dedicated = None


class FieldBody(Part):
    """Metadata that is filtered by. One with a type gets an index of its own."""

    filterable: Literal[True]
    type: Literal["string", "float", "integer", "number", "boolean", "string_list"] | None = None


class MetadataBody(Part):
    fields: Annotated[dict[Text, FieldBody], Field(max_length=MAX_FIELDS)]


class ServerlessBody(Part):
    cloud: Literal["aws", "gcp", "azure"]
    region: Region
    read_capacity: CapacityBody | None = None
    metadata: Annotated[MetadataBody | None, Field(alias="schema")] = None
    source_collection: Source = None

    def deployment(self) -> dict[str, str]:
        return {"deployment_type": "managed", "cloud": self.cloud, "region": self.region}


class ByocBody(Part):
    environment: Environment
    read_capacity: CapacityBody | None = None
    metadata: Annotated[MetadataBody | None, Field(alias="schema")] = None

    def deployment(self) -> dict[str, str]:
        return {"deployment_type": "byoc", "environment": self.environment}


class SpecBody(Part):
    serverless: ServerlessBody | None = None
    byoc: ByocBody | None = None
    pod: Pods = None

    def one(self) -> tuple[str, ServerlessBody | ByocBody]:
        """The only one there is, with its name. Raises InvalidRequestError."""
        given: list[tuple[str, ServerlessBody | ByocBody | None]] = [
            ("serverless", self.serverless),
            ("byoc", self.byoc),
        ]
        found = [(name, one) for name, one in given if one is not None]
        if len(found) != 1:
            raise invalid("spec", f"has {len(found)} of serverless and byoc; it must have one")
        return found[0]


class SpecIndexBody(Part):
    """An index as it is asked for up to 2026-04."""

    name: IndexName
    dimension: Annotated[int | None, Field(ge=1)] = None
    metric: MetricName = "cosine"
    vector_type: Literal["dense", "sparse"] = "dense"
    spec: SpecBody
    deletion_protection: Protection = "disabled"
    tags: Tags | None = None
    source_collection: Source = None


class DenseBody(Part):
    type: Literal["dense_vector"]
    dimension: Annotated[int, Field(ge=1)]
    metric: MetricName


class SchemaBody(Part):
    fields: Annotated[dict[Text, Any], Field(max_length=MAX_FIELDS + 1)]

    def parts(self) -> tuple[DenseBody, dict[str, FieldBody]]:
        """The vectors, and the metadata to filter by. Raises InvalidRequestError, RequestValidationError."""
        metadata: dict[str, FieldBody] = {}
        for name, field in self.fields.items():
            if name == VALUES:
                continue
            _refuse_what_is_no_metadata(name, field)
            metadata[name] = parsed(FieldBody, field, "schema", "fields", name)
        if VALUES not in self.fields:
            raise invalid("schema.fields", f"has no {VALUES}, the vectors of an index; {_DENSE_ONLY}")
        return parsed(DenseBody, self.fields[VALUES], "schema", "fields", VALUES), metadata


def _refuse_what_is_no_metadata(name: str, field: Any) -> None:
    path, kind = f"schema.fields.{name:.100}", field.get("type") if isinstance(field, dict) else None
    if name.startswith("_") or kind in _OF_DOCUMENTS:
        what = f"is a {kind}, which" if kind in _OF_DOCUMENTS else "has a reserved name, which"
        raise invalid(path, f"{what} is not supported beside {VALUES}; {_DENSE_ONLY}")
    for asked, instead in _SEARCHED.items():
        if isinstance(field, dict) and field.get(asked) is not None:
            raise invalid(f"{path}.{asked}", f"is not supported; {instead}")


class ManagedBody(Part):
    deployment_type: Literal["managed"]
    cloud: Literal["aws", "gcp", "azure"]
    region: Region


class OwnCloudBody(Part):
    deployment_type: Literal["byoc"]
    environment: Environment


class SchemaIndexBody(Part):
    """An index as it is asked for since 2026-07."""

    of_fields: Annotated[SchemaBody, Field(alias="schema")]
    name: IndexName | None = None
    deployment: Annotated[ManagedBody | OwnCloudBody | None, Field(discriminator="deployment_type")] = None
    read_capacity: CapacityBody | None = None
    deletion_protection: Protection = "disabled"
    tags: Tags | None = None
    cmek_id: Encryption = None
    source_collection: Source = None
    source_backup_id: Source = None


class CapacityChangeBody(Part):
    read_capacity: CapacityBody | None = None


class SpecChangeBody(Part):
    serverless: CapacityChangeBody | None = None
    byoc: CapacityChangeBody | None = None
    pod: Pods = None


class ConfigureBody(Part):
    """What is to be changed of an index, in either shape; tags are merged, and an empty value takes one away."""

    deletion_protection: Protection | None = None
    tags: Tags | None = None
    read_capacity: CapacityBody | None = None
    spec: SpecChangeBody | None = None
    deployment: FixedDeployment = None
    of_fields: Annotated[FixedSchema, Field(alias="schema")] = None
    embed: Embedding = None


def parsed(model: type[B], value: Any, *path: str) -> B:
    """A part of a request's body that is at a path of it. Raises RequestValidationError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *path, *one["loc"])} for one in error.errors()]) from None
