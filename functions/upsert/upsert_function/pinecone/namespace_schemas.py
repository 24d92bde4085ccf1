"""Parameters and answers of the routes on namespaces, which are in snake_case with theirs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from upsert_function.pinecone.record_schemas import NextPage
from vecmeter.http.fields import Answer, MeteredAnswer
from vecmeter.http.pinecone.names import RecordId

NamespacePath = Annotated[RecordId, Path(description="Namespace, percent-encoded; __default__: the default one.")]


class NamespaceItem(Answer):
    name: str
    record_count: int


class NamespaceOut(NamespaceItem, MeteredAnswer):
    pass


class NamespacesOut(MeteredAnswer):
    """``total_count``: of all pages, as counted for the first."""

    namespaces: list[NamespaceItem]
    pagination: NextPage | None = None
    total_count: int
