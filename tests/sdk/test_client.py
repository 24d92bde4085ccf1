"""Making a client: where the service is, whose key it is, whose connections."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.sdk.conftest import ClientMaker
from vecmeter_client import AsyncClient, Client, ConfigurationError, UnexpectedAnswerError, __version__

KEY = "vm_live_abcdefghijklmnop"
MADE = [Client, AsyncClient]
QUOTA = {"api_key_id": "key_1", "user_id": "u", "active": True, "quotas": {}, "daily_requests": 5}


def _answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=QUOTA)


def test_url_and_key_come_from_the_environment_where_they_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECMETER_URL", "https://one/prod/")
    monkeypatch.setenv("VECMETER_API_KEY", KEY)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return _answer(request)

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        Client(http_client=http).quota()
        Client("https://two", "vm_live_other", api_prefix="/v7", http_client=http).quota()
    assert [str(request.url) for request in seen] == ["https://one/prod/v1/quota/me", "https://two/v7/quota/me"]
    assert [request.headers["authorization"] for request in seen] == [f"Bearer {KEY}", "Bearer vm_live_other"]
    assert {request.headers["user-agent"] for request in seen} == {f"vecmeter-client/{__version__}"}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": None}, "url: is not given, and VECMETER_URL is not set"),
        ({"api_key": None}, "api_key: is not given, and VECMETER_API_KEY is not set"),
        ({"api_key": ""}, "api_key: is not given, and VECMETER_API_KEY is not set"),
        ({"url": "vecmeter:8000"}, "url: 'vecmeter:8000' does not begin with http:// or https:// and a host"),
        ({"url": "https://"}, "url: 'https:' does not begin with http:// or https:// and a host"),
        ({"url": "https://host:port"}, "url: is malformed: Invalid port: 'port'"),
        (
            {"url": " https://host\n"},
            "url: is malformed: Invalid non-printable ASCII character in URL, '\\n' at position 13.",
        ),
        ({"url": " https://host"}, "url: ' https://host' does not begin with http:// or https:// and a host"),
        ({"url": "https://me:secret@host"}, "url: holds a user name or password; the key goes into api_key"),
        ({"url": "https://host?x=1"}, "url: 'https://host?x=1' holds a query or fragment; give the service's root"),
        ({"api_key": "a\n"}, "api_key: has a space, a line break or a character that is not ASCII"),
        ({"api_prefix": "v1/"}, "api_prefix: 'v1/' is neither empty nor a path like /v1"),
        ({"timeout": 0}, "timeout: is 0; give seconds above 0"),
        ({"total_timeout": -1}, "total_timeout: is -1; give seconds above 0"),
        ({"max_retries": -1}, "max_retries: is -1; 0 or more are allowed"),
    ],
)
def test_what_is_missing_or_malformed_is_named(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], given: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("VECMETER_URL", raising=False)
    monkeypatch.delenv("VECMETER_API_KEY", raising=False)
    with pytest.raises(ConfigurationError) as failed:
        kind(**{"url": "https://host", "api_key": KEY} | given)
    assert str(failed.value) == said


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(
    ("variable", "value"), [("ALL_PROXY", "socks4://host"), ("HTTP_PROXY", "host:port"), ("SSL_CERT_FILE", "/nothing")]
)
def test_a_proxy_or_certificate_of_the_environment_that_cannot_be_used_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match="the proxies or certificates that the environment names cannot be"):
        kind("https://host", KEY)


@pytest.mark.parametrize(("kind", "other"), [(Client, httpx.AsyncClient()), (AsyncClient, httpx.Client())])
def test_connections_of_the_other_kind_are_refused(kind: type[Any], other: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^http_client: is {type(other).__name__}; give a httpx"):
        kind("https://host", KEY, http_client=other)


def test_connections_that_were_given_stay_open_and_own_ones_are_closed(make_client: ClientMaker) -> None:
    with httpx.Client(transport=httpx.MockTransport(_answer)) as http:
        with Client("https://host", KEY, http_client=http) as client:
            client.quota()
        assert not http.is_closed
        assert client.quota().limits == {"daily_requests": 5}
    with Client("https://host", KEY) as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.quota()


def test_settings_of_connections_that_were_given_hold_and_the_key_follows_no_redirect(
    make_client: ClientMaker,
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(302, headers={"location": "https://elsewhere/"})

    transport = httpx.MockTransport(answer)
    http = httpx.Client(transport=transport, headers={"X-Team": "search"}, follow_redirects=True)
    with http, pytest.raises(UnexpectedAnswerError, match="302"):
        Client("https://host", KEY, http_client=http).quota()
    assert [(request.url.host, request.headers["x-team"]) for request in seen] == [("host", "search")]


def test_fields_of_a_newer_service_do_not_break_an_older_client(make_client: ClientMaker) -> None:
    found = {
        "matches": [{"id": "a", "score": 1.0, "namespace": "", "colour": "red"}],
        "count": 1,
        "namespace": "",
        "usage": {"requests": 1, "joules": 2},
        "next": {},
    }
    client = make_client("https://host", KEY, script=lambda _: httpx.Response(200, json=found))
    result = client.project("p").collection("c").search([1.0])
    assert (result[0].id, result.usage.requests) == ("a", 1)


def test_making_projects_and_collections_asks_for_nothing_and_a_list_only_for_the_pages_it_comes_to(
    make_client: ClientMaker,
) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.query.decode())
        number = len(seen)
        return httpx.Response(200, json={"vectors": [{"id": f"{number}"}], "next_page_token": f"page {number}"})

    client = make_client("https://host", KEY, script=answer)
    ids = client.project("p").collection("c").list_ids(page_size=1)
    assert seen == []
    assert [next(ids), next(ids)] == ["1", "2"]
    assert seen == ["namespace=&prefix=&limit=1", "namespace=&prefix=&limit=1&page_token=page+1"]
