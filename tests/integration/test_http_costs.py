"""Usage over any window and costs by day and user through HTTP: exact before, while and after usage is rolled up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from admin_function import usage_routes
from tests.fixtures.api import Api, World, make_world, paths, problem
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Role
from vecmeter.ledger.totals import summarize
from vecmeter.tasks import run_task


def get(api: Api, path: str, key: CreatedKey) -> Any:
    answer = api.call("GET", path, key)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def days(api: Api) -> World:
    """A tenant that did a little more on each of four days, an operator who worked there, and another tenant."""
    api.clock.now = api.clock.now.replace(day=12)
    world = make_world(api)
    stranger = api.tenant()
    for day in range(4):
        for _ in range(day + 1):
            assert world.tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
            assert world.tenant.call("GET", "/missing").status_code == 404
        body = {"vectors": [{"id": f"{day}-{n}", "vector": [1, n + 1, 0]} for n in range(10 * (day + 1))]}
        assert world.tenant.call("POST", "/c/vectors", json=body).status_code == 200
        assert world.tenant.call("POST", "/c/search", key=world.system, json={"vector": [1, 0, 0]}).status_code == 200
        stranger.call("GET")
        if day < 3:
            api.clock.advance(days=1)
            run_task(api.runtime, "roll_up_usage", {})
    api.clock.advance(seconds=1)
    return world


def micro_usd(api: Api, *keys: CreatedKey) -> int:
    return sum(record.micro_usd for key in keys for record in api.records(key))


class TestDetailed:
    def test_it_says_the_same_before_and_after_the_roll_up(self, days: World) -> None:
        api, key = days.tenant.api, days.tenant.key
        start, end = "2026-11-12T00:00:00Z", "2026-11-16T00:00:00Z"
        path = f"/admin/usage/detailed?api_key_id={key.key.api_key_id}&start={start}&end={end}"
        path = path.replace("2026-11", f"{api.clock():%Y-%m}")
        before = get(api, path, days.system)
        api.clock.advance(hours=2)
        run_task(api.runtime, "roll_up_usage", {})
        assert not [mark for mark in api.runtime.usage.activity.marks() if mark.api_key_id == key.key.api_key_id]
        after = get(api, path, days.system)
        assert before == after
        records = api.records(key)
        assert after["total_requests"] == len(records)
        assert round(after["cost_usd"] * 1_000_000) == micro_usd(api, key)
        assert after["total_vectors"] == sum(record.vectors for record in records)
        assert after["avg_duration_ms"] == summarize(records).total.avg_duration_ms
        assert [hour["total_requests"] for hour in after["series"]] == [2 + 3, 5, 7, 9]

    def test_more_than_a_week_goes_by_the_day(self, days: World) -> None:
        api = days.tenant.api
        body = get(api, f"/admin/usage/detailed?user_id={days.tenant.user}&hours=400", days.system)
        starts = [datetime.fromisoformat(entry["start"]) for entry in body["series"]]
        assert [(start.day, start.hour) for start in starts] == [(12, 0), (13, 0), (14, 0), (15, 0)]
        week = get(api, f"/admin/usage/detailed?user_id={days.tenant.user}&hours=168", days.system)
        assert week["total_requests"] == body["total_requests"]
        assert {datetime.fromisoformat(entry["start"]).hour for entry in week["series"]} == {12}

    def test_an_admin_of_a_project_sees_what_all_of_its_keys_did_there(self, days: World) -> None:
        """Its user's keys of no project too; what the operator did there is the operator's."""
        api, tenant = days.tenant.api, days.tenant
        project_admin = api.create_key(tenant.user, tenant.project, Role.ADMIN)
        tenant.call("GET", "/c", key=days.admin)
        api.tenant(tenant.user).call("GET")  # in another project of the same user
        api.clock.advance(seconds=1)
        seen = get(api, "/admin/usage/detailed?hours=200", project_admin)
        own = len(api.records(tenant.key))
        assert seen["total_requests"] == own + 1
        assert get(api, f"/admin/usage/detailed?hours=200&project_id={tenant.project}", days.system)[
            "total_requests"
        ] == (own + 1 + 4)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ("start=2026-11-02T00:00:00Z&end=2026-11-01T00:00:00Z", "start"),
            ("start=2024-11-02T00:00:00Z&end=2026-11-01T00:00:00Z", "start"),
            ("start=2026-11-02T00:00:00", "start"),
            ("end=yesterday", "end"),
            ("status=fine", "status"),
            ("operation=fly", "operation"),
        ],
    )
    def test_what_is_wrong_is_named(self, api: Api, query: str, path: str) -> None:
        admin = api.create_key("someone", None, Role.ADMIN)
        assert paths(api.call("GET", f"/admin/usage/records?{query}", admin)) == [path]


class TestRecords:
    def test_records_are_narrowed_by_status_and_collection(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant

        def found(query: str) -> list[Any]:
            path = f"/admin/usage/records?api_key_id={tenant.key.key.api_key_id}&hours=200&limit=1000&{query}"
            return get(api, path, days.admin)["records"]  # type: ignore[no-any-return]

        everything = found("")
        assert len(found("status=failure")) == sum(r["status"] == "failure" for r in everything) == 10
        assert found("status=quota_exceeded") == []
        assert found("collection=c") == [r for r in everything if r.get("collection") == "c"] != everything
        assert found("collection=c&status=success&operation=upsert") == [
            r for r in everything if r["operation"] == "upsert"
        ]

    def test_a_search_for_few_among_many_goes_on_page_by_page(
        self, days: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage_routes, "MOST_EXAMINED", 4)
        api, path = days.tenant.api, f"/admin/usage/records?user_id={days.tenant.user}&hours=200&operation=upsert"
        found, token, pages = [], "", 0
        while True:
            body = get(api, path + token, days.system)
            found += body["records"]
            pages += 1
            if "next_page_token" not in body:
                break
            token = f"&page_token={body['next_page_token']}"
        assert pages > 4
        monkeypatch.undo()
        assert found == get(api, path, days.system)["records"]
        assert len(found) == 5


class TestCosts:
    def test_each_day_costs_what_its_records_say(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant
        body = get(api, f"/admin/costs/daily?days=5&user_id={tenant.user}", days.admin)
        records = api.records(tenant.key)
        assert [day["date"] for day in body["days"]] == [
            f"{api.clock() - timedelta(days=4 - n):%Y-%m-%d}" for n in range(5)
        ]
        for day in body["days"]:
            of_day = [r for r in records if f"{r.started_at:%Y-%m-%d}" == day["date"]]
            assert round(day["cost_usd"] * 1_000_000) == sum(r.micro_usd for r in of_day)
            assert day["requests"] == len(of_day) == sum(o["requests"] for o in day["by_operation"].values())
            for operation, cost in day["by_operation"].items():
                expected = sum(r.micro_usd for r in of_day if r.operation == operation)
                assert round(cost["cost_usd"] * 1_000_000) == expected
        assert round(body["total_usd"] * 1_000_000) == micro_usd(api, tenant.key, days.admin)

    def test_the_month_is_projected_from_what_it_has_cost_so_far(self, days: World) -> None:
        """Though fewer days are asked for."""
        api, tenant = days.tenant.api, days.tenant
        body = get(api, f"/admin/costs/daily?days=1&api_key_id={tenant.key.key.api_key_id}", days.admin)
        assert len(body["days"]) == 1
        start = api.clock().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = (start + timedelta(days=31)).replace(day=1)
        expected = micro_usd(api, tenant.key) * ((end - start) / (api.clock() - start)) / 1_000_000
        assert body["projection_month_usd"] == pytest.approx(expected, abs=1e-6)
        assert body["total_usd"] < expected

    def test_costs_of_a_project_are_all_that_was_done_in_it(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant
        body = get(api, f"/admin/costs/daily?project_id={tenant.project}", days.system)
        in_project = [
            r for key in (tenant.key, days.system) for r in api.records(key) if r.project_id == tenant.project
        ]
        assert round(body["total_usd"] * 1_000_000) == sum(r.micro_usd for r in in_project)

    def test_the_dearest_users_come_first_with_their_share(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant
        users = get(api, "/admin/costs/users/top?days=10&limit=2", days.system)["users"]
        assert users[0]["user_id"] == tenant.user
        assert users[0]["cost_usd"] > users[1]["cost_usd"] > 0
        whole = get(api, "/admin/costs/users/top?days=10", days.system)["users"]
        assert [user["user_id"] for user in whole[:2]] == [user["user_id"] for user in users]
        assert len(whole) == 3
        assert sum(user["share_pct"] for user in whole) == pytest.approx(100, abs=0.05)
        assert round(whole[0]["cost_usd"] * 1_000_000) == micro_usd(api, tenant.key, days.admin)
        assert get(api, "/admin/costs/users/top", days.admin)["users"] == [
            {**whole[0], "share_pct": 100.0}
        ]  # what others cost is not theirs to know

    def test_who_asks_for_what_is_not_its_own_finds_nothing(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant
        stranger = api.create_key("stranger", None, Role.ADMIN)
        for query in (
            f"user_id={tenant.user}",
            f"project_id={tenant.project}",
            f"api_key_id={tenant.key.key.api_key_id}",
        ):
            for route in ("costs/daily", "usage/detailed", "usage/records"):
                problem(api.call("GET", f"/admin/{route}?{query}", stranger), 404)
        assert get(api, "/admin/costs/daily", stranger)["total_usd"] == 0
        assert get(api, "/admin/costs/users/top", stranger)["users"] == []

    def test_own_costs_go_by_the_day(self, days: World) -> None:
        api, tenant = days.tenant.api, days.tenant
        body = get(api, "/costs/me?days=4", tenant.key)
        assert round(body["month_usd"] * 1_000_000) == micro_usd(api, tenant.key)
        assert round(sum(day["cost_usd"] for day in body["days"]) * 1_000_000) == micro_usd(api, tenant.key)
        assert body["days"][-1]["cost_usd"] == body["today_usd"]
        assert [day["by_operation"]["search"]["requests"] for day in body["days"]] == [1, 2, 3, 4]

    @pytest.mark.parametrize("query", ["days=0", "days=367", "days=x"])
    def test_days_have_bounds(self, api: Api, query: str) -> None:
        admin = api.create_key("someone", None, Role.ADMIN)
        for route in ("/admin/costs/daily", "/admin/costs/users/top", "/costs/me"):
            assert paths(api.call("GET", f"{route}?{query}", admin)) == ["days"]
