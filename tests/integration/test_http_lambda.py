"""The same application as a Lambda handler behind an HTTP API: the same answers as over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from tests.fixtures.api import Api, bearer, make_world, open_api, settings_for
from tests.fixtures.pinecone_indexes import SERVERLESS
from vecmeter.http.lambda_adapter import adapt

Invoke = Callable[..., dict[str, Any]]


def event(
    method: str, path: str, key: Any = None, body: Any = None, *, query: str = "", encoded: bool = False
) -> dict[str, Any]:
    """An event in payload format 2.0, as an HTTP API makes it of a request: the path is decoded, but for ``%25``."""
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    text = None if content is None else base64.b64encode(content).decode() if encoded else content.decode()
    headers = {"host": "id.execute-api.us-east-1.amazonaws.com", "x-forwarded-proto": "https"}
    if content is not None:
        headers |= {"content-length": str(len(content)), "content-type": "application/json"}
    if key is not None:
        headers |= {name.lower(): value for name, value in bearer(key).items()}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "t"},
            "stage": "$default",
            "requestId": "gateway-id",
        },
        "isBase64Encoded": encoded,
        **({} if text is None else {"body": text}),
    }


@pytest.fixture
def alone(database_url: str, table_name: str) -> Iterator[tuple[Api, Invoke]]:
    """The API that runs alone, as in Lambda, and its handler."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with open_api(settings_for(database_url, table_name, database_pool_size=1), runs_alone=True) as api:
        handler = adapt(api.app)
        context = SimpleNamespace(aws_request_id="lambda-id", get_remaining_time_in_millis=lambda: 29_000)
        yield api, lambda *args, **more: handler(event(*args, **more), context)
    asyncio.set_event_loop(None)
    loop.close()


def decoded(answer: dict[str, Any]) -> Any:
    assert answer["isBase64Encoded"] is False  # JSON and problems are text
    return json.loads(answer["body"])


def test_answers_are_those_of_the_server(alone: tuple[Api, Invoke]) -> None:
    api, invoke = alone
    world = make_world(api)
    with open_api(api.runtime.settings) as served:
        base = world.tenant.base
        for method, path, body in (
            ("GET", "/quota/me", None),
            ("GET", f"{base}/c", None),
            ("GET", f"{base}/c/vectors/a", None),
            ("GET", f"{base}/c/vectors/missing", None),
            ("GET", f"{base}/missing", None),
            ("POST", f"{base}/c/search", {"vector": [1, 0, 0]}),
            ("POST", f"{base}/c/search", {"vector": [1, 0]}),
            ("POST", f"{base}/c/search", b"{"),
            ("POST", f"{base}/c/search", b""),
            ("POST", f"{base}/c/vectors/fetch", {"ids": ["a", "b"]}),
            ("POST", f"{base}/c/vectors", b" " * 6_291_457),
            ("PUT", "/quota/me", {}),
            ("GET", "/nothing", None),
        ):
            for key in (world.tenant.key, None):
                theirs = served.call(method, path, key, **_sent(body))
                for encoded in (False, True) if body else (False,):
                    ours = invoke(method, f"/v1{path}", key, body, encoded=encoded)
                    assert ours["statusCode"] == theirs.status_code, (method, path)
                    assert _comparable(decoded(ours)) == _comparable(theirs.json())
                    names = {"content-type", "retry-after", "www-authenticate", "allow", "ratelimit-policy"}
                    shown = {name: value for name, value in theirs.headers.items() if name in names}
                    assert {n: v for n, v in ours["headers"].items() if n in names} == shown
                    assert ours["headers"]["x-request-id"] not in (theirs.headers["x-request-id"], "gateway-id")


def _sent(body: Any) -> dict[str, Any]:
    return {"content": body} if isinstance(body, bytes) else {"json": body}


def _comparable(body: dict[str, Any]) -> dict[str, Any]:
    body.pop("request_id", None)
    for quota in body.get("quotas", {}).values():
        del quota["used"], quota["remaining"], quota["percentage"]
    return body


@pytest.mark.parametrize(
    ("sent", "id"),
    [
        # What a client sends, percent-encoded; an HTTP API decodes every escape but %25.
        ("a%2Fb", "a/b"),
        ("a%20b", "a b"),
        ("%C3%A9%F0%9F%98%80", "é😀"),
        ("a%252Fb", "a%2Fb"),
        ("%25", "%"),
        ("a+b", "a+b"),
        ("x%0Ay", "x\ny"),
    ],
)
def test_an_id_arrives_as_the_client_meant_it(alone: tuple[Api, Invoke], sent: str, id: str) -> None:
    api, invoke = alone
    world = make_world(api)
    assert quote(id, safe="+").replace("/", "%2F") == sent
    path = f"/v1{world.tenant.base}/c/vectors/{id.replace('%', '%25')}"
    assert decoded(invoke("PUT", path, world.tenant.key, {"vector": [1, 2, 3]}))["vector_id"] == id
    assert decoded(invoke("GET", path, world.tenant.key))["id"] == id
    assert sorted(row[1] for row in world.tenant.contents()["c"]) == sorted(["a", "b", id])


def test_parameters_arrive_decoded_once(alone: tuple[Api, Invoke]) -> None:
    api, invoke = alone
    world = make_world(api)
    namespace = "a&b=c%41 é+"
    world.tenant.write("/c", {"id": "x", "vector": [1, 2, 3]}, namespace=namespace)
    path = f"/v1{world.tenant.base}/c/vectors"
    answer = invoke("GET", path, world.tenant.key, query=f"namespace={quote(namespace, safe='')}&limit=1")
    assert decoded(answer)["vectors"] == [{"id": "x"}]


