"""Whatever is thrown at the API, it answers below 500, and a refusal leaves nothing behind."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.api import World, problem
from tests.fixtures.routes import BY_NAME
from vecmeter.http.route import parse_json

text = st.text(st.characters(exclude_categories=()), max_size=8)
FIELDS = ["id", "vector", "embedding", "document", "metadata", "namespace", "filter", "top_k", "mode", "expires_at"]
OPERATORS = ["$and", "$or", "$not", "$eq", "$ne", "$gt", "$lte", "$in", "$nin", "$exists", "$contains", "$has"]
names = st.sampled_from([*FIELDS, *OPERATORS, "k", ""])
numbers = (
    st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.sampled_from([0, 1, 3, 10**15, 2**63, -(2**63), 1e308, 5e-324, 1e39])
)
scalars = st.none() | st.booleans() | numbers | text
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | text, inner, max_size=4),
    max_leaves=12,
)
BODIES: dict[str, list[dict[str, Any]]] = {
    "search": [
        {"vector": [1, 2, 3], "top_k": 5, "filter": {"k": 1}, "include": ["vector"], "namespace": ""},
        {"id": "a", "limit": 3, "metadata_filter": {"$and": [{"k": {"$eq": 1}}]}, "exact": True},
        {"text": "words", "include_debug": True},
        {
            "vector": [1, 2, 3],
            "filter": {"$or": [{"k": {"$gt": 1, "$in": [1, "a", None]}}, {"$not": {"k": {"$ne": 1}}}]},
        },
        {"vector": [1, 2, 3], "offset": 1, "group_by": "k", "min_score": 0.5, "ef_search": 50, "include_debug": True},
        {"text": "words", "mode": "text", "filter": {"k": {"$contains": "a"}}},
        {"text": "words", "vector": [1, 2, 3], "mode": "hybrid", "fusion": "rrf", "text_weight": 0.5},
    ],
    "search_batch": [{"searches": [{"vector": [1, 2, 3]}, {"id": "a", "filter": {"k": {"$exists": False}}}]}],
    "measure_recall": [
        {"sample": 2, "top_k": 3, "namespace": "", "filter": {"k": {"$lt": 5}}},
        {"queries": [[1, 2, 3], "AACAPwAAAEAAAEBA"], "ef_search": 10},
    ],
    "upsert_vectors": [
        {"vectors": [{"id": "x", "vector": [1, 2, 3], "metadata": {"k": [1, {"l": None}]}, "document": "d"}]},
        {
            "vectors": [{"id": "x", "embedding": "AACAPwAAAEAAAEBA"}, {"id": "y", "vector": [0.5, 1, 2]}],
            "namespace": "n",
        },
    ],
    "add_vector": [
        {"id": "x", "vector": [1, 2, 3], "namespace": "n", "if_version": 0, "expires_at": "2999-01-01T00:00:00Z"}
    ],
    "put_vector": [{"vector": [1, 2, 3], "metadata": {"k": "v"}}],
    "patch_vector": [
        {"set": {"k": {"deep": [1]}}, "unset": ["k", "l"]},
        {"vector": [1, 2, 3], "document": "d", "expires_at": None, "if_version": 1},
    ],
    "update_vectors": [
        {"filter": {"k": {"$gte": 1}}, "set": {"k": 1}, "unset": ["l"], "namespace": "", "dry_run": True}
    ],
    "fetch_vectors": [{"ids": ["a", "b"], "namespace": ""}],
    "delete_vectors": [{"ids": ["a"]}, {"filter": {"k": 1}, "dry_run": True}, {"all": True}],
    "create_collection": [
        {"name": "n", "dimension": 3, "metric": "l2", "index": {"type": "hnsw", "m": 8, "storage": "half"}},
        {"name": "n", "embedder": {"provider": "built-in", "model": None}},
        {"name": "n", "dimension": 3, "text_search": "english", "filterable": [{"field": "k", "type": "number"}]},
    ],
    "change_collection": [
        {"index": {"m": 8, "ef_construction": 32, "ef_search": 50}, "target_recall": 0.9},
        {"filterable": [{"field": "k", "type": "string"}, {"field": "l", "type": "date"}]},
        {"text_search": "simple"},
    ],
    "create_key": [
        {"user_id": "u", "roles": ["search"], "expires_at": "2099-01-01T00:00:00Z", "quota": {"notes": "n"}}
    ],
    "create_project": [{"project_id": "p", "user_id": "u", "name": "n"}],
    "change_project": [{"name": "n"}],
    "change_key": [{"name": None, "roles": ["search"], "expires_at": "2099-01-01T00:00:00Z"}],
    "rotate_key": [{"grace_seconds": 5}],
    "set_quota": [{"daily_requests": 5, "active": True, "notes": "n", "alert_threshold_pct": 50}],
    "run_maintenance": [{"project_id": "p", "collection": "c"}],
}
bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def mutated(draw: st.DrawFn, operation: str) -> Any:
    """A body the operation takes, with a few parts of it replaced, removed or added."""
    body = copy.deepcopy(draw(st.sampled_from(BODIES[operation])))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(body))
        container, key = draw(st.sampled_from(places)) if places else (body, "k")
        change = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if change == "replace":
            container[key] = draw(anything)
        elif change == "remove":
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
        elif isinstance(container, dict):
            container[draw(names | text)] = draw(anything)
        else:
            container.append(draw(anything))
    return body


def _places(value: Any) -> Any:
    """Every (container, key) in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(entries):
        yield value, key
        yield from _places(part)


@pytest.mark.parametrize("operation", BODIES)
@given(data=st.data())
@bounded
def test_no_body_is_ever_answered_with_a_server_error(shared_world: World, operation: str, data: st.DataObject) -> None:
    body = data.draw(mutated(operation) | anything)
    route = BY_NAME[operation]
    tenant = shared_world.tenant
    before = tenant.contents()
    answer = shared_world.call(route, shared_world.key_for(route), content=json.dumps(body).encode())
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        problem(answer, answer.status_code)
        assert tenant.contents() == before


@given(content=st.binary(max_size=40) | text.map(lambda t: t.encode(errors="surrogatepass")))
@bounded
def test_no_bytes_are_ever_answered_with_a_server_error(shared_world: World, content: bytes) -> None:
    for operation in ("search", "create_key"):
        route = BY_NAME[operation]
        answer = shared_world.call(route, shared_world.key_for(route), content=content)
        assert answer.status_code in (400, 422), answer.text


@given(name=text, value=text, id=text.filter(lambda t: t not in (".", "..")))
@bounded
def test_no_url_is_ever_answered_with_a_server_error(shared_world: World, name: str, value: str, id: str) -> None:
    world = shared_world

    def safe(part: str) -> str:
        return quote(part.encode(errors="surrogatepass"), safe="")

    for path in (
        f"{world.tenant.base}/c/vectors/{safe(id)}",
        f"{world.tenant.base}/c/vectors?namespace={safe(value)}&prefix={safe(id)}",
        f"{world.tenant.base}/{safe(id)}",
        f"/admin/keys/{safe(id)}",
        f"/admin/keys?page_token={safe(value)}",
        f"/admin/usage/records?hours=1&{safe(name)}={safe(value)}",
        f"/usage/me?{safe(name)}={safe(value)}",
    ):
        key = world.admin if path.startswith("/admin") else world.tenant.key
        answer = world.tenant.api.call("GET", path, key)
        assert answer.status_code < 500, (path, answer.text)


@given(value=anything)
@settings(bounded, max_examples=200)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    content = json.dumps(value).encode()
    assert repr(parse_json(content)) == repr(json.loads(content))
