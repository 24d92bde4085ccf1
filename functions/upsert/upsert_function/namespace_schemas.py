"""Parameters and answers of the routes on namespaces."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import Field

from vecmeter.http.fields import Answer, MeteredAnswer, Namespace, examples, took

NamespacePath = Annotated[
    Namespace, Path(description="Namespace, percent-encoded; empty: the default namespace.", examples=["customer-7"])
]


class NamespaceOut(Answer):
    namespace: str
    count: Annotated[int, Field(description="Exact.")]


class NamespacesOut(MeteredAnswer):
    model_config = examples(
        {"namespaces": [{"namespace": "", "count": 2}, {"namespace": "customer-7", "count": 1}], "usage": took()}
    )

    namespaces: list[NamespaceOut]
    next_page_token: str | None = None


class DeletedNamespaceOut(MeteredAnswer):
    model_config = examples({"namespace": "customer-7", "deleted": 1, "usage": took(vectors=1)})

    namespace: str
    deleted: int
