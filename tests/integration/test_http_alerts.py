"""Alerts through HTTP: whose limits one may see, newest first, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, paths, problem
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import SYSTEM_USER, LimitState, Role

PATH = "/admin/usage/alerts"


@dataclass(frozen=True)
class Users:
    """Two tenants with an alert of everything: key, project, user; and one of the system."""

    api: Api
    one: Tenant
    two: Tenant
    admin: CreatedKey
    confined: CreatedKey
    system: CreatedKey

    def seen(self, caller: CreatedKey, query: str = "") -> list[tuple[str, str]]:
        answer = self.api.call("GET", f"{PATH}?{query}", caller)
        assert answer.status_code == 200, answer.text
        return [(alert["scope"], alert["scope_id"]) for alert in answer.json()["alerts"]]


def observe(api: Api, key: CreatedKey, scope: str, scope_id: str, **changes: Any) -> None:
    """As a request leaves this limit at 90 percent."""
    midnight = (api.clock() + timedelta(days=1)).replace(hour=0)
    values = {"name": "daily_requests", "limit": 100, "used": 90, "resets_at": midnight, "window_seconds": 86400}
    state = LimitState(scope=scope, scope_id=scope_id, **{**values, **changes})  # type: ignore[arg-type]
    api.runtime.alerts.observe(key.key, [state], threshold_pct=80)
    api.clock.advance(seconds=1)


@pytest.fixture
def users(api: Api) -> Users:
    one, two = api.tenant(), api.tenant()
    for tenant in (one, two):
        observe(api, tenant.key, "key", tenant.key.key.api_key_id)
        observe(api, tenant.key, "project", tenant.project)
        observe(api, tenant.key, "user", tenant.user)
    observe(api, one.key, "system", SYSTEM_USER)
    return Users(
        api,
        one,
        two,
        admin=api.create_key(one.user, None, Role.ADMIN),
        confined=api.create_key(one.user, one.project, Role.ADMIN),
        system=api.system_admin(),
    )


def test_each_admin_sees_its_own_and_a_system_admin_all_newest_first(users: Users) -> None:
    one, two = users.one, users.two
    key, project, user = ("key", one.key.key.api_key_id), ("project", one.project), ("user", one.user)
    others = [("user", two.user), ("project", two.project), ("key", two.key.key.api_key_id)]
    assert users.seen(users.admin) == [user, project, key]
    assert users.seen(users.confined) == [project, key]
    assert users.seen(users.system) == [("system", SYSTEM_USER), *others, user, project, key]


def test_they_are_narrowed_by_key_project_user_and_time(users: Users) -> None:
    one, api = users.one, users.api
    key, project, user = ("key", one.key.key.api_key_id), ("project", one.project), ("user", one.user)
    for caller in (users.admin, users.system):
        assert users.seen(caller, f"api_key_id={key[1]}") == [key]
        assert users.seen(caller, f"project_id={one.project}") == [project, key]
        assert users.seen(caller, f"user_id={one.user}") == [user, project, key]
        assert users.seen(caller, f"user_id={one.user}&api_key_id={key[1]}") == [key]
    api.clock.advance(hours=2)
    observe(api, one.key, "key", one.key.key.api_key_id, name="daily_tokens")
    assert users.seen(users.admin, "hours=1") == [key]
    assert users.seen(users.admin, "hours=3") == [key, user, project, key]


def test_what_is_anothers_does_not_exist(users: Users) -> None:
    two, api = users.two, users.api
    for caller in (users.admin, users.confined):
        for name, value in (
            ("api_key_id", two.key.key.api_key_id),
            ("project_id", two.project),
            ("user_id", two.user),
        ):
            problem(api.call("GET", f"{PATH}?{name}={value}", caller), 404)
    problem(api.call("GET", PATH, users.one.key), 403)
    problem(api.call("GET", PATH), 401)


def test_an_alert_says_what_was_crossed(users: Users) -> None:
    api = users.api
    answer = api.call("GET", f"{PATH}?api_key_id={users.one.key.key.api_key_id}", users.admin)
    [alert] = answer.json()["alerts"]
    today = api.clock().replace(hour=0, minute=0, second=0)
    assert alert.pop("alert_id").startswith("alert_")
    assert alert == {
        "scope": "key",
        "scope_id": users.one.key.key.api_key_id,
        "limit_name": "daily_requests",
        "limit": 100,
        "used": 90,
        "percentage": 90.0,
        "threshold_pct": 80,
        "window_start": today.isoformat().replace("+00:00", "Z"),
        "resets_at": (today + timedelta(days=1)).isoformat().replace("+00:00", "Z"),
        "created_at": (today + timedelta(hours=12)).isoformat().replace("+00:00", "Z"),
        "repeat": 0,
    }


def test_a_budget_is_in_us_dollars(users: Users) -> None:
    observe(users.api, users.one.key, "user", users.one.user, name="daily_cost_usd", limit=5_000_000, used=4_250_001)
    [newest, *_] = users.api.call("GET", PATH, users.admin).json()["alerts"]
    assert (newest["limit"], newest["used"], newest["percentage"]) == (5.0, 4.250001, 85.0)


def test_pages_go_on_where_the_last_one_ended(users: Users) -> None:
    for caller in (users.admin, users.confined, users.system):
        whole = users.api.call("GET", PATH, caller).json()["alerts"]
        for limit in (1, 2, 100):
            found, token = [], ""
            while True:
                body = users.api.call("GET", f"{PATH}?limit={limit}{token}", caller).json()
                assert len(body["alerts"]) <= limit
                found += body["alerts"]
                if "next_page_token" not in body:
                    break
                token = f"&page_token={body['next_page_token']}"
            assert found == whole


@pytest.mark.parametrize("query", ["hours=0", "limit=0", "page_token=abc", "user_id=a%20b", "api_key_id=x", "other=1"])
def test_a_wrong_parameter_is_named(users: Users, query: str) -> None:
    answer = users.api.call("GET", f"{PATH}?{query}", users.admin)
    assert paths(answer) == [query.partition("=")[0]]


def test_the_task_finds_crossings_and_its_figures_say_so(api: Api) -> None:
    tenant = api.tenant()
    key = api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 2})
    for _ in range(2):
        tenant.call("GET", key=key)
    body = api.call("POST", "/admin/maintenance/sweep_alerts", api.system_admin()).json()
    assert (body["status"], body["published"]) == ("ok", 0)
    assert body["keys"] >= 1
    listed = api.call("GET", f"{PATH}?api_key_id={key.key.api_key_id}", api.system_admin()).json()["alerts"]
    assert sorted((alert["limit_name"], alert["threshold_pct"]) for alert in listed) == [
        ("daily_requests", 80),
        ("daily_requests", 100),
    ]
