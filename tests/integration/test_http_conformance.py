"""schemathesis throws what the API's own document allows, and what it forbids, at every operation: the answers must be
those the document promises, problems included, and never a server error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from tests.fixtures.api import ROUTES, Api, World, bearer, make_world, serving

# What the document allows may still be refused for what it cannot say: a collection's dimension, an id that is gone,
# one of three fields that must be given. And where two of its paths can be one (a vector's id may be "fetch"), the
# methods of both are allowed: test_http_access.py compares them for every route. A case wrong in nothing but its path
# or its key is mended below, and then rightly accepted: what is wrong in bodies is for test_http_invalid*.py.
EXCLUDED = [checks.positive_data_acceptance, checks.negative_data_rejection, checks.allow_header_conformance]
schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")


@pytest.fixture(scope="module")
def served(shared_api: Api) -> Iterator[tuple[str, World]]:
    """Where the API is served, and a world of it."""
    with serving(shared_api) as port:
        yield f"http://127.0.0.1:{port}", make_world(shared_api)


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_the_document_promises(case: Any, served: tuple[str, World]) -> None:
    url, world = served
    places = {"project": world.tenant.project, "collection": "c", "api_key_id": world.other.key.api_key_id}
    for name, value in places.items():
        if name in (case.path_parameters or {}) and case.method != "DELETE":
            case.path_parameters[name] = value
    answer = case.call_and_validate(url, headers=bearer(world.system), excluded_checks=EXCLUDED)
    assert answer.headers["x-request-id"]


def test_the_document_has_every_route_and_each_once(shared_api: Api) -> None:
    document = shared_api.app.openapi()
    operations = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
    assert set(operations) == {route.operation for route in ROUTES} | {"health", "ready"}
    for route in ROUTES:
        method, path = operations[route.operation]
        assert method == route.method
        assert path.count("{") >= route.path.count("{")
