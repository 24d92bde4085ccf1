"""One deployment for all end-to-end tests: built, deployed, with the operator's first key."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.e2e.cloud import Cloud
from tests.e2e.deployment import Deployment, build, deploy
from vecmeter_local.postgres import PostgresServer


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sam-build")
    build(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp("cloud") / "aws")
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.stop()
        cloud.wait_until_gone()
        # Each process of a function unpacked the layer: pytest would keep a gigabyte. The log stays.
        shutil.rmtree(cloud.folder / "tmp")


@pytest.fixture(scope="session")
def parameters(cloud: Cloud, postgres_server: PostgresServer) -> dict[str, str]:
    """The template's: a secret of an empty database of this run in place of the database stack; else its defaults.
    Functions are local processes here, so they reach the database's Unix socket."""
    name = f"e2e_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    reached = conninfo_to_dict(postgres_server.dsn(name))
    secret = {"host": reached["host"], "dbname": name, "username": reached["user"], "password": "none"}
    created = cloud.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(secret))
    return {"DatabaseSecretArn": created["ARN"], "AlertEvents": "true"}


@pytest.fixture(scope="session")
def fresh_deployment(cloud: Cloud, build_folder: Path, parameters: dict[str, str]) -> Iterator[Deployment]:
    """As `sam deploy` leaves it."""
    deployment = deploy(cloud, build_folder, parameters)
    yield deployment
    deployment.http.close()


@dataclass(frozen=True, slots=True)
class Operator:
    """A deployment that is ready, and the key of its system admin."""

    deployment: Deployment
    key: str


@pytest.fixture(scope="session")
def operator(fresh_deployment: Deployment) -> Operator:
    """What docs/deploy.md has an operator do after the first deployment."""
    created = fresh_deployment.run_task_by_sam("create_admin_key")
    assert created["status"] == "ok"
    return Operator(fresh_deployment, created["key"])
