"""Fixtures of the table's contract: a table by every client it is used with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from moto import mock_aws

from tests.fixtures.boto3_client import Boto3Client
from tests.fixtures.faults import FaultyClient
from tests.fixtures.ledger import never_open, wire_to
from vecmeter.ledger.table import Table, create_client, create_table


@pytest.fixture(params=["wire", "boto3", "moto"])
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[FaultyClient, str]]:
    """A client and the name of a table of this test alone."""
    with ExitStack() as parts:
        if request.param == "moto":
            patch = parts.enter_context(pytest.MonkeyPatch.context())
            request.getfixturevalue("aws_environment")
            patch.delenv("AWS_ENDPOINT_URL_DYNAMODB", raising=False)
            parts.enter_context(mock_aws())
            moto = create_client()
            name = "contract"
            create_table(moto, name)
            client: Any = Boto3Client(moto)
        else:
            endpoint = request.getfixturevalue("dynamodb_endpoint")
            name = request.getfixturevalue("table_name")
            client = Boto3Client(create_client()) if request.param == "boto3" else wire_to(endpoint)
        parts.callback(client.close)
        yield FaultyClient(client), name


@pytest.fixture
def pauses() -> list[float]:
    """The seconds the table would have waited."""
    return []


@pytest.fixture
def tried(faulty: tuple[FaultyClient, str]) -> FaultyClient:
    return faulty[0]


@pytest.fixture
def table(faulty: tuple[FaultyClient, str], pauses: list[float]) -> Table:
    client: Any = faulty[0]
    return Table(client, faulty[1], circuit=never_open(), pause=pauses.append)