def test_unicode_goes_through_both_ways(alone: tuple[Api, Invoke]) -> None:
    api, invoke = alone
    world = make_world(api)
    path = f"/v1{world.tenant.base}/c/vectors/x"
    body = {"vector": [1, 2, 3], "document": "é😀\u2028", "metadata": {"ü": "\x7f"}}
    for encoded in (False, True):
        content = json.dumps(body, ensure_ascii=False).encode()
        assert invoke("PUT", path, world.tenant.key, content, encoded=encoded)["statusCode"] == 200
        found = decoded(invoke("GET", path, world.tenant.key))
        assert (found["document"], found["metadata"]) == (body["document"], body["metadata"])


def test_pinecones_wire_is_the_same_behind_an_http_api(alone: tuple[Api, Invoke]) -> None:
    api, invoke = alone
    key = api.tenant().key
    made = decoded(invoke("POST", "/indexes", key, {"name": "docs", "dimension": 2, "spec": SERVERLESS}))
    assert made["host"] == "id.execute-api.us-east-1.amazonaws.com/indexes/docs"
    namespace = "a/b %2F+\n"
    records = {"vectors": [{"id": "x", "values": [1, 2]}], "namespace": namespace}
    for encoded in (False, True):
        answer = invoke("POST", "/indexes/docs/vectors/upsert", key, records, encoded=encoded)
        assert decoded(answer)["upsertedCount"] == 1
    wanted = f"ids=x&namespace={quote(namespace, safe='')}"
    assert list(decoded(invoke("GET", "/indexes/docs/vectors/fetch", key, query=wanted))["vectors"]) == ["x"]
    path = f"/indexes/docs/namespaces/{namespace.replace('%', '%25')}"
    assert decoded(invoke("GET", path, key))["name"] == namespace
    assert invoke("DELETE", path, key)["statusCode"] == 200
    missing = invoke("GET", path, key)
    assert (missing["statusCode"], decoded(missing)["error"]["code"]) == (404, "NOT_FOUND")
    dropped = invoke("DELETE", "/indexes/docs", key)
    assert (dropped["statusCode"], dropped["body"], dropped["isBase64Encoded"]) == (202, "", False)


def test_health_answers_as_a_function_too(alone: tuple[Api, Invoke]) -> None:
    _, invoke = alone
    assert decoded(invoke("GET", "/health"))["status"] == "ok"
    assert decoded(invoke("GET", "/health/ready"))["checks"]["ledger"] == "ok"


COLD_START = """
import importlib, json, sys
from types import SimpleNamespace
handler = importlib.import_module(f"{sys.argv[1]}_function.handler").handler
events = json.load(sys.stdin)
context = SimpleNamespace(aws_request_id="a", function_name="f", get_remaining_time_in_millis=lambda: 29_000)
answers = [handler(event, context) for event in events]
print("ANSWERS " + json.dumps(answers))
"""


@pytest.mark.parametrize(
    ("function", "path", "elsewhere"),
    [
        ("search", "/projects/{project}/collections/c/search", "/quota/me"),
        ("upsert", "/projects/{project}/collections/c/vectors/a", "/quota/me"),
        ("admin", "/quota/me", "/projects/{project}/collections/c"),
    ],
)
def test_each_function_starts_from_its_environment_and_answers_its_own_routes(
    api: Api, function: str, path: str, elsewhere: str
) -> None:
    world = make_world(api)
    settings = api.runtime.settings
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "PATH"}
    environment |= {
        "DATABASE_URL": settings.database_url,
        "TABLE_NAME": settings.table_name,
        "AWS_LAMBDA_FUNCTION_NAME": f"vecmeter-{function}",
    }
    post = {"search": ("POST", {"vector": [1, 0, 0]})}.get(function, ("GET", None))
    paths = [f"/v1{p}".format(project=world.tenant.project) for p in (path, elsewhere)]
    events = [event(post[0], paths[0], world.tenant.key, post[1]), event("GET", paths[1], world.tenant.key)]
    events += [event("GET", "/health"), event(post[0], paths[0], None, post[1])]
    done = subprocess.run(
        [sys.executable, "-c", COLD_START, function],
        input=json.dumps(events),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    [shown] = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    answers = json.loads(shown.removeprefix("ANSWERS "))
    assert [answer["statusCode"] for answer in answers] == [200, 404, 200, 401]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    metrics = [line for line in lines if "_aws" in line]
    assert [line["status"] for line in metrics] == [200, 404, 200, 401]
    assert {line["service"] for line in lines} == {f"vecmeter-{function}"}
    assert world.tenant.key.secret not in done.stdout + done.stderr
    route = next(line["route"] for line in lines if "route" in line)
    assert route == "/v1" + path.replace("/c/", "/{collection}/").replace("/vectors/a", "/vectors/{id}")


def test_a_function_that_lacks_settings_names_them_all_and_does_not_start() -> None:
    environment = {"PATH": os.environ["PATH"], "MAX_TOP_K": "many", "LOG_LEVEL": "loud"}
    done = subprocess.run(
        [sys.executable, "-c", "import search_function.handler"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "SettingsError" in done.stderr
    for name in ("TABLE_NAME", "DATABASE_URL", "MAX_TOP_K", "LOG_LEVEL"):
        assert name in done.stderr
