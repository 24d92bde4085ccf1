"""The API's own document is one that a client can be made from: valid, complete, and its examples are true."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from jsonschema import Draft202012Validator

from tests.fixtures.api import Api
from vecmeter.errors import VecmeterError
from vecmeter.http.problems import HTTP_PROBLEMS, MEDIA_TYPE, status_of
from vecmeter.ledger.keys import CreatedKey

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
# The tasks that take these options.
TASKS = {"force": "vacuum_analyze", "month": "export_usage"}
each_operation = pytest.mark.parametrize("operation", [found[2] for found in OPERATIONS.values()], ids=OPERATIONS)
# In this order each finds what it needs: what is created first is deleted last.
_ORDER = """
    health ready
    create_project list_projects get_project change_project create_key list_keys get_key change_key rotate_key
    create_collection list_collections change_collection get_collection
    add_vector upsert_vectors patch_vector put_vector update_vectors get_vector fetch_vectors list_vectors
    search search_batch measure_recall list_namespaces
    put_policy get_policy set_quota get_quota put_collection_policy get_collection_policy
    own_usage own_quota own_costs usage_detailed usage_records usage_alerts export_usage daily_costs top_users_by_cost
    set_prices get_prices list_audit_records
    run_maintenance maintenance_stats maintenance_runs metrics prometheus
    delete_vector delete_vectors delete_namespace delete_collection_policy delete_policy delete_collection
    revoke_key delete_project
