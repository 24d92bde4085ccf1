"""schemathesis throws what the API's own document allows, and what it forbids, at every operation: the answers must be
those the document promises, problems included, and never a server error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.core.parameters import ParameterLocation

from tests.fixtures.api import Api, World, bearer, make_world, serving
from tests.fixtures.routes import ROUTES

# What the document allows may still be refused for what it cannot say: a collection's dimension, an id that is gone,
# one of three fields that must be given. And where two of its paths can be one (a vector's id may be "fetch"), the
# methods of both are allowed: test_http_access.py compares them for every route.
EXCLUDED = [checks.positive_data_acceptance, checks.allow_header_conformance]
# A list of more items than one request may have is too large, not invalid.
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "422"]
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json", config=CONFIG)


@dataclass(frozen=True)
class Served:
    """A served API, a world of it, and a session whose connection is kept."""

    url: str
    world: World
    session: requests.Session


@pytest.fixture(scope="module")
def served(shared_api: Api) -> Iterator[Served]:
    with serving(shared_api) as port, requests.Session() as session:
        yield Served(f"http://127.0.0.1:{port}", make_world(shared_api), session)


def check_of(operation: str) -> Callable[..., None]:
    """The test of one operation, by its id in the document."""
    enforces_keys = False

    @schema.include(operation_id=operation).parametrize()
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, served: Served) -> None:
        nonlocal enforces_keys
        world = served.world
        # A wrong path is for schemathesis; a right one shall lead somewhere.
        parts = case.meta.components if case.meta is not None else {}
        path_is_wrong = ParameterLocation.PATH in parts and parts[ParameterLocation.PATH].mode.is_negative
        places = {"project": world.tenant.project, "collection": "c", "api_key_id": world.other.key.api_key_id}
        for name in places.keys() & (case.path_parameters or {}).keys():
            if not path_is_wrong and case.method != "DELETE":
                case.path_parameters[name] = places[name]
        excluded = [*EXCLUDED]
        # Where a body may be left out, null is as good as none.
        if case.body is None and not case.operation.definition.raw["requestBody"].get("required"):
            excluded.append(checks.negative_data_rejection)
        # That a key is wanted is of the operation, not of the case: once it was seen, two requests less for each.
        if enforces_keys:
            excluded.append(checks.ignored_auth)
        answer = case.call_and_validate(
            served.url, session=served.session, headers=bearer(world.system), excluded_checks=excluded
        )
        assert answer.headers["x-request-id"]
        enforces_keys = enforces_keys or (answer.status_code < 300 and not path_is_wrong)

    return check


# A function for each: schemathesis calls the tests of all operations of one function by one id. What reads comes first,
# while there is little: reports on all that the other operations made take their time.
operations = [found.ok() for found in schema.get_all_operations()]
for found in sorted(operations, key=lambda one: one.method != "get"):
    operation_id = found.definition.raw["operationId"]
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
