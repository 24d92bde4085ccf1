"""Bulk imports: there are none, and their clients are told so."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from upsert_function.pinecone.record_schemas import CamelParameters
from vecmeter.errors import NotFoundError
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import CollectionPath
from vecmeter.http.pinecone.fields import PineconeAnswer
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import Operation, Role

router = UnversionedRouter(prefix="/indexes/{index}", include_in_schema=False)


class ImportParameters(CamelParameters):
    limit: Annotated[int, Field(ge=1, le=100)] = 100
    pagination_token: str | None = None


class ImportsOut(PineconeAnswer):
    data: list[Any] = []


@router.get("/bulk/imports", response_model=ImportsOut)
def list_imports(index: CollectionPath, query: Annotated[ImportParameters, Query()], call: CallDependency) -> Response:
    """List the imports: none."""
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:
        call.use(hold.admission.own_project, index, lambda _: None)
        return call.respond(hold, ImportsOut(), collection=index)


@router.get("/bulk/imports/{id:vector_id}")
def describe_import(index: CollectionPath, id: str, call: CallDependency) -> Response:
    """404: there is none."""
    return _missing(index, id, call, Role.SEARCH)


@router.delete("/bulk/imports/{id:vector_id}")
def cancel_import(index: CollectionPath, id: str, call: CallDependency) -> Response:
    """404: there is none."""
    return _missing(index, id, call, Role.WRITE)


def _missing(index: str, id: str, call: Call, role: Role) -> Response:
    with call.admit(Operation.FETCH, role, in_own_project=True) as hold:
        call.use(hold.admission.own_project, index, lambda _: None)
        raise NotFoundError(f"There is no import {id!r:.100}.")
