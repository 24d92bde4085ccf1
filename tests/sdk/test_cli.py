"""The command ``vecmeter``: every command does what the API does, says it as the API does, and ends with its code."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.fixtures.cli_runs import Cli, Place
from tests.fixtures.clients import ROOT

OPENAPI: dict[str, Any] = json.loads((ROOT / "docs/openapi.json").read_text())


@pytest.fixture
def admin(cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command with a system admin's key, and without a project."""
    monkeypatch.setenv("VECMETER_API_KEY", place.live.admin_key)
    monkeypatch.delenv("VECMETER_PROJECT")
    return cli


def fields_of(schema: str) -> set[str]:
    return set(OPENAPI["components"]["schemas"][schema]["properties"])


def required_of(schema: str) -> set[str]:
    described = OPENAPI["components"]["schemas"][schema]
    required: list[str] = described.get("required", [])
    nullable = {name for name, one in described["properties"].items() if {"type": "null"} in one.get("anyOf", ())}
    return set(required) - nullable


class TestCommands:
    def test_projects(self, admin: Cli, place: Place) -> None:
        name = f"{place.project}-second"
        created = admin("projects", "create", name, "--user", place.project, "--name", "One", "--json").json
        assert (created["project_id"], created["user_id"], created["name"]) == (name, place.project, "One")
        assert admin("projects", "get", name, "--json").json == created
        listed = admin("projects", "list", "--user", place.project, "--json").lines
        assert {one["project_id"] for one in listed} == {place.project, name}
        assert admin("projects", "update", name, "--name", "Two", "--json").json["name"] == "Two"
        assert "name" not in admin("projects", "update", name, "--name", "", "--json").json
        assert admin("projects", "delete", name, "--yes").out == f"Deleted the project {name}.\n"
        assert admin("projects", "get", name).code == 1

    def test_keys(self, admin: Cli, cli: Cli, place: Place) -> None:
        of = ("--user", place.project, "--project", place.project)
        made = admin(
            "keys", "create", *of, "--role", "search", "--name", "k", "--limit", "daily_requests=7", "--json"
        ).json
        id = made["api_key_id"]
        assert cli("quotas", "own", "--key", made["key"], "--json").json["daily_requests"] == 7
        rotated = admin("keys", "rotate", id, "--grace", 60, "--json").json
        assert rotated["api_key_id"] == id
        assert rotated["key"] != made["key"]
        assert admin("keys", "get", id, "--json").json["name"] == "k"
        assert id in {one["api_key_id"] for one in admin("keys", "list", "--project", place.project, "--json").lines}
        assert admin("keys", "revoke", id, "--yes").code == 0
        refused = cli("usage", "--key", rotated["key"])
        assert (refused.code, "401 unauthorized" in refused.err) == (1, True)

    def test_a_key_is_of_a_project_that_was_named_and_not_of_the_environments(
        self, admin: Cli, monkeypatch: Any
    ) -> None:
        monkeypatch.setenv("VECMETER_PROJECT", "elsewhere")
        for options in ((), ("--project", "p", "--no-project")):
            done = admin("keys", "create", "--user", "u", "--role", "search", *options)
            assert (done.code, "either --project ID or --no-project" in done.err) == (2, True)

    def test_quotas_change_what_is_named_and_keep_the_rest(self, admin: Cli, place: Place) -> None:
        scope = ("project", place.project)
        defaults = 'defaults={"key": {"requests_per_minute": 50}}'
        assert (
            admin("quotas", "set", *scope, "daily_requests=100", "daily_cost_usd=0.5", "notes=by hand", defaults).code
            == 0
        )
        changed = admin("quotas", "set", *scope, "daily_requests=200", "notes=none", "--json").json
        assert (changed["daily_requests"], changed["daily_cost_usd"]) == (200, 0.5)
        assert changed["defaults"] == {"key": {"requests_per_minute": 50}}
        assert "notes" not in changed
        assert re.search(r"^daily_requests +project +200 +\d+", admin("quotas", "get", *scope).out, re.MULTILINE)
        assert admin("quotas", "delete", *scope, "--yes").code == 0
        assert "daily_requests" not in admin("quotas", "get", *scope, "--json").json
        collection = ("collection", f"{place.project}:notes")
        assert admin("quotas", "set", *collection, "max_vectors=5").code == 0
        assert admin("quotas", "set", *collection, "max_storage_bytes=1000", "--json").json["max_vectors"] == 5
        assert admin("quotas", "set", *scope, "daily_requests=many").code == 1
        assert admin("quotas", "set", *scope, "daily_requests=1", "daily_requests=2").code == 2

    def test_usage_costs_and_alerts(self, admin: Cli, cli: Cli, place: Place) -> None:
        place.collection.upsert([("a", [1, 1, 1])])
        own = cli("usage", "--key", place.key, "--json").json
        assert own["by_operation"]["upsert"]["total_vectors"] == 1
        of_project = admin("usage", "--all", "--project", place.project, "--hours", 1, "--json").json
        assert of_project["by_operation"]["upsert"] == own["by_operation"]["upsert"]
        assert "total" in admin("usage", "--all", "--user", place.project).out
        assert admin("usage", "--project", place.project).code == 2
        assert cli("costs", "own", "--key", place.key, "--days", 1, "--json").json["today_usd"] > 0
        assert admin("costs", "daily", "--project", place.project, "--days", 2, "--json").json["total_usd"] > 0
        assert place.project in {one["user_id"] for one in admin("costs", "top", "--limit", 100, "--json").lines}
        place.limit(daily_requests=3)
        place.collection.upsert([("a", [1, 1, 1])])
        found = admin("alerts", "--project", place.project, "--json").lines
        assert "daily_requests" in {one["limit_name"] for one in found}

    def test_collections(self, cli: Cli) -> None:
        options = ("--dimension", 4, "--metric", "l2", "--embedder", "none", "--text-search", "english")
        care = ("--deletion-protection", "--tag", "team=search")
        index = ("--index", "hnsw", "--m", 8, "--ef-construction", 40, "--storage", "float", "--ef-search", 50)
        made = cli(
            "collections", "create", "docs", *options, *index, "--filterable", "year:number", *care, "--json"
        ).json
        assert (made["dimension"], made["metric"], made["text_search"]) == (4, "l2", "english")
        assert (made["index"]["m"], made["index"]["storage"], made["index"]["ef_search"]) == (8, "float", 50)
        assert (made["deletion_protection"], made["tags"]) == (True, {"team": "search"})
        assert made["filterable"] == [{"field": "year", "type": "number"}]
        changes = ("--target-recall", 0.9, "--no-text-search", "--no-filterable", "--m", 12)
        changed = cli("collections", "change", "docs", *changes, "--json").json
        assert (changed["target_recall"], changed["index"]["m"], changed["filterable"]) == (0.9, 12, [])
        assert "text_search" not in changed
        assert cli("collections", "delete", "docs", "--yes").code == 1
        assert cli("collections", "change", "docs", "--no-deletion-protection", "--json").json["tags"] == {
            "team": "search"
        }
        assert cli("collections", "change", "docs").code == 2
        assert [one["name"] for one in cli("collections", "list", "--json").lines] == ["docs", "notes"]
        assert cli("collections", "describe", "docs", "--json").json["count"] == 0
        assert cli("collections", "delete", "docs", "--yes", "--json").json == {"status": "ok"}
        assert cli("collections", "describe", "docs").code == 1

    def test_namespaces(self, cli: Cli, place: Place) -> None:
        place.collection.upsert([("a", [1, 1, 1])], namespace="x")
        assert cli("collections", "namespaces", "notes", "--json").lines == [{"namespace": "x", "count": 1}]
        assert cli("collections", "delete-namespace", "notes", "x", "--yes", "--json").json["deleted"] == 1
        assert cli("collections", "delete-namespace", "notes", "x", "--yes").code == 1

    def test_search_and_recall(self, cli: Cli, place: Place) -> None:
        place.collection.upsert([("a", [1, 0, 0], {"n": 1}), ("b", [0, 1, 0], {"n": 2}), ("c", [0, 1, 1], {"n": 3})])

        def found(*options: object) -> list[str]:
            return [match["id"] for match in cli("search", "notes", *options, "--json").json["matches"]]

        assert found("--vector", "[0, 1, 0.1]") == ["b", "c", "a"]
        assert found("--vector", "AACAPwAAAAAAAAAA", "--top-k", 1) == ["a"]
        assert found("--id", "b", "--filter", '{"n": {"$gt": 2}}', "--exact") == ["c"]
        assert found("--id", "b", "--offset", 1, "--min-score", 0.5) == ["c"]
        assert found("--vector", "[1, 1, 1]", "--namespace", "x") == []
        shown = cli("search", "notes", "--id", "a", "--include", "vector", "--debug", "--top-k", 1).out
        assert "[1.0, 0.0, 0.0]" in shown
        assert "plan" in shown
        for wrong in ((), ("--id", "a", "--text", "b"), ("--vector", "[1, true]"), ("--id", "a", "--filter", "[]")):
            assert cli("search", "notes", *wrong).code == 2
        assert cli("recall", "notes", "--sample", 3, "--top-k", 2, "--json").json["recall"] == 1

    def test_maintenance(self, admin: Cli, place: Place) -> None:
        assert admin("maintenance", "stats", "--json").json["database"]["pgvector"]
        of = ("--project", place.project, "--collection", "notes")
        outcome = admin("maintenance", "start", "vacuum_analyze", *of, "--force", "--json").json
        assert (outcome["task"], outcome["status"]) == ("vacuum_analyze", "ok")
        runs = admin("maintenance", "runs", "--task", "vacuum_analyze", *of, "--json").lines
        assert [run["status"] for run in runs] == ["ok"]
        assert admin("maintenance", "start", "fly").code == 1

    def test_a_task_that_ends_in_an_error_is_1_with_its_outcome(self, cli: Cli) -> None:
        outcome = {"task": "vacuum_analyze", "status": "error", "message": "failed", "error": "no room"}
        with answering("application/json", json.dumps(outcome)) as url:
            done = cli("maintenance", "start", "vacuum_analyze", "--json", "--url", url)
        assert (done.code, done.json["error"]) == (1, "no room")

    @pytest.mark.parametrize(
        ("arguments", "schema"),
        [
            (("projects", "list"), "ProjectOut"),
            (("keys", "list"), "KeyOut"),
            (("usage", "--all"), "UsageOut"),
            (("costs", "own"), "CostsOut"),
            (("costs", "daily"), "DailyCostsOut"),
            (("costs", "top"), "UserCostsOut"),
            (("quotas", "own"), "QuotaReportOut"),
            (("quotas", "get", "system", "system"), "PolicyOut"),
            (("maintenance", "runs"), "RunOut"),
        ],
    )
    def test_json_has_the_fields_of_the_api(self, admin: Cli, arguments: tuple[str, ...], schema: str) -> None:
        admin("maintenance", "stats")
        for shown in admin(*arguments, "--json").lines if _is_list(arguments) else [admin(*arguments, "--json").json]:
            assert shown.keys() <= fields_of(schema)
            assert shown.keys() >= required_of(schema)

    @pytest.mark.parametrize(
        ("arguments", "schema"),
        [
            (("collections", "describe", "notes"), "CollectionOut"),
            (("collections", "list"), "CollectionItem"),
            (("recall", "notes"), "RecallAnswer"),
        ],
    )
    def test_json_of_a_project_has_the_fields_of_the_api(
        self, cli: Cli, arguments: tuple[str, ...], schema: str
    ) -> None:
        for shown in cli(*arguments, "--json").lines if _is_list(arguments) else [cli(*arguments, "--json").json]:
            assert shown.keys() >= required_of(schema)
            assert shown.keys() - {"usage"} <= fields_of(schema)


