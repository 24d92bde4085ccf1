"""schemathesis throws what the API's own document allows, and what it forbids, at every operation: the answers must be
those the document promises, problems included, and never a server error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.core.parameters import ParameterLocation

from tests.fixtures.api import ROUTES, Api, World, bearer, make_world, serving

# What the document allows may still be refused for what it cannot say: a collection's dimension, an id that is gone,
# one of three fields that must be given. And where two of its paths can be one (a vector's id may be "fetch"), the
# methods of both are allowed: test_http_access.py compares them for every route.
EXCLUDED = [checks.positive_data_acceptance, checks.allow_header_conformance]
# A list of more items than one request may have is too large, not invalid.
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "422"]
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json", config=CONFIG)


@pytest.fixture(scope="module")
def served(shared_api: Api) -> Iterator[tuple[str, World]]:
    """Where the API is served, and a world of it."""
    with serving(shared_api) as port:
        yield f"http://127.0.0.1:{port}", make_world(shared_api)


def check_of(operation: str) -> Callable[..., None]:
    """The test of one operation, by its id in the document."""

    @schema.include(operation_id=operation).parametrize()
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, served: tuple[str, World]) -> None:
        url, world = served
        # A wrong path is for schemathesis; a right one shall lead somewhere.
        parts = case.meta.components if case.meta is not None else {}
        path_is_wrong = ParameterLocation.PATH in parts and parts[ParameterLocation.PATH].mode.is_negative
        places = {"project": world.tenant.project, "collection": "c", "api_key_id": world.other.key.api_key_id}
        for name in places.keys() & (case.path_parameters or {}).keys():
            if not path_is_wrong and case.method != "DELETE":
                case.path_parameters[name] = places[name]
        answer = case.call_and_validate(url, headers=bearer(world.system), excluded_checks=EXCLUDED)
        assert answer.headers["x-request-id"]

    return check


# A function for each: schemathesis calls the tests of all operations of one function by one id.
for found in schema.get_all_operations():
    operation_id = found.ok().definition.raw["operationId"]
    globals()[f"test_every_answer_is_one_the_document_promises_of_{operation_id}"] = check_of(operation_id)


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
        assert path.count("/{") >= route.path.count("/{")
