"""Errors: one class for each the service has, each with what the problem says, and none with the key."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.sdk.conftest import ClientMaker
from vecmeter import errors as service
from vecmeter.http.problems import HTTP_PROBLEMS, status_of
from vecmeter_client import (
    ApiError,
    Client,
    ConfigurationError,
    InternalError,
    LimitExceededError,
    PayloadTooLargeError,
    RouteNotFoundError,
    UnavailableError,
    UnexpectedAnswerError,
    VecmeterError,
    errors,
)

KEY = "vm_live_abcdefghijklmnopqrstuvwxyz"


def _classes(root: type[Any]) -> Iterator[type[Any]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _classes(kind)


SERVICE = list(_classes(service.VecmeterError))


@pytest.mark.parametrize("kind", SERVICE, ids=lambda kind: kind.__name__)
def test_every_error_of_the_service_has_a_class_of_its_name_code_and_place_here(
    kind: type[service.VecmeterError],
) -> None:
    ours = getattr(errors, kind.__name__)
    assert ours.code == kind.code
    [parent] = kind.__bases__
    expected = ApiError if parent is service.VecmeterError else getattr(errors, parent.__name__)
    # What the service calls its own fault has a class above it here.
    assert ours.__bases__ == ((InternalError,) if kind is service.SettingsError else (expected,))


@pytest.mark.parametrize(("status", "code"), HTTP_PROBLEMS, ids=str)
def test_what_the_edge_answers_by_itself_has_a_class_here(status: int, code: str) -> None:
    assert [kind.code for kind in _classes(ApiError)].count(code) == 1


def test_the_tree_in_the_module_is_the_tree_there_is() -> None:
    drawn = [line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line]
    assert sorted(drawn) == sorted(kind.__name__ for kind in _classes(VecmeterError))
    for line in (errors.__doc__ or "").splitlines():
        if "── " in line:
            depth = line.index("── ") // 4
            kind = getattr(errors, line.split("── ")[1].split()[0])
            above = [one for one in kind.__mro__ if isinstance(one, type) and issubclass(one, VecmeterError)]
            assert len(above) - 1 == depth, kind


CODES = [(kind.code, status_of(kind)) for kind in SERVICE] + [(code, status) for status, code in HTTP_PROBLEMS]


@pytest.mark.parametrize(("code", "status"), CODES, ids=[code for code, _ in CODES])
def test_each_error_carries_what_the_problem_says(make_client: ClientMaker, code: str, status: int) -> None:
    problem = {
        "type": f"urn:vecmeter:problem:{code}",
        "title": "A title",
        "status": status,
        "detail": "What is wrong.",
        "code": code,
        "request_id": "0123456789abcdef",
        "errors": [{"path": "vectors.3.id", "message": "must not be empty"}],
        "violated_policies": [
            {"name": "daily_cost_usd", "scope": "user", "limit": 1.5, "used": 1.4, "remaining": 0.1, "resets_at": None}
        ],
        "checks": {"ledger": "gone"},
        "committed": True,
        "of_a_newer_version": 1,
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(200, json={"status": "ok", "version": "9.9.9"})
        headers = {"content-type": "application/problem+json", "retry-after": "7"}
        return httpx.Response(status, content=json.dumps(problem), headers=headers)

    with pytest.raises(ApiError) as failed:
        make_client("http://vecmeter", KEY, script=answer, max_retries=0).quota()
    error = failed.value
    assert (type(error).code, error.code, error.status, error.title) == (code, code, status, "A title")
    assert (error.detail, error.request_id) == ("What is wrong.", "0123456789abcdef")
    assert [(one.path, one.message) for one in error.violations] == [("vectors.3.id", "must not be empty")]
    [policy] = error.violated_policies
    assert (policy.name, policy.scope, policy.limit, policy.used, policy.remaining, policy.resets_at) == (
        "daily_cost_usd", "user", 1.5, 1.4, 0.1, None,
    )  # fmt: skip
    assert (error.retry_after, error.checks, error.committed) == (7, {"ledger": "gone"}, True)
    assert error.problem == problem
    assert code == "route_not_found" or str(error) == f"What is wrong. ({status} {code}, request 0123456789abcdef)"


@pytest.mark.parametrize(("status", "kind"), [(429, LimitExceededError), (503, UnavailableError), (418, ApiError)])
def test_a_code_of_a_newer_service_is_the_error_of_its_status(
    make_client: ClientMaker, status: int, kind: type[ApiError]
) -> None:
    problem = {"code": "of_tomorrow", "detail": "d", "status": status}
    headers = {"content-type": "application/problem+json"}
    response = httpx.Response(status, content=json.dumps(problem), headers=headers)
    with pytest.raises(ApiError) as failed:
        make_client("http://vecmeter", KEY, script=lambda _: response, max_retries=0).quota()
    assert (type(failed.value), failed.value.code) == (kind, "of_tomorrow")


@pytest.mark.parametrize(
    ("status", "kind", "committed"),
    [
        (413, PayloadTooLargeError, False),
        (429, LimitExceededError, False),
        (500, InternalError, None),
        (502, UnavailableError, None),
        (503, UnavailableError, None),
        (504, UnavailableError, None),
        (403, UnexpectedAnswerError, None),
        (404, UnexpectedAnswerError, None),
    ],
)
def test_what_a_gateway_before_the_service_answers_is_told_from_the_services_own_words(
    make_client: ClientMaker, status: int, kind: type[Exception], committed: bool | None
) -> None:
    response = httpx.Response(status, json={"message": "Too much of it"})
    with pytest.raises(kind, match='"Too much of it"') as failed:
        make_client("http://gateway", KEY, script=lambda _: response, max_retries=0).quota()
    assert isinstance(failed.value, errors.RequestError)
    assert failed.value.committed is committed
    assert "http://gateway" in str(failed.value)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ({"status_code": 200, "html": "<html>Welcome</html>"}, "200, text/html; charset=utf-8: <html>Welcome</html>"),
        ({"status_code": 404, "html": "<html>Nothing</html>"}, "404, text/html; charset=utf-8: <html>Nothing</html>"),
        (
            {"status_code": 301, "headers": {"location": "https://vecmeter/"}},
            "301, no Content-Type, to https://vecmeter/",
        ),
        ({"status_code": 204}, "204, no Content-Type"),
    ],
)
def test_an_address_where_no_vecmeter_is_is_an_error_that_says_what_answered(
    make_client: ClientMaker, response: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnexpectedAnswerError) as failed:
        make_client("http://elsewhere", KEY, script=lambda _: httpx.Response(**response)).quota()
    assert str(failed.value) == f"http://elsewhere is no Vecmeter, or not its root: it answered {said}"
    assert (failed.value.status, failed.value.committed) == (response["status_code"], None)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"no JSON", b'{"status": "ok", "version": {}', b'{"api_key_id": 3}'])
def test_an_answer_that_lacks_what_this_version_needs_is_an_error_and_no_crash(
    make_client: ClientMaker, body: bytes
) -> None:
    response = httpx.Response(200, content=body, headers={"content-type": "application/json"})
    with pytest.raises(UnexpectedAnswerError):
        make_client("http://vecmeter", KEY, script=lambda _: response).quota()


@pytest.mark.parametrize("name", ["search_batch", "list_ids", "fetch", "delete_namespace", "namespaces", "recall"])
def test_an_answer_without_what_was_asked_for_is_an_error_and_not_an_empty_result(
    make_client: ClientMaker, name: str
) -> None:
    client = make_client("http://vecmeter", KEY, script=lambda _: httpx.Response(200, json={"usage": {}}))
    method = getattr(client.project("p").collection("c"), name)
    needed: dict[str, list[Any]] = {"search_batch": [[{"id": "a"}]], "fetch": [["a"]], "delete_namespace": ["n"]}
    with pytest.raises(UnexpectedAnswerError):
        list(method(*needed.get(name, [])))


def test_a_service_of_another_version_is_named_with_its_version_and_the_route_it_lacks(
    live: Any, make_client: ClientMaker
) -> None:
    with pytest.raises(RouteNotFoundError) as failed:
        make_client(live.url, KEY, api_prefix="/v2").quota()
    assert str(failed.value) == (
        f"Vecmeter 0.1.0 at {live.url} has no route GET /v2/quota/me: it is of another version than this client "
        "speaks, or api_prefix ('/v2') is not its own"
    )
    assert (failed.value.status, failed.value.code) == (404, "route_not_found")


def test_errors_can_be_copied_and_pickled() -> None:
    error = LimitExceededError("Reached.")
    error.retry_after, error.violations = 3.0, (errors.Violation("a", "b"),)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(other), other.retry_after, other.violations) == ("Reached.", 3.0, error.violations)


def test_the_key_is_in_no_text_of_a_client_an_error_or_its_traceback(
    make_client: ClientMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    faults = [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), httpx.Response(401), httpx.Response(200)]
    texts = []
    for fault in faults:

        def answer(request: httpx.Request, fault: Any = fault) -> httpx.Response:
            assert request.headers["authorization"] == f"Bearer {KEY}"
            if isinstance(fault, Exception):
                raise fault
            return fault  # type: ignore[no-any-return]

        client = make_client("http://vecmeter", KEY, script=answer)
        texts += [repr(client), repr(client.project("p").collection("c")), repr(client.admin.keys)]
        with pytest.raises(VecmeterError) as failed:
            client.quota()
        texts += [str(failed.value), repr(failed.value), "".join(traceback.format_exception(failed.value))]
        texts += [repr(vars(failed.value))]
    for wrong in (f"{KEY}\n", f"{KEY} {KEY}", f"{KEY}é"):
        with pytest.raises(ConfigurationError) as refused:
            make_client("http://vecmeter", wrong)
        texts.append("".join(traceback.format_exception(refused.value)))
    # What debuggers and error trackers show of a client: the parts it is made of.
    texts += [repr(part) for part in vars(Client("http://vecmeter", KEY)._driver).values()]
    assert KEY not in "".join([*texts, caplog.text])
