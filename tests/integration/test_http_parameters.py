"""422: parameters, page tokens and paths."""

from __future__ import annotations

import base64

import pytest

from tests.fixtures.api import World, paths
from tests.fixtures.routes import BY_NAME, ROUTES, Route
from vecmeter.http.fields import MAX_HOURS, MAX_PAGE

LONG = "x" * 513


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_an_unknown_parameter_is_refused_on_every_route(shared_world: World, route: Route) -> None:
    answer = shared_world.call(route, shared_world.key_for(route), query="?unknown=1&Limit=2&unknown=3")
    assert set(paths(answer)) == {"unknown", "Limit"}


PARAMETERS = [
    *[("list_vectors", f"namespace={value}", "namespace") for value in ("%00", LONG)],
    ("list_vectors", f"prefix={LONG}", "prefix"),
    *[
        (operation, f"limit={value}", "limit")
        for operation in (
            "list_vectors",
            "list_collections",
            "list_keys",
            "list_projects",
            "list_audit_records",
            "usage_records",
            "maintenance_runs",
        )
        for value in ("0", "-1", str(MAX_PAGE + 1), "1.5", "ten", "", "9" * 5000)
    ],
    *[
        (operation, f"hours={value}", "hours")
        for operation in ("usage_detailed", "usage_records", "own_usage")
        for value in ("0", "-1", str(MAX_HOURS + 1), "1.5", "day", "9" * 5000)
    ],
    *[
        (operation, f"namespace={LONG}", "namespace")
        for operation in ("get_vector", "delete_vector", "put_vector", "patch_vector")
    ],
    ("put_vector", "namespace=%00", "namespace"),
    ("usage_detailed", "operation=everything", "operation"),
    ("usage_detailed", "api_key_id=a%23b", "api_key_id"),
    ("usage_records", "project_id=a%20b", "project_id"),
    ("list_keys", "user_id=", "user_id"),
    ("list_keys", "user_id=a%23b", "user_id"),
    ("list_projects", "user_id=%00", "user_id"),
    ("list_audit_records", "user_id=a%23b", "user_id"),
    *[("list_audit_records", f"target={value}", "target") for value in ("", "key", "key:", ":a", "key:a%23b", "K:a")],
]


@pytest.mark.parametrize(("operation", "query", "path"), PARAMETERS, ids=lambda value: str(value)[:30])
@pytest.mark.usefixtures("unchanged")
def test_a_parameter_out_of_range_is_refused(shared_world: World, operation: str, query: str, path: str) -> None:
    route = BY_NAME[operation]
    assert paths(shared_world.call(route, shared_world.key_for(route), query="?" + query)) == [path]


TOKENS = {
    "no base64": "%3F%3F%3F",
    "empty": "",
    "not ASCII": "%C3%A9",
    "no position": base64.b64encode(b"?").decode(),
    "broken UTF-8": base64.b64encode(b"\xff\xfe").decode(),
    "NUL": base64.b64encode(b"a\x00").decode(),
    "another list's": base64.urlsafe_b64encode(b"0000000000000#" + b"g" * 99).decode(),
    "superscript digits": base64.urlsafe_b64encode("²²".encode()).decode(),
    "too long": base64.urlsafe_b64encode(b"9" * 3000).decode(),
    "beyond time": base64.urlsafe_b64encode(b"9" * 20).decode(),
}


# Any id is a position among ids; digits are a name.
POSITIONS = [("list_vectors", name) for name in ("no position", "another list's", "superscript digits", "beyond time")]
POSITIONS += [("list_collections", "beyond time")]


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize(
    "operation",
    [
        "list_vectors",
        "list_collections",
        "list_keys",
        "list_projects",
        "list_audit_records",
        "usage_records",
        "maintenance_runs",
    ],
)
def test_a_page_token_nobody_gave_is_refused(shared_world: World, operation: str, name: str) -> None:
    route = BY_NAME[operation]
    answer = shared_world.call(route, shared_world.key_for(route), query=f"?page_token={TOKENS[name]}")
    if (operation, name) in POSITIONS:
        assert answer.status_code == 200
    else:
        assert paths(answer) == ["page_token"]


@pytest.mark.parametrize(("operation", "position"), [("list_keys", "zzz#-#key_a"), ("list_projects", "zzz#zzz")])
def test_a_page_token_of_another_users_list_is_refused(shared_world: World, operation: str, position: str) -> None:
    token = base64.urlsafe_b64encode(position.encode()).decode()
    assert paths(shared_world.call(BY_NAME[operation], shared_world.admin, query=f"?page_token={token}")) == [
        "page_token"
    ]
    answer = shared_world.call(BY_NAME[operation], shared_world.system, query=f"?page_token={token}")
    assert answer.status_code == 200


def test_a_namespace_stands_in_the_query_or_the_body_but_not_as_two(world: World) -> None:
    tenant = world.tenant
    before = tenant.contents()
    for method, body in (("PUT", {"vector": [1, 2, 3]}), ("PATCH", {"set": {"k": 1}})):
        answer = tenant.call(method, "/c/vectors/a?namespace=one", json=body | {"namespace": "two"})
        assert paths(answer) == ["namespace"]
        answer = tenant.call(method, "/c/vectors/a?namespace=", json=body | {"namespace": "two"})
        assert paths(answer) == ["namespace"]
    assert tenant.contents() == before
    answer = tenant.call("PUT", "/c/vectors/x?namespace=one", json={"vector": [1, 2, 3], "namespace": "one"})
    assert answer.json()["operation"] == "insert"
    assert tenant.call("GET", "/c/vectors/x?namespace=one").json()["namespace"] == "one"
    # Where it stands in the body alone, the query's is no parameter.
    assert paths(tenant.call("POST", "/c/search?namespace=one", json={"vector": [1, 2, 3]})) == ["namespace"]


def test_an_expiry_in_the_past_and_a_project_of_another_user_are_refused(world: World) -> None:
    user, project = world.tenant.user, world.tenant.project
    expired = {"user_id": user, "roles": ["search"], "expires_at": "2020-01-01T00:00:00Z"}
    answer = world.call(BY_NAME["create_key"], world.admin, json=expired)
    assert paths(answer) == ["expires_at"]
    answer = world.call(
        BY_NAME["create_key"], world.system, json={"user_id": "x", "project_id": project, "roles": ["search"]}
    )
    assert paths(answer) == ["user_id"]
    assert len(list(world.tenant.api.runtime.keys.list(user_id=user))) == 3


def test_a_path_or_query_that_is_not_utf8_is_refused(world: World) -> None:
    """Servers put U+FFFD for what they cannot decode, so that different ids would become one."""
    tenant = world.tenant
    before = tenant.contents()
    for method, body in (("PUT", {"vector": [1, 2, 3]}), ("GET", None), ("DELETE", None), ("PATCH", {"set": {"k": 1}})):
        assert paths(tenant.call(method, "/c/vectors/%FF", json=body)) == ["path"]
        assert paths(tenant.call(method, "/c/vectors/a?namespace=%ED%A0%80", json=body)) == ["query"]
    assert tenant.contents() == before
    # U+FFFD itself is a character like any other.
    assert tenant.call("PUT", "/c/vectors/%EF%BF%BD", json={"vector": [1, 2, 3]}).status_code == 200
