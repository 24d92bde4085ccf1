"""Parameters and answers of the routes on namespaces."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import Field

from vecmeter.http.fields import Answer, MeteredAnswer, Namespace

NamespacePath = Annotated[Namespace, Path(description="Namespace, percent-encoded; empty: the default namespace.")]


class NamespaceOut(Answer):
    namespace: str
    count: Annotated[int, Field(description="Exact.")]


class NamespacesOut(MeteredAnswer):
    namespaces: list[NamespaceOut]
    next_page_token: str | None = None


class DeletedNamespaceOut(MeteredAnswer):
    namespace: str
    deleted: int
