"""Storage is billed once per project and hour, and where everything else that is billed can be seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures.api import Api, Tenant
from vecmeter.ledger.model import Role
from vecmeter.ledger.storage_bills import storage_key
from vecmeter.tasks import run_task
from vecmeter.vectors.storage import bytes_by_project

# A GB costs a dollar an hour.
PRICE = 10**12
LIST = {"search": 0, "request": 0, "vector_written": 0, "token": 0, "storage_gb_hour": PRICE}


@pytest.fixture
def tenants(api: Api) -> tuple[Tenant, Tenant]:
    """Two projects with vectors, and a third without a collection."""
    one, two, _ = api.tenant(), api.tenant(), api.tenant()
    for tenant, count in ((one, 200), (two, 50)):
        tenant.collection("c")
        tenant.collection("d")
        tenant.write("/c", *[{"id": str(number), "vector": [1, 0, number]} for number in range(count)])
        tenant.write("/d", {"id": "a", "vector": [1, 0, 0], "document": "twelve chars"})
    return one, two


def price(api: Api, **changes: int) -> None:
    assert api.call("PUT", "/admin/prices", api.system_admin(), json=LIST | changes).status_code == 200


def bill(api: Api) -> int:
    outcome = run_task(api.runtime, "bill_storage", {})
    assert outcome["status"] == "ok", outcome
    count: int = outcome["projects"]
    return count


def billed(tenant: Tenant) -> list[int]:
    """Micro-USD of each of the project's hours, the newest first."""
    api = tenant.api
    admin = api.create_key(tenant.user, None, Role.ADMIN)
    api.clock.advance(seconds=1)
    answer = api.call("GET", f"/admin/usage/records?project_id={tenant.project}&operation=collection", admin)
    records = [record for record in answer.json()["records"] if record["endpoint"] == "storage"]
    assert all(record["api_key_id"] == storage_key(tenant.project) for record in records)
    return [round(record["cost_usd"] * 1_000_000) for record in records]


def expected(api: Api, tenant: Tenant) -> int:
    """A GB-hour is 1 USD here, rounded up to the micro-dollar."""
    return -(-bytes_by_project(api.runtime.database)[tenant.project] // 1000)


def test_each_project_is_billed_once_an_hour_however_often_it_is_tried(
    api: Api, tenants: tuple[Tenant, Tenant]
) -> None:
    price(api)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: bill(api), range(8))) == {2}
    first = [expected(api, tenant) for tenant in tenants]
    assert first[0] > first[1] > 0
    api.clock.advance(minutes=40)
    assert bill(api) == 2
    assert [billed(tenant) for tenant in tenants] == [[first[0]], [first[1]]]
    api.clock.advance(minutes=30)
    bill(api)
    assert [billed(tenant) for tenant in tenants] == [[first[0]] * 2, [first[1]] * 2]


def test_the_first_bill_of_an_hour_stands_and_the_next_hour_is_billed_by_what_is_stored_then(
    api: Api, tenants: tuple[Tenant, Tenant]
) -> None:
    price(api)
    bill(api)
    before = expected(api, tenants[0])
    tenants[0].write("/c", *[{"id": f"more-{number}", "vector": [1, 1, number]} for number in range(100)])
    bill(api)
    api.clock.advance(hours=1)
    bill(api)
    after = expected(api, tenants[0])
    assert after > before
    assert billed(tenants[0]) == [after, before]


def test_it_is_in_the_usage_and_costs_of_project_and_user(api: Api, tenants: tuple[Tenant, Tenant]) -> None:
    price(api)
    bill(api)
    tenant = tenants[0]
    admin = api.create_key(tenant.user, None, Role.ADMIN)
    api.clock.advance(seconds=1)
    cost = expected(api, tenant) / 1_000_000
    detailed = api.call("GET", f"/admin/usage/detailed?project_id={tenant.project}", admin).json()
    writes = sum(record.micro_usd for record in api.records(tenant.key)) / 1_000_000
    assert detailed["cost_usd"] == pytest.approx(cost + writes)
    assert detailed["total_requests"] == sum(record.requests for record in api.records(tenant.key))
    daily = api.call("GET", f"/admin/costs/daily?user_id={tenant.user}", admin).json()
    assert daily["total_usd"] == pytest.approx(cost + writes)


def test_storage_without_a_price_is_not_billed_and_not_asked_for(
    api: Api, tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecmeter.tasks.bytes_by_project", None)
    assert bill(api) == 0
    assert [billed(tenant) for tenant in tenants] == [[], []]


def test_a_byte_is_billed_as_a_micro_dollar_at_least(api: Api, tenants: tuple[Tenant, Tenant]) -> None:
    price(api, storage_gb_hour=1)
    bill(api)
    assert [billed(tenant) for tenant in tenants] == [[1], [1]]