"""
ORDER = _ORDER.split()


def _strict(schema: Any) -> Any:
    """The schema with every field unknown that it does not name."""
    if isinstance(schema, list):
        return list(map(_strict, schema))
    if not isinstance(schema, dict):
        return schema
    closed = {name: _strict(part) for name, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    components = {"schemas": _strict(DOCUMENT["components"]["schemas"])}
    return Draft202012Validator({**schema, "components": components})


def _found(reference: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, or the thing itself."""
    found: Any = reference
    if "$ref" in reference:
        found = DOCUMENT
        for name in reference["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)


def _examples(content: dict[str, Any]) -> list[Any]:
    """The examples of a body: of its own, or of its schema. A body that may be left out has none as null."""
    if "example" in content:
        return [content["example"]]
    schema = content["schema"]
    variants = [variant for variant in schema.get("anyOf", [schema]) if variant != {"type": "null"}]
    return [example for variant in variants for example in _found(variant).get("examples", ())]


def _bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The request and every answer of an operation: what it is, and its content."""
    if "requestBody" in operation:
        yield "request", operation["requestBody"]["content"]["application/json"]
    for status, answer in operation["responses"].items():
        for media_type, content in _found(answer)["content"].items():
            yield f"{status} {media_type}", content


def test_the_document_is_valid_openapi() -> None:
    schemathesis.openapi.from_path(FILE).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_a_document_that_is_no_openapi_is_told_from_one() -> None:
    # What the test above relies on.
    broken = copy.deepcopy(DOCUMENT)
    del broken["paths"]["/health"]["get"]["responses"]["200"]["description"]
    with pytest.raises(Exception, match="description"):
        schemathesis.openapi.from_dict(broken).validate()


@each_operation
def test_an_operation_says_what_it_is_and_who_may_call_it(operation: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"])
    assert operation["summary"]
    assert operation["description"].endswith((".", "it."))
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    schemes = [name for choice in operation.get("security", ()) for name in choice]
    assert schemes == ([] if operation["tags"] == ["health"] else ["bearer", "apiKey"])


def test_operation_ids_and_tags_are_there_once_and_all_are_used() -> None:
    assert len(OPERATIONS) == sum(len(methods) for methods in DOCUMENT["paths"].values())
    tags = [tag["name"] for tag in DOCUMENT["tags"]]
    assert sorted(tags) == sorted({tag for _, _, operation in OPERATIONS.values() for tag in operation["tags"]})
    assert all(tag["description"] for tag in DOCUMENT["tags"])


@each_operation
def test_the_request_and_every_answer_have_examples_that_are_what_their_schemas_say(operation: dict[str, Any]) -> None:
    for what, content in _bodies(operation):
        found = _examples(content)
        assert found, what
        for example in found:
            _validator(content["schema"]).validate(example)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            assert parameter["schema"]["examples"], parameter["name"]


@each_operation
def test_every_refusal_is_a_problem_and_carries_its_headers(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    is_health = operation["tags"] == ["health"]
    assert is_health or {"401", "422", "500", "503"} <= answers.keys()
    assert ("400" in answers) == ("requestBody" in operation)
    for status, reference in answers.items():
        answer = _found(reference)
        headers = {name: _found(header) for name, header in answer["headers"].items()}
        assert headers["X-Request-Id"]["required"]
        if status >= "400":
            assert answer["content"].keys() == {MEDIA_TYPE}
            assert answer["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert ("Retry-After" in headers) == (status in ("429", "503"))
        assert ("WWW-Authenticate" in headers) == (status == "401")


def test_a_field_of_an_answer_that_may_be_null_may_be_left_out() -> None:
    # Answers leave out what is null; only what violated a limit is named whole.
    nullable = {
        f"{name}.{field}"
        for name, schema in DOCUMENT["components"]["schemas"].items()
        for field in schema.get("required", ())
        if {"type": "null"} in schema["properties"][field].get("anyOf", ())
    }
    assert nullable == {"ProblemPolicy.resets_at"}


def test_every_code_is_named_with_its_status_and_the_example_of_each_status_has_one_of_them() -> None:
    named: dict[int, set[str]] = {}
    for answer in DOCUMENT["components"]["responses"].values():
        example = answer["content"][MEDIA_TYPE]["example"]
        named[example["status"]] = set(re.findall(r"`([a-z_]+)`", answer["description"].split("`code`: ")[1]))
        assert example["code"] in named[example["status"]]
    assert named == _codes()


def _codes() -> dict[int, set[str]]:
    codes: dict[int, set[str]] = {}
    kinds: list[type[VecmeterError]] = [VecmeterError]
    for kind in kinds:
        kinds += (below for below in kind.__subclasses__() if below.__module__ == "vecmeter.errors")
        codes.setdefault(status_of(kind), set()).add(kind.code)
    for status, code in HTTP_PROBLEMS:
        codes.setdefault(status, set()).add(code)
    # Of a method that no operation has, and of what only clients of another service ask for.
    return {status: found for status, found in codes.items() if status not in (405, 501)}


def test_the_order_has_every_operation() -> None:
    assert sorted(ORDER) == sorted(OPERATIONS)


@each_operation
def test_a_change_names_no_defaults_or_clients_would_send_them(operation: dict[str, Any]) -> None:
    is_change = operation["operationId"].startswith(("change_", "patch_", "set_quota", "put_policy"))
    method, _, _ = OPERATIONS[operation["operationId"]]
    assert is_change or method != "PATCH"
    if is_change:
        assert _defaults(operation["requestBody"]["content"]["application/json"]["schema"]) == {}


@pytest.mark.parametrize("sends_defaults", [False, True], ids=["as they stand", "with every default sent"])
def test_every_request_of_the_examples_is_accepted_and_answered_as_the_document_says(
    api: Api, sends_defaults: bool
) -> None:
    key = api.system_admin()
    api_key_id = ""
    for operation_id in ORDER:
        if operation_id == "delete_namespace":
            in_namespace = [{"id": "a", "document": "x", "namespace": "customer-7"}]
            _succeed(api, key, "upsert_vectors", {"vectors": in_namespace})
        if operation_id == "delete_collection":  # which one of the changes protects
            _succeed(api, key, "change_collection", {"deletion_protection": False})
        for body in _requests(operation_id):
            sent = _with_defaults(operation_id, body) if sends_defaults else body
            answer = _succeed(api, key, operation_id, sent, api_key_id=api_key_id)
            if operation_id == "create_key":
                api_key_id = answer.json()["api_key_id"]
        if operation_id == "create_collection":
            _succeed(api, key, operation_id, {"name": "points", "dimension": 3})
        if operation_id == "delete_collection":
            for collection in ("points", "images", "papers"):
                _succeed(api, key, operation_id, None, collection=collection)


def _defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The fields that a client fills in where its user names none: of a body, and of those in it."""
    variants = [_found(variant) for variant in schema.get("anyOf", [schema])]
    fields = {name: field for variant in variants for name, field in variant.get("properties", {}).items()}
    own = {name: field["default"] for name, field in fields.items() if "default" in field}
    return own | {name: inner for name, field in fields.items() if (inner := _defaults(field))}


def _with_defaults(operation_id: str, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    schema = OPERATIONS[operation_id][2]["requestBody"]["content"]["application/json"]["schema"]
    filled = _defaults(schema) | body
    for name, field in _found(schema).get("properties", {}).items():
        if name in body and isinstance(body[name], list):
            items = _defaults(field.get("items", {}))
            filled[name] = [items | one if isinstance(one, dict) else one for one in body[name]]
    return filled


def _requests(operation_id: str) -> list[Any]:
    _, _, operation = OPERATIONS[operation_id]
    if "requestBody" not in operation:
        return [None]
    return _examples(operation["requestBody"]["content"]["application/json"])


def _succeed(api: Api, key: CreatedKey, operation_id: str, body: Any, **places: str) -> httpx.Response:
    """Call an operation with the values the document shows for its path, but for ``places``: it answers as promised."""
    method, path, operation = OPERATIONS[operation_id]
    values = {p["name"]: p["schema"]["examples"][0] for p in operation.get("parameters", ()) if p["in"] == "path"}
    if "[0." in json.dumps(body):  # the numbers of the examples are three
        places = {"collection": "points", **places}
    if values.get("id", "").startswith("key_"):
        places["id"] = places["api_key_id"]
    for option in TASKS.keys() & (body or {}):
        places["task"] = TASKS[option]
    answer = api.call(method, path.format(**values | places).removeprefix("/v1"), key, json=body)
    assert answer.is_success, f"{operation_id} {body}: {answer.text}"
    content = operation["responses"][str(answer.status_code)]["content"]
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in content
    if media_type == "application/json":
        # With no field that the document does not name.
        _validator(content[media_type]["schema"]).validate(answer.json())
    return answer
