"""Price lists through HTTP: who may see and switch them, and that a bill follows one list from start to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, open_api, paths, problem, settings_for
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Operation, Role
from vecmeter.ledger.prices import REMEMBER

PATH = "/admin/prices"
LIST = {"search": 7_000_000, "request": 3_000_000, "vector_written": 4_000_000, "token": 10}


def switch(api: Api, **changes: Any) -> Any:
    answer = api.call("PUT", PATH, api.system_admin(), json=LIST | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def tenant(api: Api) -> Tenant:
    tenant = api.tenant()
    tenant.collection("c")
    tenant.write("/c", {"id": "a", "vector": [1, 0, 0]})
    return tenant


def search(tenant: Tenant) -> float:
    """What a search cost, in micro-USD."""
    tenant.api.clock.advance(milliseconds=1)
    answer = tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]})
    assert answer.status_code == 200, answer.text
    return round(answer.json()["usage"]["cost_usd"] * 1_000_000)


def newest(tenant: Tenant) -> tuple[int, str]:
    record = tenant.api.records(tenant.key)[0]
    return record.micro_usd, record.price_version


def test_the_list_of_the_settings_holds_until_one_is_stored(api: Api) -> None:
    body = api.call("GET", PATH, api.create_key("user-1", None, Role.ADMIN)).json()
    assert body == {
        "current": {
            "version": "default-1",
            "search": 5_000_000,
            "request": 1_000_000,
            "vector_written": 2_000_000,
            "token": 20_000,
            "storage_gb_hour": 0,
        },
        "acts_within_seconds": 30,
        "history": [],
    }


def test_a_switch_is_shown_with_its_history(api: Api) -> None:
    first = switch(api, version="spring", note="first")
    api.clock.advance(hours=1)
    second = switch(api, version="summer", search=8_000_000, storage_gb_hour=12)
    body = api.call("GET", PATH, api.system_admin()).json()
    assert body["current"] == second
    assert body["history"] == [second, first]
    assert first.pop("switched_by").startswith("key_")
    assert first.pop("switched_at")
    assert first == {"version": "spring", "note": "first", "storage_gb_hour": 0, **LIST}


def test_an_admin_sees_the_lists_without_who_switched_and_may_not_switch(api: Api) -> None:
    switch(api, version="spring")
    for key in (api.create_key("user-1", None, Role.ADMIN), api.create_key("system", "project-1", Role.ADMIN)):
        body = api.call("GET", PATH, key).json()
        assert "switched_by" not in body["current"] | body["history"][0]
        problem(api.call("PUT", PATH, key, json=LIST), 403)
    problem(api.call("GET", PATH, api.create_key("user-1", None, Role.SEARCH)), 403)
    problem(api.call("GET", PATH), 401)


def test_a_version_with_other_prices_is_a_conflict_and_changes_nothing(api: Api) -> None:
    system = api.system_admin()
    first = switch(api, version="spring")
    for changes in ({"version": "spring", "search": 1}, {"version": "default-1"}):
        answer = api.call("PUT", PATH, system, json=LIST | changes)
        assert changes["version"] in problem(answer, 409, "price_version_exists")["detail"]
    body = api.call("GET", PATH, system).json()
    assert (body["current"], body["history"]) == (first, [first])
    assert switch(api, version="spring") == first


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"search": -1}, "search"),
        ({"token": 10**12 + 1}, "token"),
        ({"request": 1.5}, "request"),
        ({"vector_written": "1"}, "vector_written"),
        ({"storage_gb_hour": True}, "storage_gb_hour"),
        ({"version": ""}, "version"),
        ({"version": "a b"}, "version"),
        ({"note": "x" * 201}, "note"),
        ({"discount": 1}, "discount"),
    ],
    ids=str,
)
def test_a_wrong_price_is_named(api: Api, change: dict[str, Any], path: str) -> None:
    assert paths(api.call("PUT", PATH, api.system_admin(), json=LIST | change)) == [path]


def test_a_list_must_be_whole(api: Api) -> None:
    assert paths(api.call("PUT", PATH, api.system_admin(), json={"search": 1})) == [
        "request",
        "vector_written",
        "token",
    ]


def test_the_history_is_paged(api: Api) -> None:
    versions = [switch(api, version=f"v{number}", search=number)["version"] for number in range(5)]
    system = api.system_admin()
    found, token = [], ""
    while True:
        body = api.call("GET", f"{PATH}?limit=2{token}", system).json()
        assert len(body["history"]) <= 2
        found += [one["version"] for one in body["history"]]
        if "next_page_token" not in body:
            break
        token = f"&page_token={body['next_page_token']}"
    assert found == versions[::-1]


class TestBills:
    def test_requests_are_billed_by_the_new_list_within_half_a_minute_and_say_so(
        self, api: Api, tenant: Tenant
    ) -> None:
        assert search(tenant) == 5
        switch(api, version="spring")
        api.clock.advance(seconds=REMEMBER.total_seconds())
        assert search(tenant) == 7
        assert newest(tenant) == (7, "spring")
        assert api.used(tenant.key)["micro_usd"] == sum(record.micro_usd for record in api.records(tenant.key))

    def test_a_request_is_settled_by_the_list_it_was_reserved_by(self, api: Api, tenant: Tenant) -> None:
        """Though the list is switched and noticed in between, on the same instance."""

        def switch_and_notice() -> None:
            switch(api, version="spring")
            api.runtime.prices.current()

        before = api.used(tenant.key)["micro_usd"]
        _during_the_work(api, switch_and_notice)
        assert search(tenant) == 5
        assert newest(tenant) == (5, "default-1")
        assert api.used(tenant.key)["micro_usd"] == before + 5
        api.clock.advance(seconds=1)
        assert search(tenant) == 7

    def test_a_dead_request_keeps_the_list_it_was_reserved_by(self, api: Api, tenant: Tenant) -> None:
        switch(api, version="spring")
        api.clock.advance(seconds=REMEMBER.total_seconds())
        key = tenant.key
        _leave_in_flight(api, key, tenant.project)
        api.clock.advance(seconds=1)
        switch(api, version="summer", search=9_000_000)
        api.clock.advance(minutes=5)
        assert api.runtime.ledger.bury(key.key.api_key_id) == 1
        [dead] = [record for record in api.records(key) if record.status.value == "unknown"]
        assert (dead.micro_usd, dead.price_version) == (7, "spring")

    def test_what_is_charged_is_rounded_up_once_per_request(self, api: Api, tenant: Tenant) -> None:
        switch(api, version="tiny", search=1, request=1, vector_written=1, token=1)
        api.clock.advance(seconds=REMEMBER.total_seconds())
        assert search(tenant) == 1

    def test_own_costs_name_the_list_that_holds(self, api: Api, tenant: Tenant) -> None:
        switch(api, version="spring")
        assert api.call("GET", "/costs/me", tenant.key).json()["price_version"] == "spring"


def test_with_tracking_off_nothing_is_billed_by_any_list(database_url: str, table_name: str) -> None:
    with open_api(settings_for(database_url, table_name, usage_tracking_enabled=False)) as api:
        tenant = api.tenant()
        tenant.collection("c")
        switch(api, version="spring")
        assert api.records(tenant.key) == []


def _during_the_work(api: Api, action: Any) -> None:
    """Run ``action`` once, in the middle of the next search."""
    searcher: Any = api.runtime.searcher
    search = type(searcher).search_all

    def once(self: Any, *arguments: Any, **named: Any) -> Any:
        type(searcher).search_all = search
        action()
        return search(self, *arguments, **named)

    type(searcher).search_all = once


def _leave_in_flight(api: Api, key: CreatedKey, project: str) -> None:
    """A search that is admitted and whose function dies."""
    from vecmeter.ledger.demands import Demand
    from vecmeter.ledger.keys import parse_secret
    from vecmeter.ledger.model import Cost

    prices = api.runtime.ledger.current_prices()
    demand = Demand(
        request_id="dead",
        credential=parse_secret(key.secret),
        role=Role.SEARCH,
        operation=Operation.SEARCH,
        endpoint="",
        project_id=project,
        request_bytes=0,
        cost=Cost(micro_usd=prices.micro_usd(Operation.SEARCH)),
    )
    api.runtime.ledger.admit(replace(demand, prices=prices))