def _is_list(arguments: tuple[str, ...]) -> bool:
    return arguments[1] in ("list", "top", "runs")


class TestEnds:
    def test_a_refusal_is_1_with_the_problem(self, cli: Cli) -> None:
        done = cli("collections", "create", "Bad Name", "--dimension", 0.5)
        assert done.code == 2
        done = cli("collections", "create", "bad name", "--dimension", 3)
        assert (done.code, done.out) == (1, "")
        first, *fields = done.err.splitlines()
        assert first.startswith("vecmeter: The request does not validate (422 invalid_request): ")
        assert [line.partition(":")[0] for line in fields] == ["  name"]
        problem = cli("collections", "create", "bad name", "--dimension", 3, "--json")
        assert (problem.code, problem.out) == (1, "")
        assert problem.problem["errors"][0]["path"] == "name"

    def test_a_limit_is_3_with_the_policies(self, cli: Cli, place: Place) -> None:
        key = place.live.key(place.project, quota={"daily_requests": 0})
        done = cli("collections", "list", "--key", key)
        assert done.code == 3
        assert "\n  daily_requests (key): 0 of 0 used, resets at " in done.err
        assert cli("collections", "list", "--key", key, "--json").problem["violated_policies"][0]["limit"] == 0

    def test_no_answer_is_4(self, cli: Cli) -> None:
        done = cli("--url", "http://127.0.0.1:9", "--timeout", 0.2, "usage")
        assert (done.code, len(done.err.splitlines())) == (4, 1)
        assert cli("--url", "http://127.0.0.1:9", "--timeout", 0.2, "usage", "--json").problem["code"] == "no_answer"

    def test_an_address_that_is_no_vecmeter_is_4(self, cli: Cli) -> None:
        with answering("text/html", "<p>Welcome") as url:
            done = cli("usage", "--url", url)
        assert done.code == 4
        assert len(done.err.splitlines()) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ("fly",),
            ("search",),
            ("search", "notes", "--top-k", "none"),
            ("usage", "--url", "ftp://x"),
            ("--fly",),
            ("keys",),
        ],
    )
    def test_wrong_usage_is_2_in_one_line(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        done = cli(*arguments)
        assert done.code == 2
        assert done.err
        if arguments != ("keys",):
            assert len(done.err.splitlines()) == 1
            assert cli(*arguments, "--json").problem["type"].startswith("urn:vecmeter:cli:")

    def test_a_missing_project_key_or_address_is_named(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("VECMETER_PROJECT", "VECMETER_API_KEY", "VECMETER_URL"):
            monkeypatch.delenv(name)
            done = cli("collections", "list")
            assert (done.code, name in done.err) == (2, True)
            monkeypatch.setenv(name, "http://127.0.0.1:9" if name == "VECMETER_URL" else "vm_x")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("projects", "delete", "p"),
            ("keys", "revoke", "k"),
            ("quotas", "delete", "user", "u"),
            ("collections", "delete", "notes"),
            ("collections", "delete-namespace", "notes", "x"),
        ],
    )
    def test_nothing_is_deleted_unasked_where_nobody_can_be_asked(
        self, cli: Cli, place: Place, arguments: tuple[str, ...]
    ) -> None:
        done = cli(*arguments, "--url", "http://127.0.0.1:9")
        assert (done.code, "say --yes" in done.err) == (2, True)

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
    def test_at_a_terminal_it_asks(
        self, cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
    ) -> None:
        monkeypatch.setattr("sys.stdin", _Terminal([answer]))
        assert cli("collections", "delete", "notes").code == code
        assert (cli("collections", "describe", "notes").code == 0) == (code == 1)


class _Terminal:
    """Somebody at a terminal who says these lines."""

    def __init__(self, lines: list[str]) -> None:
        self._lines: Iterator[str] = iter(lines)

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1) -> str:
        return next(self._lines)

    def fileno(self) -> int:
        raise OSError


@contextmanager
def answering(media_type: str, content: str) -> Iterator[str]:
    """The address of a server that answers everything with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(content.encode())

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
