"""An export is the month's usage, to the micro-dollar: whole or page by page, in each format, over HTTP and in S3."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest

from tests.fixtures.api import Api, World, make_world, open_api, paths, problem, settings_for
from tests.fixtures.ledger import ManualClock
from tests.fixtures.usage import Books, record_at
from vecmeter.errors import BucketUnavailableError, InvalidRequestError
from vecmeter.ledger import export_store
from vecmeter.ledger.export import Export, ExportFormat, Month, usd
from vecmeter.ledger.model import Operation, Role, Status
from vecmeter.ledger.reports import Selection
from vecmeter.tasks import run_task

NOVEMBER = Month.parse("2026-11")
# Of FOCUS 1.2, "Feature level: Mandatory".
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart",
    "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip


def fill(books: Books) -> None:
    """Two months of three keys of two users, partly rolled up, over the ends of both months."""
    clock = books.clock
    clock.now = datetime(2026, 10, 30, 22, 30, tzinfo=UTC)
    number = 0
    while clock.now < datetime(2026, 12, 2, tzinfo=UTC):
        for key in range(3):
            number += 1
            books.write(
                record_at(
                    clock.now,
                    f"{number:x}",
                    api_key_id=f"key_{key}",
                    user_id=f"user-{key % 2}",
                    project_id=f"p{number % 2}",
                    operation=(Operation.SEARCH, Operation.ADD)[number % 3 == 0],
                    status=(Status.SUCCESS, Status.QUOTA_EXCEEDED)[number % 11 == 0],
                    micro_usd=0 if number % 11 == 0 else number * 7919,
                    tokens=0 if number % 11 == 0 else number,
                )
            )
        clock.advance(hours=26, minutes=3)
        if number % 5 == 0:
            books.rollups.roll_up()


@pytest.fixture
def month(books: Books) -> Books:
    fill(books)
    return books


def export(books: Books, form: ExportFormat, selection: Selection | None = None, month: Month = NOVEMBER) -> Export:
    return Export(books.reports, selection or Selection(), month, form)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def whole(of: Export) -> str:
    return of.header + "".join(line.text for line in of.lines())


def sums(books: Books, selection: Selection | None = None, month: Month = NOVEMBER) -> tuple[int, Decimal, int]:
    """Requests, USD and tokens of admitted requests, from the records themselves."""
    chosen = selection or Selection()
    found = [
        record
        for key in ("key_0", "key_1", "key_2")
        for record in books.usage.read([key], month.start, month.end)
        if record.status is not Status.QUOTA_EXCEEDED
        and (chosen.user_ids is None or record.user_id in chosen.user_ids)
        and chosen.project_id in (None, record.project_id)
    ]
    cost = Decimal(sum(record.micro_usd for record in found)) / 1_000_000
    return sum(record.requests for record in found), cost, sum(record.tokens for record in found)


SELECTIONS = [Selection(), Selection(user_ids=("user-0",)), Selection(user_ids=("user-0", "user-1"), project_id="p1")]


class TestSums:
    def test_every_format_sums_up_to_the_records_of_the_month(self, month: Books) -> None:
        for selection in SELECTIONS:
            for text in ("2026-10", "2026-11", "2026-12", "2027-01"):
                self.check(month, selection, Month.parse(text))

    def check(self, books: Books, selection: Selection, month: Month) -> None:
        expected = sums(books, selection, month)
        by_record = rows(whole(export(books, ExportFormat.CSV, selection, month)))
        admitted = [r for r in by_record if r["status"] != "quota_exceeded"]
        assert expected == (
            sum(int(r["requests"]) for r in admitted),
            sum((Decimal(r["cost_usd"]) for r in admitted), Decimal()),
            sum(int(r["tokens"]) for r in admitted),
        )
        lines = whole(export(books, ExportFormat.JSONL, selection, month)).splitlines()
        as_json = [json.loads(line, parse_float=Decimal) for line in lines]
        assert len(as_json) == len(by_record)
        assert sum((r["cost_usd"] for r in as_json), Decimal()) == expected[1]
        focus = rows(whole(export(books, ExportFormat.FOCUS, selection, month)))
        assert expected == (
            sum(int(r["ConsumedQuantity"]) for r in focus),
            sum((Decimal(r["BilledCost"]) for r in focus), Decimal()),
            sum(int(r["x_Tokens"]) for r in focus),
        )

    def test_pages_of_any_size_put_together_are_the_file(self, month: Books) -> None:
        for form in ExportFormat:
            of = export(month, form)
            lines = list(of.lines())
            assert len({line.position for line in lines}) == len(lines) > 50
            for start in (0, 1, 17, len(lines) - 2):
                assert list(of.lines(lines[start].position)) == lines[start + 1 :]

    def test_positions_order_as_lines_do_though_one_name_begins_with_another(self, books: Books) -> None:
        """``a-b`` sorts before ``a|``, and ``a`` before ``a-b``."""
        for number, user in enumerate(("a", "a-b", "a.b", "A")):
            books.write(record_at(books.clock(), "f", user_id=user, api_key_id=f"key_{number}"))
        for form in ExportFormat:
            lines = list(export(books, form).lines())
            assert len(lines) == 4
            for number, line in enumerate(lines):
                assert list(export(books, form).lines(line.position)) == lines[number + 1 :]

    def test_micro_dollars_are_written_exactly(self) -> None:
        assert [usd(n) for n in (0, 5, 1_000_000, 123_456_789_000_001)] == [
            "0.000000", "0.000005", "1.000000", "123456789.000001"
        ]  # fmt: skip


class TestFormats:
    def test_focus_has_its_mandatory_columns_and_one_line_per_day_key_project_and_operation(self, month: Books) -> None:
        found = rows(whole(export(month, ExportFormat.FOCUS)))
        assert set(found[0]) >= MANDATORY
        assert all(name.startswith("x_") or name[0].isupper() for name in found[0])
        keys = [
            (r["ChargePeriodStart"], r["ResourceId"], r["SubAccountId"], json.loads(r["Tags"])["vecmeter/operation"])
            for r in found
        ]
        assert len(set(keys)) == len(keys)
        for row in found:
            assert row["BillingPeriodStart"] == "2026-11-01T00:00:00Z"
            assert row["BillingPeriodEnd"] == "2026-12-01T00:00:00Z"
            start, end = (datetime.fromisoformat(row[f"ChargePeriod{edge}"]) for edge in ("Start", "End"))
            assert end - start == timedelta(days=1)
            assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"] == row["ContractedCost"]
            assert (row["ChargeCategory"], row["BillingCurrency"], row["ServiceCategory"]) == (
                "Usage",
                "USD",
                "Databases",
            )
            assert (row["ChargeClass"], row["ConsumedUnit"], row["PricingUnit"]) == ("", "Requests", "Requests")
            assert row["PricingQuantity"] == row["ConsumedQuantity"]

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
    def test_no_cell_is_a_formula_to_a_spreadsheet(self, books: Books, start: str) -> None:
        evil = f'{start}HYPERLINK("http://x","y")'
        books.write(record_at(books.clock(), "a", collection=evil, namespace=evil, user_id="u", extra={"=k": evil}))
        [row] = rows(whole(export(books, ExportFormat.CSV)))
        assert row["collection"] == row["namespace"] == "'" + evil
        assert all(not value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())
        [line] = whole(export(books, ExportFormat.JSONL)).splitlines()
        assert json.loads(line)["collection"] == evil

    def test_cells_keep_commas_quotes_and_line_breaks(self, books: Books) -> None:
        name = 'a,"b"\r\nc;ü'
        books.write(record_at(books.clock(), "a", collection=name))
        [row] = rows(whole(export(books, ExportFormat.CSV)))
        assert (row["collection"], row["started_at"], row["cost_usd"]) == (name, "2026-11-21T12:00:00.000Z", "0.000005")
        assert row["had_filter"] == "false"

    def test_a_month_whose_records_are_gone_is_exported_in_focus_alone(self, month: Books, clock: ManualClock) -> None:
        expected = sums(month)
        month.settle()
        clock.advance(days=200)
        for key in range(3):
            month.usage.purge(f"user-{key % 2}", f"key_{key}", clock() - timedelta(days=90))
        horizon = clock() - timedelta(days=90)
        for form in (ExportFormat.CSV, ExportFormat.JSONL):
            with pytest.raises(InvalidRequestError) as refused:
                export(month, form).check(horizon)
            assert [violation.path for violation in refused.value.violations] == ["month"]
        of = export(month, ExportFormat.FOCUS)
        of.check(horizon)
        found = rows(whole(of))
        assert sum((Decimal(r["BilledCost"]) for r in found), Decimal()) == expected[1]

    @pytest.mark.parametrize("text", ["2026-13", "2026-1", "26-11", "2026-11-01", "", " 2026-11", "0001-01", "9999-12"])
    def test_what_is_no_month_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="month like"):
            Month.parse(text)


class TestHttp:
    @pytest.fixture
    def used(self, api: Api) -> World:
        world = make_world(api)
        for _ in range(7):
            assert world.tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
            api.clock.advance(seconds=1)
        return world

    def pages(self, api: Api, key: Any, query: str, limit: int) -> Iterator[Any]:
        token = ""
        while True:
            answer = api.call("GET", f"/admin/usage/export?{query}&limit={limit}{token}", key)
            assert answer.status_code == 200, answer.text
            yield answer
            if "x-next-page-token" not in answer.headers:
                return
            token = f"&page_token={answer.headers['x-next-page-token']}"

    @pytest.mark.parametrize("form", ["csv", "jsonl", "focus"])
    def test_pages_put_together_are_the_file_and_sum_up_to_the_counters(self, used: World, form: str) -> None:
        api, key = used.tenant.api, used.tenant.key.key.api_key_id
        query = f"format={form}&api_key_id={key}"
        [answer] = self.pages(api, used.admin, query, 1000)
        media_type = "application/x-ndjson" if form == "jsonl" else "text/csv; charset=utf-8"
        assert answer.headers["content-type"] == media_type
        for limit in (1, 2):
            pages = list(self.pages(api, used.admin, query, limit))
            assert "".join(page.text for page in pages) == answer.text
            assert len(pages) > 1
        if form == "jsonl":
            cost = sum(json.loads(line, parse_float=Decimal)["cost_usd"] for line in answer.text.splitlines())
        else:
            cost = sum(Decimal(r["cost_usd" if form == "csv" else "BilledCost"]) for r in rows(answer.text))
        _, counters = api.runtime.keys.get_with_counters(key)
        assert cost * 1_000_000 == counters[f"C{api.clock():%y%m}"]

    def test_an_export_is_metered_and_recorded(self, used: World) -> None:
        api = used.tenant.api
        answer = api.call("GET", "/admin/usage/export", used.admin)
        record = next(r for r in api.records(used.admin) if r.endpoint == "GET /v1/admin/usage/export")
        assert (record.response_bytes, record.status) == (len(answer.content), Status.SUCCESS)
        assert record.request_id == answer.headers["x-request-id"]

    def test_a_page_ends_where_an_answer_gets_too_long(self, database_url: str, table_name: str) -> None:
        with open_api(settings_for(database_url, table_name, max_response_bytes=4096)) as api:
            world = make_world(api)
            for _ in range(30):
                world.tenant.call("GET", "/c")
            api.clock.advance(seconds=1)
            pages = list(self.pages(api, world.admin, "", 1000))
            assert len(pages) > 1
            assert all(len(page.content) <= 4096 for page in pages)
            assert len(rows("".join(page.text for page in pages))) >= 32

    def test_everybody_gets_what_it_may_see(self, used: World) -> None:
        api, tenant = used.tenant.api, used.tenant
        stranger = api.tenant()
        stranger.call("GET")
        strangers_admin = api.create_key(stranger.user, None, Role.ADMIN)

        def users(key: Any, query: str = "") -> set[str]:
            return {row["user_id"] for row in rows(api.call("GET", f"/admin/usage/export?{query}", key).text)}

        assert users(used.admin) == {tenant.user}
        assert users(strangers_admin) == {stranger.user}
        assert users(used.system) >= {tenant.user, stranger.user}
        assert users(used.system, f"user_id={tenant.user}") == {tenant.user}
        assert users(used.system, f"project_id={stranger.project}") == {stranger.user}
        for query in (
            f"user_id={tenant.user}",
            f"project_id={tenant.project}",
            f"api_key_id={tenant.key.key.api_key_id}",
        ):
            problem(api.call("GET", f"/admin/usage/export?{query}", strangers_admin), 404)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ("month=2026-13", "month"),
            ("month=1999-01", "month"),
            ("month=2020-01", "month"),
            ("format=xlsx", "format"),
            ("limit=0", "limit"),
            ("page_token=!", "page_token"),
            ("colour=red", "colour"),
        ],
    )
    def test_what_is_wrong_is_named(self, used: World, query: str, path: str) -> None:
        assert paths(used.tenant.api.call("GET", f"/admin/usage/export?{query}", used.admin)) == [path]

    def test_a_token_of_another_format_is_none(self, used: World) -> None:
        api = used.tenant.api
        answer = api.call("GET", "/admin/usage/export?limit=1", used.admin)
        token = answer.headers["x-next-page-token"]
        assert paths(api.call("GET", f"/admin/usage/export?format=focus&page_token={token}", used.admin)) == [
            "page_token"
        ]


class TestBucket:
    @pytest.fixture
    def s3(self, dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", dynamodb_endpoint)
        client = boto3.client("s3")
        client.create_bucket(Bucket="exports")
        yield client
        for listed in client.list_objects_v2(Bucket="exports").get("Contents", []):
            client.delete_object(Bucket="exports", Key=listed["Key"])
        client.delete_bucket(Bucket="exports")

    def stored(self, s3: Any) -> dict[str, bytes]:
        listed = s3.list_objects_v2(Bucket="exports").get("Contents", [])
        return {one["Key"]: s3.get_object(Bucket="exports", Key=one["Key"])["Body"].read() for one in listed}

    def test_the_task_stores_both_months_and_doing_it_again_changes_nothing(
        self, s3: Any, database_url: str, table_name: str
    ) -> None:
        with open_api(settings_for(database_url, table_name, export_bucket="exports")) as api:
            world = make_world(api)
            outcome = run_task(api.runtime, "export_usage", {})
            assert outcome["status"] == "ok", outcome
            month = f"{api.clock():%Y-%m}"
            stored = self.stored(s3)
            assert f"usage/{month}/usage-{month}.focus.csv" in stored
            assert len(stored) == len(outcome["objects"]) == 2
            for one in outcome["objects"]:
                content = stored[one["key"]]
                assert (one["bytes"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
                assert one["lines"] == len(rows(content.decode()))
            assert run_task(api.runtime, "export_usage", {})["objects"] == outcome["objects"]
            assert self.stored(s3) == stored
            named = api.call(
                "POST", "/admin/maintenance/export_usage", world.system, json={"month": month, "format": "csv"}
            )
            assert [one["key"] for one in named.json()["objects"]] == [f"usage/{month}/usage-{month}.csv"]
            assert len(rows(self.stored(s3)[f"usage/{month}/usage-{month}.csv"].decode())) >= 2

    def test_a_large_month_goes_in_parts(self, s3: Any, month: Books, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_store, "PART_BYTES", 5 * 1024 * 1024)
        long = [
            replace(record_at(NOVEMBER.start, f"{n:x}"), collection="x" * 300_000, api_key_id="key_9")
            for n in range(40)
        ]
        month.write(*long)
        of = export(month, ExportFormat.JSONL)
        stored = export_store.store("exports", "k", of)
        assert stored.bytes > 10 * 1024 * 1024
        assert self.stored(s3)["k"].decode() == whole(of)
        assert stored.lines == len(whole(of).splitlines())

    def test_an_export_that_fails_leaves_what_was_there_and_no_parts(self, s3: Any, month: Books) -> None:
        of = export(month, ExportFormat.FOCUS)
        export_store.store("exports", "k", of)
        before = self.stored(s3)

        class Dying(Export):
            def lines(self, after: str = "") -> Iterator[Any]:
                yield from list(super().lines(after))[:3]
                raise RuntimeError("dies here")

        with pytest.raises(RuntimeError, match="dies here"):
            export_store.store("exports", "k", Dying(of.reports, of.selection, of.month, of.format))
        assert self.stored(s3) == before
        assert not s3.list_multipart_uploads(Bucket="exports").get("Uploads")

    def test_a_bucket_that_is_missing_makes_the_task_fail_with_a_reason(
        self, s3: Any, month: Books, database_url: str, table_name: str
    ) -> None:
        with pytest.raises(BucketUnavailableError, match="nowhere"):
            export_store.store("nowhere", "k", export(month, ExportFormat.FOCUS))
        with open_api(settings_for(database_url, table_name, export_bucket="nowhere")) as api:
            outcome = run_task(api.runtime, "export_usage", {})
            assert (outcome["status"], outcome["error"]) == ("error", "bucket_unavailable")
