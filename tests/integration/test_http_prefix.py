"""The prefix of the business routes."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from admin_function.routes import router
from vecmeter.http.app import create_app
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
