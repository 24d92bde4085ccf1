"""The whole service in numbers: ``GET /v1/admin/metrics`` and ``GET /prometheus``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.fixtures.api import Api, Tenant, World, open_api, problem, settings_for
from vecmeter.ledger.activity import HOUR, SETTLED_AFTER
from vecmeter.ledger.keys import CreatedKey
from vecmeter.tasks import run_task

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
Samples = dict[tuple[str, ...], float]


def scrape(api: Api, admin: CreatedKey, query: str = "", accept: str = "") -> str:
    answer = api.call("GET", f"/prometheus{query}", admin, headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200, answer.text
    return answer.text


def samples(text: str) -> Samples:
    """Each sample by its name and the values of its labels, in the order of the labels' names."""
    return {(s.name, *s.labels.values()): s.value for family in parse_text(text) for s in family.samples}


def counters_of(text: str) -> Samples:
    families = [family for family in parse_text(text) if family.type in ("counter", "histogram")]
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def settle(api: Api) -> None:
    """Let time pass until everything can be rolled up, and roll it up."""
    api.clock.advance(seconds=(HOUR + SETTLED_AFTER).total_seconds())
    assert run_task(api.runtime, "roll_up_usage", {})["status"] == "ok"


def used(tenant: Tenant) -> None:
    tenant.collection("c")
    tenant.write("/c", {"id": "a", "vector": [1, 0, 0]}, {"id": "b", "vector": [0, 1, 0]})
    for _ in range(3):
        assert tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
    assert tenant.call("POST", "/missing/search", json={"vector": [1, 0, 0]}).status_code == 404


