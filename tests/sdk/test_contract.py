"""The client against the document of the service: no operation, parameter or field of it is missing here."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import vecmeter_client
from vecmeter_client import (
    Client,
    Collection,
    Keys,
    Limits,
    Maintenance,
    Policy,
    Project,
    Projects,
    SearchRequest,
    Vector,
)
from vecmeter_client._flow import Repeat, Route
from vecmeter_client._operations import accounts, definitions, reports, searches, service, vectors

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
MODULES = (accounts, definitions, reports, searches, service, vectors)
ROUTES = [value for module in MODULES for value in vars(module).values() if isinstance(value, Route)]
# What monitoring asks, not a program: the service's state as Prometheus has it.
NOT_COVERED = {("GET", "/prometheus")}

ANSWERS = {
    "ActorOut": "Actor",
    "AlertOut": "Alert",
    "AuditRecordOut": "AuditRecord",
    "CollectionOut": "CollectionInfo",
    "CollectionItem": "CollectionInfo",
    "CostOut": "Cost",
    "CostsOut": "OwnCosts",
    "CreatedKeyOut": "CreatedKey",
    "DailyCostsOut": "DailyCosts",
    "DayCostsOut": "DayCosts",
    "Debug": "Debug",
    "DeletedOut": "Deleted",
    "EmbedderOut": "EmbedderInfo",
    "EndpointOut": "Endpoint",
    "FilterableOut": "FilterableField",
    "Found": "SearchResult",
    "Health": "Health",
    "IndexOut": "IndexInfo",
    "IndexStateOut": "BuiltIndex",
    "KeyOut": "KeyInfo",
    "MatchOut": "Match",
    "NamespaceOut": "NamespaceInfo",
    "NamespacePlanOut": "NamespacePlan",
    "PatchOut": "Patched",
    "PeriodOut": "Period",
    "PriceListOut": "PriceList",
    "ProjectOut": "ProjectInfo",
    "PutOut": "Put",
    "QuotaOut": "Quota",
    "Readiness": "Readiness",
    "RecallAnswer": "Recall",
    "RecordOut": "UsageRecord",
    "RunOut": "TaskRun",
    "SearchAnswer": "SearchResult",
    "TaskOut": "TaskOutcome",
    "TotalsOut": "Totals",
    "UpdatedOut": "Updated",
    "Usage": "Usage",
    "UsageOut": "UsageReport",
    "UserCostsOut": "UserCosts",
    "VectorItem": "StoredVector",
    "WrittenOut": "Written",
}
# Named otherwise, or of no use: a write that answers has the status "ok".
TOLD_OTHERWISE = {"PutOut": {"status"}, "PatchOut": {"status"}}

BODIES: dict[str, Callable[..., Any]] = {
    "CollectionBody": Project.create_collection,
    "ChangeBody": Collection.change,
    "DeleteBody": Collection.delete,
    "FetchBody": Collection.fetch,
    "KeyBody": Keys.create,
    "KeyPatchBody": Keys.update,
    "PatchBody": Collection.patch,
    "PricesBody": vecmeter_client.Admin.set_prices,
    "ProjectBody": Projects.create,
    "ProjectPatchBody": Projects.update,
    "RecallBody": Collection.recall,
    "RotateBody": Keys.rotate,
    "SearchBody": Collection.search,
    "SearchBatchBody": Collection.search_batch,
    "TaskBody": Maintenance.start,
    "UpdateBody": Collection.update,
}
TYPED = {"LimitsBody": Limits, "PolicyBody": Policy, "SearchBody": SearchRequest, "VectorBody": Vector}


def test_every_operation_of_the_service_has_one_here() -> None:
    served = {(method.upper(), _shape(path)) for path, methods in DOCUMENT["paths"].items() for method in methods}
    # Policies of collections have operations of their own there, and are one of the scopes here.
    served = {(method, path.replace("/quotas/collection/", "/quotas/{}/")) for method, path in served - NOT_COVERED}
    assert {(route.method, _shape("/v1" * route.versioned + route.path)) for route in ROUTES} == served


def test_an_idempotency_key_goes_with_the_operations_that_take_one_and_no_others() -> None:
    keyed = {
        (method.upper(), _shape(path))
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if any(one.get("name") == "Idempotency-Key" for one in operation.get("parameters", ()))
    }
    assert {(route.method, _shape("/v1" + route.path)) for route in ROUTES if route.repeat is Repeat.BY_KEY} == keyed


def _shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


@pytest.mark.parametrize("schema", ANSWERS)
def test_every_field_of_an_answer_is_in_its_result(schema: str) -> None:
    kind = getattr(vecmeter_client, ANSWERS[schema])
    fields = {field.name for field in dataclasses.fields(kind)}
    assert set(SCHEMAS[schema]["properties"]) - TOLD_OTHERWISE.get(schema, set()) <= fields


@pytest.mark.parametrize("schema", ANSWERS)
def test_what_the_service_may_leave_out_may_be_left_out_here(schema: str) -> None:
    """An answer with nothing but what its schema requires is read, and what it holds is in the result."""
    kind = getattr(vecmeter_client, ANSWERS[schema])
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    assert needed <= set(SCHEMAS[schema].get("required", ())), schema


@pytest.mark.parametrize("schema", BODIES)
def test_every_field_of_a_body_is_a_parameter_of_its_operation(schema: str) -> None:
    assert set(SCHEMAS[schema]["properties"]) <= set(inspect.signature(BODIES[schema]).parameters)


@pytest.mark.parametrize("schema", TYPED)
def test_every_field_of_what_is_given_as_a_mapping_or_record_is_known(schema: str) -> None:
    assert set(SCHEMAS[schema]["properties"]) == set(get_type_hints(TYPED[schema]))


@pytest.mark.parametrize(
    "name", ["Client", "Project", "Collection", "Admin", "Projects", "Keys", "Quotas", "Maintenance"]
)
def test_both_clients_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    blocking, awaiting = getattr(vecmeter_client, name), getattr(vecmeter_client, f"Async{name}")
    methods = [method for method in vars(blocking) if not method.startswith("_")]
    assert methods == [method for method in vars(awaiting) if not method.startswith("_")]
    for method in methods:
        one, other = getattr(blocking, method), getattr(awaiting, method)
        if not isinstance(one, property):
            assert one.__doc__ == other.__doc__
            assert one.__doc__
            assert inspect.signature(one).parameters == inspect.signature(other).parameters
    assert Client.__init__.__kwdefaults__ == vecmeter_client.AsyncClient.__init__.__kwdefaults__
