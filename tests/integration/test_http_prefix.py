"""The prefix of the business routes."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from admin_function.routes import router
from vecmeter.errors import SettingsError
from vecmeter.http.app import create_app
from vecmeter.http.pinecone.errors import ELSEWHERE, ROOT
from vecmeter.runtime import build_runtime
from vecmeter.settings import Settings


@pytest.mark.parametrize("prefix", ["", "/api/v7"])
def test_the_prefix_is_a_setting_and_health_has_none(
    prefix: str, database_url: str, table_name: str, aws_environment: None
) -> None:
    environment = {"DATABASE_URL": database_url, "TABLE_NAME": table_name, "API_PREFIX": prefix}
    runtime = build_runtime(Settings.from_environment(environment))
    with TestClient(create_app(runtime, router, service="test")) as client:
        # Without a key: the route is there, and asks for one.
        assert client.get(f"{prefix}/quota/me").status_code == 401
        assert client.get("/v1/quota/me").status_code == 404
        assert client.get("/health").status_code == 200
    runtime.close()


@pytest.mark.parametrize("path", [ROOT, *ELSEWHERE])
def test_the_prefix_is_no_path_of_pinecones_wire_whose_errors_are_others(path: str) -> None:
    required = {"DATABASE_URL": "postgresql://nowhere", "TABLE_NAME": "ledger"}
    for prefix in (path, f"{path}/v1"):
        with pytest.raises(SettingsError, match="API_PREFIX"):
            Settings.from_environment(required | {"API_PREFIX": prefix})
    assert Settings.from_environment(required | {"API_PREFIX": f"{path}-api"}).api_prefix == f"{path}-api"