class TestCounters:
    def test_they_say_what_was_used_now_and_after_every_roll_up(self, api: Api) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        api.call("GET", "/admin/metrics", admin)
        before = samples(scrape(api, admin))
        assert before["vecmeter_requests_total", "search"] == 4
        assert before["vecmeter_requests_succeeded_total", "search"] == 3
        assert before["vecmeter_vectors_total", "search"] == 6
        assert before["vecmeter_vectors_total", "upsert"] == 2
        assert before["vecmeter_requests_total", "admin"] == 1
        assert before["vecmeter_project_requests_total", tenant.project] == 6
        assert before["vecmeter_key_requests_total", tenant.key.key.api_key_id] == 6
        assert before["vecmeter_cost_usd_total", "search"] == pytest.approx(3 * 5e-6)
        assert before["vecmeter_request_duration_seconds_count", "search"] == 4
        settle(api)
        after = samples(scrape(api, admin))
        for name in before:
            if name[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert after[name] == before[name], name

    def test_a_refusal_is_counted_as_that(self, api: Api) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        limited = api.create_key(tenant.user, tenant.project, *tenant.key.key.roles, policy={"daily_requests": 1})
        for status in (200, 429):
            assert tenant.call("GET", key=limited).status_code == status
        found = samples(scrape(api, admin))
        assert found["vecmeter_key_requests_total", limited.key.api_key_id] == 1
        assert found["vecmeter_key_requests_refused_total", limited.key.api_key_id] == 1

    def test_they_never_fall_over_months_and_purges_nor_when_a_process_starts_anew(
        self, api: Api, database_url: str, table_name: str
    ) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        before = counters_of(scrape(api, admin))
        settle(api)
        for days in (20, 80, 900):
            api.clock.advance(days=days)
            assert run_task(api.runtime, "purge_usage_records", {})["status"] == "ok"
            assert tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
            settle(api)
            now = counters_of(scrape(api, admin))
            assert {name: value for name, value in before.items() if now[name] < value} == {}
            before = now
        assert before["vecmeter_requests_total", "search"] == 4 + 3
        with open_api(settings_for(database_url, table_name)) as another:
            another.clock.now = api.clock.now
            assert counters_of(scrape(another, admin)) == before

    def test_what_is_in_flight_is_shown_until_it_settles(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        seen: list[float] = []
        respond = api.runtime.collections.use

        def looks(*arguments: Any, **named: Any) -> Any:
            seen.append(samples(scrape(api, admin))["vecmeter_requests_in_flight",])
            return respond(*arguments, **named)

        monkeypatch.setattr(type(api.runtime.collections), "use", lambda _, *a, **n: looks(*a, **n))
        assert tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
        assert seen == [1]
        assert samples(scrape(api, admin))["vecmeter_requests_in_flight",] == 0


class TestState:
    def test_the_database_is_shown_with_its_collections_and_tasks(self, api: Api) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        run_task(api.runtime, "get_index_stats", {})
        found = samples(scrape(api, admin))
        assert found["vecmeter_database_up",] == 1
        assert found["vecmeter_vectors_stored",] == 2
        assert (found["vecmeter_collections",], found["vecmeter_projects",]) == (1, 1)
        assert found["vecmeter_collection_vectors", "c", tenant.project] == 2
        assert found["vecmeter_collection_bytes", "c", tenant.project] == found["vecmeter_stored_bytes",] > 0
        assert found["vecmeter_task_failed", "get_index_stats"] == 0
        assert found["vecmeter_task_ended_timestamp_seconds", "get_index_stats"] == api.clock().timestamp()
        assert found["vecmeter_database_connections",] >= 1
        assert found["vecmeter_database_bytes",] > 1e6

    def test_the_recall_that_was_measured_is_shown_with_its_target(self, api: Api) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        tenant.collection("c", target_recall=0.9)
        insert = (
            "INSERT INTO vecmeter.hnsw_indexes (collection_id, storage, m, ef_construction, state, probed_recall) "
            "SELECT collection_id, 'half', 16, 64, %s, %s FROM vecmeter.collections"
        )
        with api.runtime.database.connection() as connection:
            for state, recall in (("ready", 0.97), ("ready", 0.91), ("retired", 0.5)):
                connection.execute(insert, [state, recall])
        found = samples(scrape(api, admin))
        assert found["vecmeter_collection_recall", "c", tenant.project] == 0.91
        assert found["vecmeter_collection_recall_target", "c", tenant.project] == 0.9

    def test_without_the_database_the_ledgers_part_is_answered_still(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        api.runtime.database.close()
        away = {"database_url": "postgresql://127.0.0.1:1/none", "database_connect_timeout_seconds": 1}
        nowhere = dataclasses.replace(api.runtime.settings, **away)
        with open_api(nowhere) as without:
            text = scrape(without, admin)
            found = samples(text)
            assert found["vecmeter_database_up",] == 0
            assert found["vecmeter_requests_total", "search"] == 4
            assert "vecmeter_vectors_stored" not in text
            answer = without.call("GET", "/admin/metrics", admin)
            assert (answer.status_code, answer.json()["collections"]) == (200, [])
            assert "database" not in answer.json()


class TestExposition:
    def test_both_formats_are_what_their_parsers_take_and_say_the_same(self, api: Api) -> None:
        tenant, admin = api.tenant(), api.system_admin()
        used(tenant)
        plain = api.call("GET", "/prometheus", admin)
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        wanted = {"Accept": OPENMETRICS}
        modern = api.call("GET", "/prometheus", admin, headers=wanted)
        assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = list(parse_openmetrics(modern.text))
        assert {family.type for family in families} == {"counter", "gauge", "histogram"}
        assert all(family.documentation for family in families)
        assert all(family.name.startswith("vecmeter_") for family in families)
        found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
        volatile = ("vecmeter_database_", "vecmeter_key_", "vecmeter_build")
        same = {name: value for name, value in samples(plain.text).items() if not name[0].startswith(volatile)}
        assert same.items() <= found.items()

    def test_labels_are_ids_and_names_and_no_more_than_asked_for(self, api: Api) -> None:
        admin = api.system_admin()
        tenants = [api.tenant() for _ in range(3)]
        for number, tenant in enumerate(tenants):
            for _ in range(number + 1):
                tenant.call("GET")
            tenant.collection("c")
        found = samples(scrape(api, admin, "?top=2"))
        shown = {name[1] for name in found if name[0] == "vecmeter_project_requests_total"}
        assert shown == {tenants[1].project, tenants[2].project}
        assert len({name for name in found if name[0] == "vecmeter_key_requests_total"}) == 2
        assert len({name for name in found if name[0] == "vecmeter_collection_vectors"}) == 2
        assert samples(scrape(api, admin, "?top=0"))["vecmeter_requests_total", "collection"] == 9
        labels = {label for family in parse_text(scrape(api, admin)) for s in family.samples for label in s.labels}
        assert labels == {"operation", "project_id", "api_key_id", "collection", "result", "le", "version"}

    def test_an_accept_header_of_any_kind_is_answered(self, api: Api) -> None:
        admin = api.system_admin()
        for accept in ("*/*", "application/openmetrics-text; version=x", "application/json", ";;,,"):
            list(parse_text(scrape(api, admin, accept=accept)) if "open" not in accept else ())


class TestAccess:
    def test_looking_by_prometheus_is_free_and_json_is_a_request(self, api: Api) -> None:
        admin = api.system_admin()
        for _ in range(3):
            scrape(api, admin)
        assert api.used(admin)["requests"] == 0
        assert api.call("GET", "/admin/metrics", admin).status_code == 200
        assert api.used(admin)["requests"] == 1

    @pytest.mark.parametrize("path", ["/prometheus", "/admin/metrics"])
    def test_only_a_system_admin_sees_it(self, world: World, path: str) -> None:
        api = world.tenant.api
        problem(api.call("GET", path), 401)
        problem(api.call("GET", path, world.tenant.key), 403)
        problem(api.call("GET", path, world.admin), 403)
        confined = api.create_key("system", world.tenant.project, *world.system.key.roles)
        problem(api.call("GET", path, confined), 403)

    @pytest.mark.parametrize("query", ["?top=-1", "?top=1001", "?top=x", "?tops=1"])
    def test_a_wrong_parameter_is_named(self, world: World, query: str) -> None:
        body = problem(world.tenant.api.call("GET", f"/prometheus{query}", world.system), 422)
        assert [error["path"] for error in body["errors"]] == [query[1:].partition("=")[0]]

    def test_it_stands_outside_the_prefix(self, api: Api) -> None:
        problem(api.call("GET", "/v1/prometheus".removeprefix("/v1"), None), 401)
        answer = api.client.request("GET", "/v1/prometheus")
        assert answer.status_code == 404


def test_json_says_the_same_as_the_exposition(api: Api) -> None:
    tenant, admin = api.tenant(), api.system_admin()
    used(tenant)
    found = samples(scrape(api, admin))
    body = api.call("GET", "/admin/metrics", admin).json()
    search = body["by_operation"]["search"]
    assert search["requests"] == found["vecmeter_requests_total", "search"]
    assert sum(search["durations_ms"].values()) == found["vecmeter_request_duration_seconds_count", "search"]
    assert body["projects"][tenant.project]["requests"] == found["vecmeter_project_requests_total", tenant.project]
    assert body["database"]["vectors"] == found["vecmeter_vectors_stored",] == 2
    assert body["collections"][0]["collection"] == "c"
    assert body["cache"].keys() == {"hits", "misses", "stale", "hit_rate"}
    assert body["usage"]["requests"] == 1


def test_an_alert_of_a_limit_is_on_the_metrics_of_the_request_that_wrote_it(
    database_url: str, table_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_api(settings_for(database_url, table_name, metrics_enabled=True)) as api:
        tenant = api.tenant()
        limited = api.create_key(tenant.user, tenant.project, *tenant.key.key.roles, policy={"daily_requests": 5})
        capsys.readouterr()
        for _ in range(5):
            assert tenant.call("GET", key=limited).status_code == 200
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    # At 80 and at 100 percent.
    assert [line.get("LimitAlerts", 0) for line in lines] == [0, 0, 0, 1, 1]
    assert [line["SystemLimitAlerts"] for line in lines[3:]] == [0, 0]
