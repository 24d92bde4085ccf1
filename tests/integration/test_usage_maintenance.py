"""Maintenance of the ledger: the dead are found though nobody uses their key; counters are the sum of records."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, settings_for
from tests.fixtures.faults import Fault, FaultyClient, at
from tests.fixtures.ledger import Instance, ManualClock
from tests.fixtures.usage import record_at
from vecmeter.errors import InvalidRequestError
from vecmeter.ledger.demands import Demand
from vecmeter.ledger.keys import CreatedKey, parse_secret
from vecmeter.ledger.model import Cost, Operation, Role, Status
from vecmeter.ledger.reconciliation import Reconciler
from vecmeter.ledger.reports import Selection, UsageReports
from vecmeter.ledger.rollups import Rollups
from vecmeter.ledger.totals import KeyName
from vecmeter.runtime import Runtime
from vecmeter.tasks import SCHEDULE, TASKS, run_task


@pytest.fixture
def runtime(api: Api) -> Runtime:
    return api.runtime


@pytest.fixture
def tenant(api: Api) -> Tenant:
    """A tenant with a collection ``c``; what set it up is recorded."""
    tenant = api.tenant()
    tenant.collection("c")
    return tenant


def demand(key: CreatedKey, project: str, request_id: str) -> Demand:
    return Demand(
        request_id=request_id,
        credential=parse_secret(key.secret),
        role=Role.SEARCH,
        operation=Operation.SEARCH,
        endpoint="POST /search",
        project_id=project,
        request_bytes=1,
        cost=Cost(tokens=4, micro_usd=9),
    )


def total(runtime: Runtime, key: CreatedKey) -> Any:
    now = runtime.clock()
    name = KeyName(key.key.user_id, key.key.api_key_id)
    return runtime.reports.summary(Selection(key=name), now - timedelta(days=40), now).total


class TestTheDead:
    def test_a_dead_request_of_a_key_that_was_active_is_accounted_for_by_the_next_run(
        self, api: Api, runtime: Runtime, tenant: Tenant
    ) -> None:
        runtime.ledger.admit(demand(tenant.key, tenant.project, "dead"))
        assert run_task(runtime, "reap_dead_holds", {})["buried"] == 0, "it may be alive yet"
        api.clock.advance(seconds=runtime.settings.hold_seconds + 1)
        assert run_task(runtime, "reap_dead_holds", {})["buried"] == 1
        [record] = [r for r in api.records(tenant.key) if r.status is Status.UNKNOWN]
        assert (record.request_id, record.tokens, record.micro_usd) == ("dead", 4, 9)
        assert run_task(runtime, "reap_dead_holds", {})["buried"] == 0

    def test_a_dead_request_of_a_key_without_any_record_is_found_by_the_daily_sweep(
        self, api: Api, runtime: Runtime, tenant: Tenant
    ) -> None:
        key = api.create_key(tenant.user, tenant.project, Role.SEARCH)
        runtime.ledger.admit(demand(key, tenant.project, "dead"))
        api.clock.advance(hours=5)
        assert run_task(runtime, "reap_dead_holds", {})["buried"] == 0
        assert run_task(runtime, "sweep_dead_holds", {})["buried"] == 1
        assert [record.status for record in api.records(key)] == [Status.UNKNOWN]

    def test_looking_for_the_dead_reads_active_keys_only(self, api: Api, runtime: Runtime, tenant: Tenant) -> None:
        for _ in range(5):
            api.create_key(tenant.user, tenant.project, Role.SEARCH)
        assert run_task(runtime, "reap_dead_holds", {})["keys"] == 1
        api.clock.advance(hours=2)
        run_task(runtime, "roll_up_usage", {})
        assert run_task(runtime, "reap_dead_holds", {})["keys"] == 0
        assert run_task(runtime, "sweep_dead_holds", {})["keys"] == 6

    def test_a_request_buried_after_its_hour_was_closed_is_in_the_roll_up(
        self, api: Api, runtime: Runtime, tenant: Tenant
    ) -> None:
        runtime.ledger.admit(demand(tenant.key, tenant.project, "dead"))
        api.clock.advance(hours=2)
        run_task(runtime, "roll_up_usage", {})
        before = total(runtime, tenant.key).requests
        run_task(runtime, "sweep_dead_holds", {})
        assert total(runtime, tenant.key).requests == before + 1
        api.clock.advance(hours=2)
        run_task(runtime, "roll_up_usage", {})
        assert not list(runtime.usage.activity.marks())
        assert total(runtime, tenant.key).requests == before + 1 == api.used(tenant.key)["requests"]


class TestTasks:
    def test_usage_is_rolled_up_by_the_schedule_and_told_in_figures(
        self, api: Api, runtime: Runtime, tenant: Tenant
    ) -> None:
        assert run_task(runtime, "roll_up_usage", {})["hours"]["open"] == 1
        api.clock.advance(hours=2)
        outcome = run_task(runtime, "roll_up_usage", {})
        assert (outcome["status"], outcome["hours"]["closed"]) == ("ok", 1)
        assert total(runtime, tenant.key).requests == 1

    def test_all_of_it_is_scheduled(self) -> None:
        assert {"roll_up_usage", "reap_dead_holds", "sweep_dead_holds", "reconcile_counters", "export_usage"} <= set(
            SCHEDULE
        )

    @pytest.mark.parametrize(
        ("task", "options", "path"),
        [
            ("roll_up_usage", {"month": "2026-11"}, "month"),
            ("export_usage", {"collection": "c"}, "collection"),
            ("export_usage", {"month": "2026-13"}, "month"),
            ("export_usage", {"format": "xls"}, "format"),
        ],
    )
    def test_an_option_that_is_none_or_wrong_is_named(
        self, database_url: str, table_name: str, task: str, options: dict[str, str], path: str
    ) -> None:
        from vecmeter.runtime import build_runtime

        with_bucket = build_runtime(settings_for(database_url, table_name, export_bucket="bucket"))
        with pytest.raises(InvalidRequestError) as refused:
            run_task(with_bucket, task, options)
        assert [violation.path for violation in refused.value.violations] == [path]
        with_bucket.close()
        assert task in TASKS

    def test_without_a_bucket_nothing_is_exported_and_it_says_so(self, runtime: Runtime) -> None:
        outcome = run_task(runtime, "export_usage", {})
        assert (outcome["status"], outcome["objects"]) == ("ok", [])
        assert "EXPORT_BUCKET" in outcome["message"]


class TestReconciliation:
    @pytest.fixture
    def reconciler(self, instance: Instance) -> Reconciler:
        rollups = Rollups(instance.table, instance.usage, instance.clock, 800)  # type: ignore[arg-type]
        reports = UsageReports(rollups, instance.usage, instance.clock)
        return Reconciler(instance.keys, reports, instance.clock)

    def test_counters_are_the_sum_of_the_records_of_both_windows(
        self, instance: Instance, reconciler: Reconciler, clock: ManualClock, faults: FaultyClient
    ) -> None:
        key = instance.create_key()
        for _ in range(20):  # over midnight and the end of the month
            instance.request(key, tokens=7)
            clock.advance(hours=13)
        faults.fail(*at(2, Fault.LOST_ANSWER, Fault.LOST_ANSWER))
        instance.request(key, tokens=7)
        faults.recover()
        result = reconciler.reconcile()
        assert (result.compared, result.busy, result.differences) == (1, 0, [])

    def test_a_counter_that_is_off_is_told_with_both_numbers_and_left_alone(
        self, instance: Instance, reconciler: Reconciler
    ) -> None:
        keys = [instance.create_key() for _ in range(2)]
        for key in keys:
            instance.request(key, tokens=7)
        item = instance.item(keys[1])
        instance.table.put(item | {"t261121": 6})
        [found] = reconciler.reconcile().differences
        assert found.api_key_id == keys[1].key.api_key_id
        assert (found.window, found.amount, found.counter, found.records) == ("261121", "tokens", 6, 7)
        assert instance.item(keys[1])["t261121"] == 6

    def test_a_record_that_is_lost_is_found(self, instance: Instance, reconciler: Reconciler) -> None:
        key = instance.create_key()
        instance.request(key, tokens=7)
        [record] = instance.table.query(f"R#{key.key.api_key_id}", between=("0", "9"))
        instance.table.delete(record["pk"], record["sk"])
        found = {(difference.window, difference.amount) for difference in reconciler.reconcile().differences}
        assert {("261121", "requests"), ("2611", "requests"), ("261121", "tokens"), ("2611", "tokens")} <= found

    def test_what_is_billed_to_no_key_has_no_counters_and_is_purged_all_the_same(
        self, api: Api, runtime: Runtime
    ) -> None:
        api.create_key("user-1", None, Role.SEARCH)
        runtime.usage.keep(record_at(api.clock(), "a", api_key_id="key_storage0", requests=0, micro_usd=7))
        result = Reconciler(runtime.keys, runtime.reports, runtime.clock).reconcile()
        assert (result.compared, result.busy, result.differences) == (0, 0, [])
        assert run_task(runtime, "reap_dead_holds", {}) | {"buried": 0, "keys": 0} == run_task(
            runtime, "reap_dead_holds", {}
        )
        api.clock.advance(days=runtime.settings.usage_retention_days, hours=2)
        run_task(runtime, "roll_up_usage", {})
        assert run_task(runtime, "purge_usage_records", {})["deleted"] == 1

    def test_a_key_with_requests_in_flight_is_not_judged(self, instance: Instance, reconciler: Reconciler) -> None:
        key = instance.create_key()
        instance.request(key)
        hold = instance.admit(key, tokens=50)
        result = reconciler.reconcile()
        assert (result.compared, result.busy, result.differences) == (0, 1, [])
        with hold:
            pass
        assert reconciler.reconcile().compared == 1

    def test_a_key_that_changes_while_its_records_are_summed_is_looked_at_again(
        self, instance: Instance, another: Instance, reconciler: Reconciler, faults: FaultyClient
    ) -> None:
        key = instance.create_key()
        instance.request(key)
        read = [0]

        def choose(name: str) -> None:
            read[0] += name == "get_item"
            if name == "query" and read[0] == 1:  # the counters are read, the records are not
                read[0] += 1
                choosing, faults.choose = faults.choose, lambda _: None
                another.request(key)
                faults.choose = choosing

        faults.choose = choose
        result = reconciler.reconcile()
        assert (result.compared, result.differences) == (1, [])
